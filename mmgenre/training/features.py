"""Tables of frozen-layer outputs ("features"): computed once, and shared by epochs, trainings and trials."""

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch

import mmgenre
from mmgenre import ray_session
from mmgenre.dataset.rows import is_known
from mmgenre.models import EncodedMovies, FamilyConfig, GenreModel, Movies, checkpoint
from mmgenre.models.inference import Precision, batch_outputs, local_device, map_batches_options, resolved
from mmgenre.progress import Progress
from mmgenre.ray_session import Accelerator
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.streams import read, write
from mmgenre.tables.table import Table, TableWriter

FEATURES = pa.schema(
    [
        pa.field("imdb_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.int32())),
        # fp16: the unaugmented view, then the augmented ones, each of that shape; null if the movie is unreadable.
        pa.field("values", pa.binary()),
    ]
)
# Movies per batch of an actor, and per part file.
_BATCH_SIZE = 512
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class FeatureOptions:
    """How features are computed.

    Args:
        directory: parent folder of all feature tables, one subfolder per recipe.
        accelerator: whether to use GPUs.
        precision: auto: bf16 where the processes that compute the features have units for it.
        seed: seed of the augmented views.
    """

    directory: str
    accelerator: Accelerator
    precision: Precision
    seed: int


@dataclass(frozen=True)
class FrozenPart:
    """A part of a model with frozen layers.

    Args:
        role: name of the part in the model; empty if it is the whole model.
        model: the part; its `frozen_modules` are not empty.
        family: config of the part.
    """

    role: str
    model: GenreModel
    family: FamilyConfig


def frozen_parts(model: GenreModel, family: FamilyConfig) -> list[FrozenPart]:
    """The parts of a model whose frozen layers are worth caching."""
    parts = [FrozenPart(role, part, family.parts[role]) for role, part in model.parts.items()]
    return [part for part in parts if part.model.frozen_modules]


def compute(part: FrozenPart, dataset: Table, initial: str | None, options: FeatureOptions) -> Table:
    """The feature table of all train and val movies; computed unless a complete one exists.

    Args:
        part: a model part with frozen layers.
        dataset: a MOVIES table.
        initial: checkpoint folder of the whole model, for Ray Data actors; None: compute in this process.
        options: where and how.
    """
    options = replace(options, precision=_precision(options, on_actors=initial is not None))
    features_recipe = recipe(part.model, dataset, options)
    name = hashlib.sha256(features_recipe.model_dump_json().encode()).hexdigest()[:16]
    output = Output(storage.join(options.directory, name), features_recipe)
    if output.finished is not None:
        return Table(output.directory, FEATURES)
    # Another training that needs the same features may be computing them.
    with output.reserved(wait=True):
        if output.finished is not None:
            return Table(output.directory, FEATURES)
        with output:
            writer = TableWriter(output, FEATURES)
            if initial is None:
                _compute_here(writer, part, dataset, options)
            else:
                _compute_on_actors(writer, part, dataset, initial, options)
    return Table(output.directory, FEATURES)


def recipe(model: GenreModel, dataset: Table, options: FeatureOptions) -> Recipe:
    """Everything that determines the features; models with equal recipes share a table.

    A precision of `auto` stands for this process's, because other machines may compute other values.
    """
    precision = resolved(options.precision, local_device())
    settings = model.frozen_settings | {"views": model.num_views, "version": mmgenre.__version__}
    return Recipe(
        job="features",
        settings=settings | {"precision": precision, "seed": options.seed if model.num_views else None},
        inputs={
            "dataset": dataset.manifest.fingerprint,
            "weights": _weights_digest(model),
            "assets": assets_digest(model),
        },
    )


def _precision(options: FeatureOptions, *, on_actors: bool) -> Precision:
    """The precision in the processes that compute the features, so that all of them use the same."""
    if options.precision != "auto" or not on_actors:
        return resolved(options.precision, local_device())
    ray_session.connect()
    use_gpu = ray_session.use_gpu(options.accelerator)
    if ray_session.is_local():
        return resolved("auto", torch.device("cuda" if use_gpu else "cpu"))
    num_gpus = 1 if use_gpu else 0
    found: Precision = ray.get(_precision_of_worker.options(num_gpus=num_gpus).remote())
    return found


@ray.remote(num_cpus=1)
def _precision_of_worker() -> Precision:
    return resolved("auto", local_device())


def _compute_on_actors(
    writer: TableWriter, part: FrozenPart, dataset: Table, initial: str, options: FeatureOptions
) -> Manifest:
    row_filter, num_movies = _select_movies(part, dataset)
    ray_session.connect()
    rows = read(dataset, _columns(part), _BATCH_SIZE).map_batches(
        ExtractFeaturesStage,
        fn_constructor_args=(storage.absolute(initial), part.role, row_filter, options),
        batch_size=_BATCH_SIZE,
        batch_format="pyarrow",
        **map_batches_options(None, options.accelerator, -(-num_movies // _BATCH_SIZE)),
    )
    progress = Progress(f"features of {part.family.columns[-1]}s", num_movies)
    for statuses in write(rows, writer.directory, FEATURES, _BATCH_SIZE):
        progress.add(statuses)
    return writer.finish(rows_in=num_movies, expected_rows=num_movies)


def _compute_here(writer: TableWriter, part: FrozenPart, dataset: Table, options: FeatureOptions) -> Manifest:
    row_filter, num_movies = _select_movies(part, dataset)
    extract = ExtractFeatures(part.model, row_filter, options)
    for batch in dataset.dataset.to_batches(columns=_columns(part), batch_size=_BATCH_SIZE, filter=row_filter):
        writer.write(extract(pa.Table.from_batches([batch])))
    return writer.finish(rows_in=num_movies, expected_rows=num_movies)


def _select_movies(part: FrozenPart, dataset: Table) -> tuple[pc.Expression, int]:
    """A filter for the movies that need features, and their number."""
    row_filter = is_known(part.family) & pc.is_in(pc.field("split"), pa.array(_SPLITS))
    return row_filter, dataset.dataset.count_rows(filter=row_filter)


def _columns(part: FrozenPart) -> list[str]:
    return ["imdb_id", "split", *part.family.columns]


class ExtractFeatures:
    """Turns batches of MOVIES rows into FEATURES rows."""

    def __init__(self, model: GenreModel, row_filter: pc.Expression, options: FeatureOptions):
        self._row_filter, self._options = row_filter, options
        self._device = local_device()
        self._model = model.to(self._device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row per movie that passes the filter."""
        batch = batch.filter(self._row_filter)
        encoded = self._model.encoder.encode(Movies.of(batch))
        views = list(self._views(encoded, batch["imdb_id"].to_pylist()))
        return pa.table(
            {
                "imdb_id": batch["imdb_id"],
                "status": pa.array(np.where(encoded.readable, "ok", "unreadable").tolist(), pa.string()),
                "shape": pa.array([movie and list(movie[0].shape) for movie in views], pa.list_(pa.int32())),
                "values": pa.array(
                    [movie and b"".join(view.tobytes() for view in movie) for movie in views], pa.binary()
                ),
            },
            schema=FEATURES,
        )

    def _views(self, encoded: EncodedMovies, ids: list[str]) -> Iterator[list[np.ndarray] | None]:
        """The fp16 features of all views of each movie; None for unreadable ones."""
        views = [self._one_view(encoded)]
        for number in range(self._model.num_views):
            # Seeded by the batch, so that every actor draws the same views of the same movies.
            torch.manual_seed(zlib.crc32(f"{self._options.seed} {number} {ids[:1]}".encode()))
            self._model.train()
            views.append(self._one_view(encoded))
            self._model.eval()
        return (None if movie[0] is None else list(movie) for movie in zip(*views, strict=True))

    def _one_view(self, encoded: EncodedMovies) -> list[Any]:
        readable = np.flatnonzero(encoded.readable)
        features: list[Any] = [None] * len(encoded.readable)
        batches = batch_outputs(self._model.frozen, encoded.take(readable), self._device, self._options.precision)
        for rows, values in batches:
            for row, value in zip(readable[rows], values.half().cpu().numpy(), strict=True):
                features[row] = value
        return features


class ExtractFeaturesStage(ExtractFeatures):
    """Ray Data stage: an ExtractFeatures that loads its own copy of the model part."""

    def __init__(self, directory: str, role: str, row_filter: pc.Expression, options: FeatureOptions):
        torch.set_num_threads(ray_session.assigned_cpus())
        super().__init__(checkpoint.load(directory)[1].parts[role], row_filter, options)


def _weights_digest(model: GenreModel) -> str:
    """SHA-256 of the frozen layers' weights."""
    digest = hashlib.sha256()
    for part, module in model.frozen_modules.items():
        for name, value in module.state_dict().items():
            digest.update(json.dumps([part, name, list(value.shape), str(value.dtype)]).encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def assets_digest(model: GenreModel) -> str:
    """SHA-256 of a model's assets, such as its tokenizer."""
    digest = hashlib.sha256()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.save_assets(folder)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(json.dumps([path.relative_to(folder).as_posix(), path.stat().st_size]).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
