"""EncodedMovies movies of a split, with cached features in place of the input of frozen layers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmgenre.dataset.rows import Rows, Split, readable
from mmgenre.models import Batch, EncodedMovies, FamilyConfig, GenreModel
from mmgenre.tables.table import Table
from mmgenre.training.features import FeatureOptions, FrozenPart, assets_digest, frozen_parts, recipe

_VALUES_PER_TOKEN = 256


@dataclass(frozen=True)
class FrozenFeatures:
    """Cached features of K of N movies, with V views each; an encoded part like any other.

    Args:
        name: of the tensor in a batch.
        values: fp16, shape (K, V, ...).
        indices: shape (N,), index of each movie in `values`; -1 for a movie without features.
    """

    name: str
    values: np.ndarray
    indices: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Shape (N,): memory per movie, counted in text tokens."""
        return np.full(len(self.indices), 1 + self.values[:1, :1].size // _VALUES_PER_TOKEN)

    def take(self, rows: np.ndarray) -> "FrozenFeatures":
        """The given movies, in that order."""
        return FrozenFeatures(self.name, self.values, self.indices[rows])

    def batch(self, rows: np.ndarray) -> Batch:
        """Float32, shape (B, ...): a random view of each movie; zeros for movies without features."""
        indices, num_views = self.indices[rows], self.values.shape[1]
        # With a single view nothing is drawn, so that dropout draws the same masks as without a cache.
        views = torch.randint(num_views, (len(rows),)).numpy() if num_views > 1 else np.zeros(len(rows), np.int64)
        batch = np.zeros((len(rows), *self.values.shape[2:]), np.float32)
        known = indices >= 0
        batch[known] = self.values[indices[known], views[known]]
        return {self.name: torch.from_numpy(batch)}


def encode_split(tables: Sequence[tuple[FrozenPart, Table]], model: GenreModel, rows: Rows, *, augment: bool) -> Split:
    """Encode a split; frozen parts are read from their feature tables, all others encode the movies.

    Args:
        tables: the frozen parts of the model, and their features.
        model: the whole model.
        rows: rows of the dataset that the features were computed from.
        augment: whether augmented views may stand in for a movie.
    """
    roles = {part.role for part, _ in tables}
    parts = [part.encoder.encode(rows.movies) for role, part in model.parts.items() if role not in roles]
    parts += [_from_table(part, table, rows, augment=augment) for part, table in tables]
    has_text, has_image = (np.any([getattr(part, name) for part in parts], 0) for name in ("has_text", "has_image"))
    return readable(EncodedMovies(has_text, has_image, tuple(one for part in parts for one in part.inputs)), rows)


def encoding_key(model: GenreModel, family: FamilyConfig, dataset: Table, options: FeatureOptions | None) -> str:
    """Equal for models whose encoded splits are equal, and so can be shared.

    Args:
        model: untrained.
        family: config of the model.
        dataset: a MOVIES table.
        options: of cached features; None: nothing is cached.
    """
    roles = {part.role for part in frozen_parts(model, family)} if options else set()
    parts = {
        role: recipe(part, dataset, options).model_dump()
        if options and role in roles
        else {"settings": part.frozen_settings, "assets": assets_digest(part)}
        for role, part in model.parts.items()
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _from_table(part: FrozenPart, table: Table, rows: Rows, *, augment: bool) -> EncodedMovies:
    has_values = pc.field("values").is_valid() & pc.is_in(pc.field("imdb_id"), rows.ids.combine_chunks())
    features = table.read(["imdb_id", "shape", "values"], filter=has_values)
    indices = pc.index_in(rows.ids, value_set=features["imdb_id"].combine_chunks()).fill_null(-1).to_numpy()
    name = f"{part.role}_frozen" if part.role else "frozen"
    known, none = indices >= 0, np.zeros(len(indices), bool)
    reads_images = "image" in part.family.columns
    return EncodedMovies(
        has_text=none if reads_images else known,
        has_image=known if reads_images else none,
        inputs=(FrozenFeatures(name, _values(features, augment=augment), indices),),
    )


def _values(features: pa.Table, *, augment: bool) -> np.ndarray:
    """Shape (K, V, ...); without `augment` only the first, unaugmented view."""
    if not len(features):
        return np.zeros((0, 1, 1), np.float16)
    shape = features["shape"][0].as_py()
    buffers = (content.as_buffer() for content in features["values"])
    values = np.stack([np.frombuffer(buffer, np.float16).reshape(-1, *shape) for buffer in buffers])
    return values if augment else values[:, :1]
