"""What a trial trains: a model before it learned, and movies as it reads them, which trials share."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import ray
import torch

from mmgenre.dataset.rows import Rows, Split, read_split
from mmgenre.models import GenreModel
from mmgenre.tables.schema import MOVIES
from mmgenre.tables.table import Table
from mmgenre.training import features
from mmgenre.training.features import KeptPart
from mmgenre.training.setup import TrainConfig, resolved, splits, tower_cards, towers_of, untrained

_KEPT_IN_MEMORY = 4


class Subject:
    """A trial's model before it learned, and the movies it learns from.

    Args:
        config: of the trial's training.
    """

    def __init__(self, config: TrainConfig):
        self.unresolved = config
        self.config = resolved(config, tower_cards(config))
        self.table = Table(config.dataset, MOVIES)
        self._towers = towers_of(config)

    @cached_property
    def model(self) -> GenreModel:
        """The untrained model, of a family that is trained by gradient."""
        return untrained(self.config, self._towers, self.table)

    @property
    def reading(self) -> str:
        """See features.reading."""
        return features.reading(self.model, self.config.model, self.table, self._plan)

    def splits(self, learned: Sequence[str] = ("train",)) -> dict[str, Split]:
        """See fitting.splits; features are computed in this process."""

        def compute(part: KeptPart) -> Table:
            assert self._plan is not None, "splits() asks for none"  # noqa: S101 - features=none keeps none
            return features.compute(part, self.table, None, self._plan)

        return splits(self.config, self.model, self.table, compute, learned)

    def rows(self, learned: Sequence[str] = ("train",)) -> dict[str, Rows]:
        """The same as they are in the table, for a family that is fitted at once."""
        family = self.config.model
        return {"train": read_split(self.table, learned, family), "val": read_split(self.table, "val", family)}

    @property
    def _plan(self) -> features.Plan | None:
        config = self.config
        if config.features is None or config.features == "none":
            return None
        return features.Plan(config.features, config.accelerator, config.precision, config.seed)


class Preparer:
    """Actor that reads and encodes movies once for all trials that read them alike; one at a time.

    Args:
        num_threads: it may compute with: trials that wait for it leave their CPUs idle.
    """

    def __init__(self, num_threads: int):
        torch.set_num_threads(num_threads)
        self._kept: OrderedDict[str, ray.ObjectRef] = OrderedDict()

    def splits(self, reading: str, settings: dict[str, Any]) -> list[ray.ObjectRef]:
        """A reference, in a list, to what `Subject.splits` of a training's settings returns."""
        return self._found(reading, settings, Subject.splits)

    def rows(self, reading: str, settings: dict[str, Any]) -> list[ray.ObjectRef]:
        """The same for `Subject.rows`."""
        return self._found(reading, settings, Subject.rows)

    def _found(self, reading: str, settings: dict[str, Any], make: Callable[[Subject], Any]) -> list[ray.ObjectRef]:
        if reading not in self._kept:
            self._kept[reading] = ray.put(make(Subject(TrainConfig.parse(settings, "trial"))))
            if len(self._kept) > _KEPT_IN_MEMORY:
                self._kept.popitem(last=False)
        self._kept.move_to_end(reading)
        return [self._kept[reading]]
