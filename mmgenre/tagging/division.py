"""How the rows of a part are divided into units of about the same cost."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Most rows of a unit; fewer with images, whose pixels take memory.
_ROWS_PER_UNIT, _ROWS_PER_UNIT_WITH_IMAGES = 8192, 512
# Cost of a unit in characters (a row has a fixed cost, and plots are truncated): low enough that many actors finish at
# about the same time, high enough that Ray Data does not track too many blocks.
_UNITS_PER_PART, _COST_PER_UNIT = 32, (50_000, 1_000_000)
_COST_OF_A_ROW, _MOST_CHARACTERS = 50, 2500


@dataclass(frozen=True)
class Division:
    """Divides the rows of a part into units.

    Args:
        rows_per_unit: units of this size, in the order of the source; None: units of about the same cost, the longest
            plots first.
        has_images: whether the rows have images.
    """

    rows_per_unit: int | None
    has_images: bool

    def __call__(self, rows: pa.Table) -> tuple[pa.Table, list[int]]:
        """The rows in the order of their units, and the number of rows of each unit."""
        if self.rows_per_unit:
            return rows, [
                min(self.rows_per_unit, len(rows) - start) for start in range(0, len(rows), self.rows_per_unit)
            ]
        if not self.has_images:
            rows = _longest_first(rows)
        max_rows = _ROWS_PER_UNIT_WITH_IMAGES if self.has_images else _ROWS_PER_UNIT
        return rows, _unit_sizes(_costs(rows), max_rows)


def _costs(rows: pa.Table) -> np.ndarray:
    """Cost of each row in characters, shape (N,)."""
    costs = np.full(len(rows), _COST_OF_A_ROW)
    if "plot" in rows.column_names:
        costs += np.minimum(pc.utf8_length(rows["plot"]).fill_null(0).to_numpy(), _MOST_CHARACTERS)
    return costs


def _longest_first(rows: pa.Table) -> pa.Table:
    """Rows by descending cost: plots of similar length need little padding, and long ones do not come last."""
    return rows.take(pa.array(np.argsort(-_costs(rows), kind="stable")))


def _unit_sizes(costs: np.ndarray, max_rows: int) -> list[int]:
    """Number of rows of each unit of a part, such that all units cost about the same."""
    total = np.cumsum(costs)
    cost_per_unit = int(np.clip(costs.sum() / _UNITS_PER_PART, *_COST_PER_UNIT))
    sizes, start = [], 0
    while start < len(costs):
        spent = total[start - 1] if start else 0
        size = int(np.clip(np.searchsorted(total, spent + cost_per_unit) - start, 1, max_rows))
        sizes.append(min(size, len(costs) - start))
        start += sizes[-1]
    return sizes
