"""The thresholds a model's predictions were decided with, where a single one per genre applied to all movies."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mmgenre.tables.manifest import Manifest

_FITTED = (None, "per_genre", "global")


@dataclass(frozen=True)
class ThresholdsInUse:
    """One threshold per genre.

    Args:
        values: shape (9,); None: the decision did not rest on one threshold per genre.
        origin: where they come from, or why there are none.
    """

    values: np.ndarray | None
    origin: str

    @classmethod
    def of(cls, predictions: Manifest, statuses: Iterable[str]) -> "ThresholdsInUse":
        """Read them from the manifest of a PREDICTIONS table; `statuses` are those of the scored movies."""
        config, recorded = predictions.recipe.finish, predictions.notes.get("cutoffs")
        if recorded is None:
            return cls(None, "No thresholds are recorded with the predictions.")
        if config.get("top_k") is not None:
            return cls(
                None, f"No threshold is marked, because only the top {config['top_k']} genres were kept (top_k)."
            )
        thresholds = [recorded[status] for status in statuses if status in recorded]
        if not thresholds or any(other != thresholds[0] for other in thresholds):
            return cls(
                None, "No threshold is marked, because movies without plot or poster have thresholds of their own."
            )
        is_fitted = config.get("thresholds") in _FITTED and not config.get("min_probability")
        origin = "fitted on the validation split" if is_fitted else "given to jobs/tag.py"
        return cls(np.array(thresholds[0]), f"The dot is the threshold in use, {origin}.")
