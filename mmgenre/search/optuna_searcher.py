"""Points suggested by Optuna, from the scores of the trials so far."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from mmgenre.errors import InputError
from mmgenre.scoring.metrics import Objective
from mmgenre.search.records import BEST_SCORE, TrialRecord
from mmgenre.search.space import Choice, Distribution, Point

_STUDY = "search"
_PRESET = "is_preset"


def optuna_searcher(
    space: Mapping[str, Distribution],
    seed: int,
    objective: Objective,
    finished: Sequence[TrialRecord],
    points: Sequence[Point],
) -> Searcher:
    """Optuna's tree-structured Parzen estimator, through Ray Tune's integration.

    Args:
        space: by dotted path.
        seed: of the suggestions.
        objective: score of the finished trials.
        finished: trials to learn from at once.
        points: points to suggest first.

    Raises:
        InputError: Optuna is not installed.

    Source: Bergstra, Bardenet, Bengio, Kegl 2011, "Algorithms for Hyper-Parameter Optimization".
    """
    optuna = _import_optuna()
    from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415 - needs Optuna

    suggest = functools.partial(_suggest, space)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    memory = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=memory, study_name=_STUDY, direction="maximize")
    for record in finished:
        _enqueue(study, space, record.point)
        trial = study.ask()
        suggest(trial)
        study.tell(trial, record.score(objective))
    for point in points:
        _enqueue(study, space, point)

    class ResumedSearch(OptunaSearch):
        def save(self, checkpoint_path: str) -> None:
            """Save nothing: a resumed search reads the records of its trials."""

    return ResumedSearch(suggest, metric=BEST_SCORE, mode="max", storage=memory, study_name=_STUDY, seed=seed)


def _suggest(space: Mapping[str, Distribution], trial: Any) -> dict[str, Point]:
    """The Ray Tune config of the next trial; Optuna fills in the values of enqueued points by itself."""
    if trial.user_attrs.get(_PRESET):
        return {"point": {}}
    return {"point": {path: distribution.suggest(trial, path) for path, distribution in space.items()}}


def _import_optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415 - an extra
    except ImportError:
        raise InputError("searcher=optuna: Optuna is not installed; pip install 'mmgenre[optuna]'") from None
    return optuna


def _enqueue(study: Any, space: Mapping[str, Distribution], point: Point) -> None:
    values = {path: json.dumps(value) if isinstance(space[path], Choice) else value for path, value in point.items()}
    study.enqueue_trial(values, user_attrs={_PRESET: not point})
