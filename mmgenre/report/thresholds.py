"""The cut-offs by which predictions were decided, where one of each genre decided for all movies."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mmgenre.tables.manifest import Manifest

_FITTED = (None, "per_genre", "global")


@dataclass(frozen=True)
class Cutoffs:
    """What decided.

    Args:
        values: shape (9,); None: no cut-off by itself decided.
        says: where they are from, or why there are none.
    """

    values: np.ndarray | None
    says: str

    @classmethod
    def of(cls, predictions: Manifest, statuses: Iterable[str]) -> "Cutoffs":
        """Those of a PREDICTIONS table; statuses: of the movies that are looked at."""
        asked, recorded = predictions.recipe.finish, predictions.notes.get("cutoffs")
        if recorded is None:
            return cls(None, "The predictions have no cut-offs recorded with them.")
        if asked.get("top_k") is not None:
            return cls(None, f"None is marked: at most the {asked['top_k']} most probable genres were given (top_k).")
        found = [recorded[status] for status in statuses if status in recorded]
        if not found or any(one != found[0] for one in found):
            return cls(None, "None is marked: where plot or poster is missing, other cut-offs decide.")
        is_fitted = asked.get("thresholds") in _FITTED and not asked.get("min_probability")
        origin = "which was fitted on the validation split" if is_fitted else "which jobs/tag.py was given"
        return cls(np.array(found[0]), f"The dot is the cut-off in use, {origin}.")
