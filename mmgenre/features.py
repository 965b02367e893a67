"""What frozen layers make of each movie: computed once by Ray Data actors, shared by epochs, trainings and trials."""

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

import mmgenre
from mmgenre import checkpoint, cluster, storage
from mmgenre.cluster import Accelerator
from mmgenre.inference import Precision, actor_pool, outputs
from mmgenre.manifest import Manifest, Recipe
from mmgenre.models import Batch, Encoded, Encoder, FamilyConfig, GenreModel, Movies, Part
from mmgenre.progress import Progress
from mmgenre.splits import Rows, Split, is_known, readable
from mmgenre.streams import read, write
from mmgenre.tables import Table, TableWriter

FEATURES = pa.schema(
    [
        pa.field("imdb_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("has_text", pa.bool_(), nullable=False),
        pa.field("has_image", pa.bool_(), nullable=False),
        pa.field("shape", pa.list_(pa.int32())),
        # fp16, the movie as it is and then its changed views, each of that shape; null where frozen layers see nothing.
        pa.field("values", pa.binary()),
    ]
)
# Movies that an actor decodes together, and that one part holds.
_WINDOW = 512
_VALUES_PER_TOKEN = 256
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Frozen:
    """What frozen layers made of N movies, V views of each.

    Args:
        values: fp16, shape (N, V, ...).
    """

    values: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Shape (N,): the cost of each, by its room in memory, in tokens of text."""
        return np.full(len(self.values), 1 + self.values[:1, :1].size // _VALUES_PER_TOKEN)

    def take(self, rows: np.ndarray) -> "Frozen":
        """Some of the movies, in the order of the rows."""
        return Frozen(self.values[rows])

    def batch(self, rows: np.ndarray) -> Batch:
        """`frozen`: float32, shape (B, ...); of each movie any one of its views."""
        num_views = self.values.shape[1]
        # Without a choice nothing is drawn, so that dropout draws what it would without features.
        views = torch.randint(num_views, (len(rows),)).numpy() if num_views > 1 else np.zeros(len(rows), np.int64)
        return {"frozen": torch.from_numpy(self.values[rows, views].astype(np.float32))}


@dataclass(frozen=True)
class Plan:
    """How features are computed, whichever they are.

    Args:
        directory: below which each kind has a folder of its own.
        accelerator: whether on GPUs.
        precision: see autocast.
        seed: of the changed views.
    """

    directory: str
    accelerator: Accelerator
    precision: Precision
    seed: int


def compute(model: GenreModel, family: FamilyConfig, dataset: Table, initial: str, plan: Plan) -> Table:
    """The table of what a model's frozen layers make of the movies to learn from; computed where it is not there yet.

    Args:
        model: whose `frozen_modules` are not empty.
        family: the model's.
        dataset: a MOVIES table.
        initial: checkpoint folder with the model.
        plan: where and how.
    """
    made_of = recipe(model, dataset, plan)
    name = hashlib.sha256(made_of.model_dump_json().encode()).hexdigest()[:16]
    writer = TableWriter(storage.join(plan.directory, name), FEATURES, made_of)
    if writer.begin() is None:
        _run(writer, family, dataset, initial, plan)
    return Table(writer.directory, FEATURES)


def recipe(model: GenreModel, dataset: Table, plan: Plan) -> Recipe:
    """All that the features of a dataset's movies rest on: models with the same one share them."""
    settings = model.frozen_settings | {"views": model.num_views, "version": mmgenre.__version__}
    return Recipe(
        job="features",
        settings=settings | {"precision": plan.precision, "seed": plan.seed if model.num_views else None},
        inputs={"dataset": dataset.manifest.fingerprint, "weights": _digest(model)},
    )


def _run(writer: TableWriter, family: FamilyConfig, dataset: Table, initial: str, plan: Plan) -> Manifest:
    wanted = is_known(family) & pc.is_in(pc.field("split"), pa.array(_SPLITS))
    num_movies = dataset.dataset.count_rows(filter=wanted)
    cluster.connect()
    rows = read(dataset, ["imdb_id", "split", *family.columns], _WINDOW).map_batches(
        Freeze,
        fn_constructor_args=(storage.absolute(initial), wanted, plan.precision, plan.seed),
        batch_size=_WINDOW,
        batch_format="pyarrow",
        **actor_pool(None, plan.accelerator, -(-num_movies // _WINDOW)),
    )
    progress = Progress("features", num_movies)
    for statuses in write(rows, writer.directory, FEATURES, _WINDOW):
        progress.add(statuses)
    return writer.finish(rows_in=num_movies, expected_rows=num_movies)


class Freeze:
    """Ray Data stage: batches of movies become rows of features."""

    def __init__(self, directory: str, wanted: pc.Expression, precision: Precision, seed: int):
        self._wanted = wanted
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(cluster.assigned_cpus())
        self._model = checkpoint.load(directory)[1].to(self._device)
        self._precision, self._seed = precision, seed

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row for each movie to learn from."""
        batch = batch.filter(self._wanted)
        encoded = self._model.encoder.encode(Movies.of(batch))
        values = list(self._values(encoded, batch["imdb_id"].to_pylist()))
        return pa.table(
            {
                "imdb_id": batch["imdb_id"],
                "status": pa.array(np.where(encoded.readable, "ok", "unreadable").tolist(), pa.string()),
                "has_text": pa.array(encoded.has_text),
                "has_image": pa.array(encoded.has_image),
                "shape": pa.array([value and list(value[0].shape) for value in values], pa.list_(pa.int32())),
                "values": pa.array(
                    [value and b"".join(view.tobytes() for view in value) for value in values], pa.binary()
                ),
            },
            schema=FEATURES,
        )

    def _values(self, encoded: Encoded, ids: list[str]) -> Iterator[list[np.ndarray] | None]:
        """Of each movie its views, fp16; None where frozen layers see nothing."""
        views = [self._view(encoded)]
        for number in range(self._model.num_views):
            # The same views of the same movies, whichever actor computes them.
            torch.manual_seed(zlib.crc32(f"{self._seed} {number} {ids[:1]}".encode()))
            self._model.train()
            views.append(self._view(encoded))
            self._model.eval()
        return (None if values[0] is None else list(values) for values in zip(*views, strict=True))

    def _view(self, encoded: Encoded) -> list[Any]:
        worth = np.flatnonzero(self._model.worth_freezing(encoded))
        found: list[Any] = [None] * len(encoded.lengths)
        for places, values in outputs(self._model.frozen, encoded.take(worth), self._device, self._precision):
            for row, value in zip(worth[places], values.half().cpu().numpy(), strict=True):
                found[row] = value
        return found


def split_of(features: Table, rows: Rows, live: Encoder | None, *, views: bool) -> Split:
    """The movies of a split with their features in place of what frozen layers read of them.

    Args:
        features: of a dataset.
        rows: of the same dataset.
        live: encodes what is read beside the features.
        views: whether changed views of a movie may stand for it.
    """
    found = features.read(filter=pc.is_in(pc.field("imdb_id"), rows.ids.combine_chunks())).sort_by("imdb_id")
    has_text, has_image = (found[name].to_numpy() for name in ("has_text", "has_image"))
    parts: tuple[Part, ...] = (Frozen(_values_in(found, views=views)),)
    if live is not None:
        parts = (*live.encode(rows.movies).parts, *parts)
    return readable(Encoded(has_text, has_image, parts), rows.labels)


def _values_in(found: pa.Table, *, views: bool) -> np.ndarray:
    """Shape (N, V, ...), zero where frozen layers have seen nothing."""
    known = np.flatnonzero(found["values"].is_valid().to_numpy())
    if not len(known):
        return np.zeros((len(found), 1, 1), np.float16)
    shape = found["shape"][known[0]].as_py()
    contents = found["values"].take(pa.array(known))
    seen = np.stack([np.frombuffer(content.as_buffer(), np.float16).reshape(-1, *shape) for content in contents])
    values = np.zeros((len(found), *(seen.shape[1:] if views else (1, *shape))), np.float16)
    values[known] = seen if views else seen[:, :1]
    return values


def _digest(model: GenreModel) -> str:
    """Of all weights that the frozen layers have."""
    digest = hashlib.sha256()
    for part, module in model.frozen_modules.items():
        for name, value in module.state_dict().items():
            digest.update(json.dumps([part, name, list(value.shape), str(value.dtype)]).encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
