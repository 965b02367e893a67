"""What frozen layers make of each movie: computed once by Ray Data actors, shared by epochs, trainings and trials."""

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

import mmgenre
from mmgenre import ray_session as cluster
from mmgenre.dataset.rows import Rows, Split, is_known, readable
from mmgenre.models import Batch, Encoded, FamilyConfig, GenreModel, Movies, checkpoint
from mmgenre.models.inference import Precision, actor_pool, outputs, own_device
from mmgenre.progress import Progress
from mmgenre.ray_session import Accelerator
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.streams import read, write
from mmgenre.tables.table import Table, TableWriter

FEATURES = pa.schema(
    [
        pa.field("imdb_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.int32())),
        # fp16, the movie as it is and then its changed views, each of that shape; null where it is unreadable.
        pa.field("values", pa.binary()),
    ]
)
# Movies that an actor decodes together, and that one part holds.
_WINDOW = 512
_VALUES_PER_TOKEN = 256
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Frozen:
    """What frozen layers made of K of N movies, V views of each.

    Args:
        name: of the tensor in a batch.
        values: fp16, shape (K, V, ...).
        places: shape (N,), where in values each movie is; -1: nowhere.
    """

    name: str
    values: np.ndarray
    places: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Shape (N,): the cost of each, by its room in memory, in tokens of text."""
        return np.full(len(self.places), 1 + self.values[:1, :1].size // _VALUES_PER_TOKEN)

    def take(self, rows: np.ndarray) -> "Frozen":
        """Some of the movies, in the order of the rows."""
        return Frozen(self.name, self.values, self.places[rows])

    def batch(self, rows: np.ndarray) -> Batch:
        """Float32, shape (B, ...): of each movie any one of its views, zero where there is none."""
        places, num_views = self.places[rows], self.values.shape[1]
        # Without a choice nothing is drawn, so that dropout draws what it would without features.
        views = torch.randint(num_views, (len(rows),)).numpy() if num_views > 1 else np.zeros(len(rows), np.int64)
        found = np.zeros((len(rows), *self.values.shape[2:]), np.float32)
        known = places >= 0
        found[known] = self.values[places[known], views[known]]
        return {self.name: torch.from_numpy(found)}


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


@dataclass(frozen=True)
class KeptPart:
    """A part of a model that has frozen layers.

    Args:
        role: its name among the model's parts.
        model: the part; its `frozen_modules` are not empty.
        family: the part's.
    """

    role: str
    model: GenreModel
    family: FamilyConfig


def kept_parts(model: GenreModel, family: FamilyConfig) -> list[KeptPart]:
    """The parts of a model of which something is worth to be kept."""
    parts = [KeptPart(role, part, family.parts[role]) for role, part in model.parts.items()]
    return [part for part in parts if part.model.frozen_modules]


def compute(part: KeptPart, dataset: Table, initial: str | None, plan: Plan) -> Table:
    """The table of what frozen layers make of the movies to learn from; computed where it is not there yet.

    Args:
        part: with the frozen layers.
        dataset: a MOVIES table.
        initial: checkpoint folder with the whole model, for Ray Data's actors; None: computed in this process.
        plan: where and how.
    """
    made_of = recipe(part.model, dataset, plan)
    name = hashlib.sha256(made_of.model_dump_json().encode()).hexdigest()[:16]
    writer = TableWriter(storage.join(plan.directory, name), FEATURES, made_of)
    if writer.begin() is None:
        if initial is None:
            _run_here(writer, part, dataset, plan)
        else:
            _run(writer, part, dataset, initial, plan)
    return Table(writer.directory, FEATURES)


def recipe(model: GenreModel, dataset: Table, plan: Plan) -> Recipe:
    """All that the features of a dataset's movies rest on: models with the same one share them."""
    settings = model.frozen_settings | {"views": model.num_views, "version": mmgenre.__version__}
    return Recipe(
        job="features",
        settings=settings | {"precision": plan.precision, "seed": plan.seed if model.num_views else None},
        inputs={"dataset": dataset.manifest.fingerprint, "weights": _digest(model), "assets": _assets_digest(model)},
    )


def _run(writer: TableWriter, part: KeptPart, dataset: Table, initial: str, plan: Plan) -> Manifest:
    wanted, num_movies = _wanted(part, dataset)
    cluster.connect()
    rows = read(dataset, _columns(part), _WINDOW).map_batches(
        FreezeStage,
        fn_constructor_args=(storage.absolute(initial), part.role, wanted, plan),
        batch_size=_WINDOW,
        batch_format="pyarrow",
        **actor_pool(None, plan.accelerator, -(-num_movies // _WINDOW)),
    )
    progress = Progress(f"features of {part.family.columns[-1]}s", num_movies)
    for statuses in write(rows, writer.directory, FEATURES, _WINDOW):
        progress.add(statuses)
    return writer.finish(rows_in=num_movies, expected_rows=num_movies)


def _run_here(writer: TableWriter, part: KeptPart, dataset: Table, plan: Plan) -> Manifest:
    wanted, num_movies = _wanted(part, dataset)
    freeze = Freeze(part.model, wanted, plan)
    for batch in dataset.dataset.to_batches(columns=_columns(part), batch_size=_WINDOW, filter=wanted):
        writer.write(freeze(pa.Table.from_batches([batch])))
    return writer.finish(rows_in=num_movies, expected_rows=num_movies)


def _wanted(part: KeptPart, dataset: Table) -> tuple[pc.Expression, int]:
    """Which movies features are made of, and how many they are."""
    wanted = is_known(part.family) & pc.is_in(pc.field("split"), pa.array(_SPLITS))
    return wanted, dataset.dataset.count_rows(filter=wanted)


def _columns(part: KeptPart) -> list[str]:
    return ["imdb_id", "split", *part.family.columns]


class Freeze:
    """Batches of movies become rows of features."""

    def __init__(self, model: GenreModel, wanted: pc.Expression, plan: Plan):
        self._wanted, self._plan = wanted, plan
        self._device = own_device()
        self._model = model.to(self._device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row for each movie to learn from."""
        batch = batch.filter(self._wanted)
        encoded = self._model.encoder.encode(Movies.of(batch))
        values = list(self._values(encoded, batch["imdb_id"].to_pylist()))
        return pa.table(
            {
                "imdb_id": batch["imdb_id"],
                "status": pa.array(np.where(encoded.readable, "ok", "unreadable").tolist(), pa.string()),
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
            torch.manual_seed(zlib.crc32(f"{self._plan.seed} {number} {ids[:1]}".encode()))
            self._model.train()
            views.append(self._view(encoded))
            self._model.eval()
        return (None if values[0] is None else list(values) for values in zip(*views, strict=True))

    def _view(self, encoded: Encoded) -> list[Any]:
        known = np.flatnonzero(encoded.readable)
        found: list[Any] = [None] * len(encoded.readable)
        for places, values in outputs(self._model.frozen, encoded.take(known), self._device, self._plan.precision):
            for row, value in zip(known[places], values.half().cpu().numpy(), strict=True):
                found[row] = value
        return found


class FreezeStage(Freeze):
    """Ray Data stage: loads its own copy of the part."""

    def __init__(self, directory: str, role: str, wanted: pc.Expression, plan: Plan):
        torch.set_num_threads(cluster.assigned_cpus())
        super().__init__(checkpoint.load(directory)[1].parts[role], wanted, plan)


def split_of(kept: Sequence[tuple[KeptPart, Table]], model: GenreModel, rows: Rows, *, views: bool) -> Split:
    """The movies of a split, with their features in place of what frozen layers read of them.

    Args:
        kept: parts of the model, and their features.
        model: whose other parts read the movies anew.
        rows: of the dataset that the features are of.
        views: whether changed views of a movie may stand for it.
    """
    roles = {part.role for part, _ in kept}
    parts = [part.encoder.encode(rows.movies) for role, part in model.parts.items() if role not in roles]
    parts += [_encoded(part, table, rows, views=views) for part, table in kept]
    has_text, has_image = (np.any([getattr(one, name) for one in parts], 0) for name in ("has_text", "has_image"))
    return readable(Encoded(has_text, has_image, tuple(one for part in parts for one in part.parts)), rows.labels)


def _encoded(part: KeptPart, table: Table, rows: Rows, *, views: bool) -> Encoded:
    """The movies as a part's layers that are not frozen read them."""
    is_seen = pc.field("values").is_valid() & pc.is_in(pc.field("imdb_id"), rows.ids.combine_chunks())
    seen = table.read(["imdb_id", "shape", "values"], filter=is_seen)
    places = pc.index_in(rows.ids, value_set=seen["imdb_id"].combine_chunks()).fill_null(-1).to_numpy()
    name = f"{part.role}_frozen" if part.role else "frozen"
    known, none = places >= 0, np.zeros(len(places), bool)
    reads_images = "image" in part.family.columns
    return Encoded(
        has_text=none if reads_images else known,
        has_image=known if reads_images else none,
        parts=(Frozen(name, _values_of(seen, views=views), places),),
    )


def _values_of(seen: pa.Table, *, views: bool) -> np.ndarray:
    """Shape (K, V, ...)."""
    if not len(seen):
        return np.zeros((0, 1, 1), np.float16)
    shape = seen["shape"][0].as_py()
    buffers = (content.as_buffer() for content in seen["values"])
    values = np.stack([np.frombuffer(buffer, np.float16).reshape(-1, *shape) for buffer in buffers])
    return values if views else values[:, :1]


def reading(model: GenreModel, family: FamilyConfig, dataset: Table, plan: Plan | None) -> str:
    """The same for models that make the same of the movies before they learn: whose encoded splits can be shared.

    Args:
        model: untrained.
        family: the model's.
        dataset: a MOVIES table.
        plan: of features; None where none are kept.
    """
    kept = {part.role for part in kept_parts(model, family)} if plan else set()
    parts = {
        role: recipe(part, dataset, plan).model_dump()
        if plan and role in kept
        else {"settings": part.frozen_settings, "assets": _assets_digest(part)}
        for role, part in model.parts.items()
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(model: GenreModel) -> str:
    """Of all weights that the frozen layers have."""
    digest = hashlib.sha256()
    for part, module in model.frozen_modules.items():
        for name, value in module.state_dict().items():
            digest.update(json.dumps([part, name, list(value.shape), str(value.dtype)]).encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _assets_digest(model: GenreModel) -> str:
    """Of what is written beside the weights, such as a tokenizer."""
    digest = hashlib.sha256()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.save_assets(folder)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(json.dumps([path.relative_to(folder).as_posix(), path.stat().st_size]).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
