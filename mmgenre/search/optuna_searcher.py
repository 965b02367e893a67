"""Where Ray Tune gets points from: a list, and after it a searcher that learns from scores."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.search import Searcher

from mmgenre.errors import InputError
from mmgenre.search.records import TRIAL
from mmgenre.search.space import Choice, Distribution, Integers, LogUniform, Point, name_of


class Listed(Searcher):
    """Suggests listed points in their order, then those of another searcher, which hears the scores of all.

    Args:
        points: each a trial's.
        learning: suggests the points after them; None: there are no more.
    """

    def __init__(self, points: Sequence[Point], learning: "Learning | None" = None):
        super().__init__(metric="score", mode="max")
        self._waiting = deque(points)
        self._learning = learning
        self._running: dict[str, Point] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        """Metric and mode are known."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial's config."""
        if self._waiting:
            point = self._waiting.popleft()
        elif self._learning is not None:
            point = self._learning.suggest(trial_id)
        else:
            return Searcher.FINISHED
        self._running[trial_id] = point
        return config_of(point)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Let the learning searcher hear of it."""
        point = self._running.pop(trial_id)
        if self._learning is not None and result is not None and not error:
            self._learning.hear(trial_id, point, result["score"])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what there is to know is in the trials' records."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called."""


class Population(PopulationBasedTraining):
    """Ray Tune's, but that a trial which takes over from another one keeps its own name."""

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict, dict]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        return config | {TRIAL: config[TRIAL] | {"name": trial.config[TRIAL]["name"]}}, operations


def config_of(point: Point) -> dict[str, Any]:
    """Ray Tune's config of a trial."""
    return {TRIAL: {"name": name_of(point), "point": point}}


class Learning:
    """Optuna's tree-structured Parzen estimator, through Ray Tune's integration.

    Args:
        space: by path.
        seed: of the points.

    Raises:
        InputError: Optuna is not installed.

    Source: Bergstra, Bardenet, Bengio, Kegl 2011, "Algorithms for Hyper-Parameter Optimization".
    """

    def __init__(self, space: Mapping[str, Distribution], seed: int):
        try:
            import optuna  # noqa: PLC0415 - an extra
        except ImportError:
            raise InputError("searcher=optuna: Optuna is not installed; pip install 'mmgenre[optuna]'") from None
        from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415 - needs the extra

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        distributions = {path: _distribution(optuna.distributions, one) for path, one in space.items()}
        self._search = OptunaSearch(distributions, metric="score", mode="max", seed=seed)
        self._suggested: set[str] = set()

    def suggest(self, trial_id: str) -> Point:
        """The next point."""
        self._suggested.add(trial_id)
        return {path: self._decoded(path, value) for path, value in self._search.suggest(trial_id).items()}

    def hear(self, trial_id: str, point: Point, score: float) -> None:
        """Learn from a score, of a point that was suggested here or elsewhere."""
        if trial_id in self._suggested:
            self._search.on_trial_complete(trial_id, {"score": score})
        elif point.keys() == self._space.keys():
            coded = {path: self._coded(path, value) for path, value in point.items()}
            self._search.add_evaluated_point(coded, score)

    def _decoded(self, path: str, value: Any) -> Any:
        return json.loads(value) if isinstance(self._space[path], Choice) else value

    def _coded(self, path: str, value: Any) -> Any:
        return json.dumps(value) if isinstance(self._space[path], Choice) else value


def _distribution(kinds: Any, one: Distribution) -> Any:
    """Optuna's own; its categories must be strings or numbers, so a choice goes there as JSON."""
    if isinstance(one, Choice):
        return kinds.CategoricalDistribution([json.dumps(value) for value in one.values])
    if isinstance(one, Integers):
        return kinds.IntDistribution(one.low, one.high)
    return kinds.FloatDistribution(one.low, one.high, log=isinstance(one, LogUniform))
