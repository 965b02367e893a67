"""What a training needs before its first step: the resolved config, the untrained model and the encoded movies."""

from collections.abc import Sequence
from functools import cached_property

import torch

from mmgenre.dataset.rows import Rows, Split, encode, read_split
from mmgenre.errors import InputError
from mmgenre.models import FusionConfig, GenreModel, GradientTrainedConfig, checkpoint, set_graph_edges
from mmgenre.tables.schema import MOVIES
from mmgenre.tables.table import Table
from mmgenre.training import encoding, features
from mmgenre.training.config import TrainConfig
from mmgenre.training.features import FeatureOptions


class TrainingSetup:
    """The inputs of one training, shared by train jobs and the trials of a search.

    Args:
        config: a fusion names the checkpoints it joins; `self.config` holds the configs of their models instead.
        features_dir: folder of the feature cache if `config.features` is null; None: no cache.

    Raises:
        InputError: the dataset or a checkpoint is missing or incomplete.
    """

    def __init__(self, config: TrainConfig, features_dir: str | None = None):
        self.table = Table(config.dataset, MOVIES)
        self.config = self.unresolved_config = config
        cards = {role: checkpoint.read_card(directory) for role, directory in config.tower_checkpoints.items()}
        if isinstance(config.model, FusionConfig):
            model = config.model.resolved({role: card.model for role, card in cards.items()})
            self.config = config.model_copy(update={"model": model})
        self.fingerprints = {"dataset": self.table.manifest.fingerprint}
        self.fingerprints |= {role: card.weights_sha256 for role, card in cards.items()}
        self._features_dir = config.features or features_dir

    @cached_property
    def model(self) -> GenreModel:
        """The untrained model, the same each time it is built; only for families trained by gradient descent.

        Raises:
            InputError: it cannot be built.
        """
        torch.manual_seed(self.config.seed)
        family, rows = self.config.model, read_split(self.table, "train", self.config.model, images=False)
        if isinstance(family, FusionConfig):
            towers = {
                role: checkpoint.load(directory)[1]
                for role, directory in self.unresolved_config.tower_checkpoints.items()
            }
            model: GenreModel = family.join(towers, rows.movies)
        else:
            assert isinstance(family, GradientTrainedConfig)  # noqa: S101 - the caller's duty
            model = family.build(rows.movies)
        set_graph_edges(model, rows.labels)
        return model

    def rows(self, train_splits: Sequence[str] = ("train",)) -> dict[str, Rows]:
        """Unencoded movies, "train" and "val".

        Args:
            train_splits: splits of the table that make up "train".
        """
        family = self.config.model
        return {
            "train": read_split(self.table, train_splits, family),
            "val": read_split(self.table, "val", family, grouped=True),
        }

    def splits(self, train_splits: Sequence[str] = ("train",), initial: str | None = None) -> dict[str, Split]:
        """EncodedMovies movies, "train" and "val"; features of frozen layers come from the cache.

        Args:
            train_splits: splits of the table that make up "train".
            initial: checkpoint folder of the untrained model, to compute features on Ray Data actors; None: compute
                them in this process.

        Raises:
            InputError: no readable movies, or augmented views without a feature cache.
        """
        family, options = self.config.model, self.feature_options
        parts = features.frozen_parts(self.model, family)
        if options is None:
            if any(part.model.num_views for part in parts):
                raise InputError(
                    "features=none: model.augment.views are stored in the feature cache; give features a folder, or "
                    "leave views out"
                )
            parts = []
        has_cached_images = any("image" in part.family.columns for part in parts)
        names = {"train": train_splits, "val": "val"}
        rows = {
            role: read_split(self.table, name, family, images=not has_cached_images, grouped=role == "val")
            for role, name in names.items()
        }
        if options is None or not parts:
            return {role: encode(self.model.encoder, split) for role, split in rows.items()}
        tables = [(part, features.compute(part, self.table, initial, options)) for part in parts]
        return {
            role: encoding.encode_split(tables, self.model, split, augment=role == "train")
            for role, split in rows.items()
        }

    @property
    def encoding_key(self) -> str:
        """Equal for trainings with equal `splits`."""
        return encoding.encoding_key(self.model, self.config.model, self.table, self.feature_options)

    @property
    def feature_options(self) -> FeatureOptions | None:
        """Options of the feature cache; None: there is none."""
        config, directory = self.config, self._features_dir
        if directory is None or directory == "none":
            return None
        return FeatureOptions(directory, config.accelerator, config.precision, config.seed)
