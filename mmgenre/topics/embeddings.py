"""Plot embeddings: features of a trained model's text encoder, computed by Ray Data actors.

Movies are staged sorted by id, in units of a fixed size, so that the same movies get the same embeddings whatever
their order and the number of actors. A rerun computes only the units without results.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from mmgenre.errors import InputError
from mmgenre.models import FusionConfig, GenreModel, Movies, checkpoint
from mmgenre.models.checkpoint import Card
from mmgenre.models.genre_model import FamilyConfig, GradientTrainedConfig, TextFamilyConfig
from mmgenre.models.inference import Precision, batch_outputs, local_device
from mmgenre.tables import storage
from mmgenre.tables.chunks import sorted_by_id
from mmgenre.tables.manifest import Recipe
from mmgenre.tagging.actors import InferenceSettings, UnitStage
from mmgenre.tagging.input import TagInput
from mmgenre.tagging.units import EarlierPredictions, UnitReader, WorkFolder

HAS_PLOT, NO_PLOT = "plot", "no_plot"
_ROWS_PER_UNIT = 2048
_ROWS_PER_PART = 25 * _ROWS_PER_UNIT
# Part of the cache key: raise it when the files of a unit change.
_FORMAT = 2


class PlotInput(TagInput):
    """Movies sorted by id, in tables of whole units."""

    def rows(self) -> Iterator[pa.Table]:
        """All movies; sorting holds their plots in memory."""
        movies = sorted_by_id(pa.concat_tables([self.schema.empty_table(), *super().rows()]))
        for start in range(0, len(movies), _ROWS_PER_PART):
            yield movies.slice(start, _ROWS_PER_PART)


def text_family(card: Card, directory: str) -> FamilyConfig:
    """The config of the checkpoint's text encoder.

    Raises:
        InputError: the model has no text encoder, or one without features of a fixed size.
    """
    model = card.model
    family = model.parts["text"] if isinstance(model, FusionConfig) else model
    if isinstance(family, TextFamilyConfig) and isinstance(family, GradientTrainedConfig):
        return family
    reason = "counts words" if isinstance(family, TextFamilyConfig) else "reads posters"
    raise InputError(
        f"{directory}: topics need embeddings of plots, but this {family.model_dump()['family']} model {reason}; "
        "choose the checkpoint of a transformer, a bilstm, or a fusion with one of them"
    )


def embedding_recipe(card: Card, source: TagInput, precision: Precision) -> Recipe:
    """Everything that determines the embeddings."""
    settings = {"model": card.model.model_dump(mode="json"), "weights": card.weights_sha256, "assets": card.assets}
    return Recipe(job="embed", settings=settings | {"precision": precision}, inputs=source.fingerprints)


def stage_plots(directory: str, source: PlotInput, recipe: Recipe) -> WorkFolder:
    """The work folder of these embeddings below a cache directory; it stays, so that other runs can share it."""
    key = hashlib.sha256(f"{_FORMAT} {recipe.model_dump_json()}".encode()).hexdigest()[:16]
    work = WorkFolder(storage.join(directory, key))
    if not work.is_staged():
        work.stage(source, EarlierPredictions([]), rows_per_unit=_ROWS_PER_UNIT)
    return work


class EmbedPlots(UnitStage):
    """Ray Data stage that embeds the plots of each unit."""

    job = "embeddings"

    def __init__(self, work: WorkFolder, reader: UnitReader, settings: InferenceSettings):
        super().__init__(work, reader, settings)
        self._settings, self.precision = settings, settings.precision
        _, model = checkpoint.load(settings.checkpoint)
        self._device = local_device()
        self._model: GenreModel = model.parts.get("text", model).to(self._device)

    def results(self, rows: pa.Table) -> pa.Table:
        """Embeddings of N movies, float16, shape (N, D); zero for movies without a plot.

        Raises:
            InputError: the model computes values that are not finite.
        """
        movies = self._model.encoder.encode(Movies.of(rows))
        readable = np.flatnonzero(movies.readable)
        embeddings = np.zeros((len(rows), self._model.feature_dim), np.float16)
        batches = batch_outputs(self._model.features, movies.take(readable), self._device, self._settings.precision)
        for indices, features in batches:
            embeddings[readable[indices]] = features.float().cpu().numpy()
        if not np.isfinite(embeddings).all():
            raise InputError(f"{self._settings.checkpoint}: its features are not finite; train the model again")
        lists = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), self._model.feature_dim)
        statuses = np.where(movies.readable, HAS_PLOT, NO_PLOT)
        return pa.table({"imdb_id": rows["imdb_id"], "status": statuses, "embedding": lists})


def embeddings_in(results: pa.Table) -> np.ndarray:
    """The embeddings in the results of some units, float32, shape (N, D)."""
    lists = results["embedding"].combine_chunks()
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(lists), lists.type.list_size).astype(np.float32)
