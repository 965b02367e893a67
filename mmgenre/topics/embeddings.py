"""Plots → embeddings: what a trained model's text encoder makes of each, computed by Ray Data actors.

The movies are staged in the order of their ids, in units of a fixed size, so that the same movies give the same
numbers whatever order they came in and however many actors there are. Units that are done are not done again.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
import torch

from mmgenre import ray_session as cluster
from mmgenre.errors import InputError
from mmgenre.models import FusionConfig, GenreModel, Movies, checkpoint
from mmgenre.models.checkpoint import Card
from mmgenre.models.genre_model import FamilyConfig, ReadsText, TrainedByGradient
from mmgenre.models.inference import Precision, actor_pool, outputs, own_device
from mmgenre.progress import Progress
from mmgenre.ray_session import Accelerator
from mmgenre.tables import storage
from mmgenre.tables.manifest import Recipe
from mmgenre.tables.streams import mistake_in
from mmgenre.tables.table import TableWriter
from mmgenre.tagging.input import TagInput
from mmgenre.tagging.units import Reader, Unit, Work

_ROWS_PER_UNIT, _ROWS_PER_PART = 2048, 50 * 2048


@dataclass(frozen=True)
class Embedding:
    """How plots are embedded.

    Args:
        checkpoint: folder of the model.
        accelerator: whether on GPUs.
        precision: see inference.autocast.
    """

    checkpoint: str
    accelerator: Accelerator
    precision: Precision


@dataclass(frozen=True)
class Plots:
    """N movies, in the order of their ids.

    Args:
        ids: of each.
        titles: None where unknown.
        texts: their plots; None where there is none.
        values: shape (N, D), float32; zero where there is no plot.
    """

    ids: list[str]
    titles: list[str | None]
    texts: list[str | None]
    values: np.ndarray

    @property
    def has_plot(self) -> np.ndarray:
        """Shape (N,), bool."""
        return np.array([text is not None for text in self.texts], bool)

    def take(self, rows: np.ndarray) -> "Plots":
        """Some of the movies, in the order of the rows."""
        return Plots(
            ids=[self.ids[row] for row in rows],
            titles=[self.titles[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            values=self.values[rows],
        )

    @classmethod
    def joined(cls, parts: list["Plots"]) -> "Plots":
        """The movies of several, one after the other."""
        return cls(
            ids=[one for part in parts for one in part.ids],
            titles=[one for part in parts for one in part.titles],
            texts=[one for part in parts for one in part.texts],
            values=np.concatenate([part.values for part in parts]),
        )


class PlotWork(Work):
    """The folder of a model's embeddings of some movies.

    Args:
        directory: below which each model and input has a folder of its own.
        recipe: what the embeddings are made of.
    """

    def __init__(self, directory: str, recipe: Recipe):
        name = hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:16]
        super().__init__(directory, name)
        self.directory = storage.absolute(storage.join(directory, name))
        self._recipe = recipe

    def stage_plots(self, source: TagInput) -> None:
        """Write down the movies, in the order of their ids."""
        if self.is_staged():
            return
        storage.delete(self.directory)
        rows = pa.concat_tables([source.schema.empty_table(), *source.rows()]).sort_by("imdb_id")
        writer = TableWriter(self._path("staged"), source.schema, self._recipe)
        writer.begin()
        for start in range(0, len(rows), _ROWS_PER_PART):
            part = rows.slice(start, _ROWS_PER_PART)
            writer.write(part, [min(_ROWS_PER_UNIT, len(part) - at) for at in range(0, len(part), _ROWS_PER_UNIT)])
        writer.finish(rows_in=len(rows), expected_rows=len(rows))

    def plots(self) -> Iterator[Plots]:
        """All movies, unit by unit."""
        reader = Reader(self, [])
        results = self.results()
        for unit in self.units:
            rows, values = reader.read(unit), next(results)["values"]
            titles = rows["title"].to_pylist() if "title" in rows.column_names else [None] * len(rows)
            yield Plots(rows["imdb_id"].to_pylist(), titles, _texts(rows), _from_lists(values))


def text_family(card: Card, where: str) -> FamilyConfig:
    """The family of a checkpoint's text encoder.

    Raises:
        InputError: it has none, or none whose features are vectors of a fixed size.
    """
    model = card.model
    family = model.parts["text"] if isinstance(model, FusionConfig) else model
    if isinstance(family, ReadsText) and isinstance(family, TrainedByGradient):
        return family
    what = "reads posters" if not isinstance(family, ReadsText) else "counts words"
    raise InputError(
        f"{where}: its {family.model_dump()['family']} model {what}, and topics need embeddings of plots; "
        "give the checkpoint of a transformer, a bilstm, or a fusion with one of them"
    )


def embedding_recipe(card: Card, source: TagInput, precision: Precision) -> Recipe:
    """All that embeddings rest on."""
    settings = {"model": card.model.model_dump(mode="json"), "weights": card.weights_sha256, "assets": card.assets}
    return Recipe(job="embed", settings=settings | {"precision": precision}, inputs=source.fingerprints)


def embed(work: PlotWork, embedding: Embedding) -> None:
    """Compute the units that have no result.

    Raises:
        InputError: the checkpoint is damaged, or what it computes is not finite.
    """
    units = work.unfinished()
    if not units:
        return
    cluster.connect()
    progress = Progress("embeddings of plots", sum(unit.rows for unit in units))
    results = ray.data.from_items([vars(unit) for unit in units], override_num_blocks=len(units)).map_batches(
        Embed,
        fn_constructor_args=(work, embedding),
        batch_size=None,
        batch_format="pyarrow",
        **actor_pool(None, embedding.accelerator, len(units)),
    )
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for status, rows in zip(batch["status"].to_pylist(), batch["rows"].to_pylist(), strict=True):
                progress.add(Counter({status: rows}))
    except ray.exceptions.RayError as error:
        raise mistake_in(error) or error from None


class Embed:
    """Ray Data stage: units in, their rows by status out; their results are files by then."""

    def __init__(self, work: PlotWork, embedding: Embedding):
        torch.set_num_threads(cluster.assigned_cpus())
        self._work, self._reader, self._embedding = work, Reader(work, []), embedding
        _, model = checkpoint.load(embedding.checkpoint)
        self._device = own_device()
        self._model: GenreModel = model.parts.get("text", model).to(self._device)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Each unit's rows, with and without a plot."""
        for row in batch.to_pylist():
            unit = Unit(**row)
            rows = self._reader.read(unit)
            values, has_plot = self._values(rows)
            self._work.write(unit, pa.table({"imdb_id": rows["imdb_id"], "values": _to_lists(values)}))
            num_plots = int(has_plot.sum())
            yield pa.table({"status": ["plot", "no_plot"], "rows": [num_plots, unit.rows - num_plots]})

    def _values(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings, shape (N, D), fp16, and which of them are of a plot, shape (N,)."""
        encoded = self._model.encoder.encode(Movies.of(rows))
        readable = np.flatnonzero(encoded.readable)
        values = np.zeros((len(rows), self._model.feature_dim), np.float32)
        taken = encoded.take(readable)
        for places, found in outputs(self._model.features, taken, self._device, self._embedding.precision):
            values[readable[places]] = found.float().cpu().numpy()
        values = values.astype(np.float16)
        if not np.isfinite(values).all():
            raise InputError(f"{self._embedding.checkpoint}: its features are not finite numbers; train again")
        return values, encoded.readable


def _texts(rows: pa.Table) -> list[str | None]:
    """Plots; None where there is nothing but blanks."""
    plots = pc.utf8_trim_whitespace(rows["plot"])
    return pc.if_else(pc.equal(plots, ""), None, plots).to_pylist()


def _to_lists(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _from_lists(column: pa.ChunkedArray) -> np.ndarray:
    lists = column.combine_chunks()
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1).astype(np.float32)
