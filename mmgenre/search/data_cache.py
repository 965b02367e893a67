"""An actor that reads and encodes the movies once for all trials with the same encoding."""

from collections import OrderedDict
from typing import Any, Literal

import ray
import torch

from mmgenre.training.config import TrainConfig
from mmgenre.training.setup import TrainingSetup

Form = Literal["rows", "splits"]
_CAPACITY = 4


class DataCache:
    """Ray actor with a least-recently-used cache of encoded movies in the object store.

    Args:
        num_threads: threads for encoding; trials that wait for it leave their CPUs idle.
    """

    def __init__(self, num_threads: int):
        torch.set_num_threads(num_threads)
        self._cache: OrderedDict[str, ray.ObjectRef] = OrderedDict()

    def get(self, form: Form, key: str, settings: dict[str, Any]) -> list[ray.ObjectRef]:
        """The result of `TrainingSetup.rows` or `TrainingSetup.splits`.

        Args:
            form: which of the two.
            key: equal for trainings whose result is equal.
            settings: fields of the training, to compute it if it is not cached.

        Returns:
            An object reference, in a list so that Ray does not resolve it.
        """
        if key not in self._cache:
            setup = TrainingSetup(TrainConfig.parse(settings, "trial"))
            self._cache[key] = ray.put(setup.rows() if form == "rows" else setup.splits())
            if len(self._cache) > _CAPACITY:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return [self._cache[key]]
