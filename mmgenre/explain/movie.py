"""Explain one movie → a page, and a picture of the poster for each genre."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType

from mmgenre.errors import InputError
from mmgenre.explain.attribution import Explainer, require_captum
from mmgenre.explain.config import OWNED, PAGE, PICTURES, ExplainMovieConfig, model_settings, require_readable
from mmgenre.explain.heat_maps import overlay
from mmgenre.explain.page import Explanation, page
from mmgenre.labels import decode
from mmgenre.models import checkpoint
from mmgenre.models.checkpoint import Card
from mmgenre.posters.images import NotAnImage, TooManyPixels, shrink
from mmgenre.posters.job import PostersConfig
from mmgenre.tables import storage
from mmgenre.tables.images import ImageReader
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.schema import PredictStatus, from_per_genre
from mmgenre.tables.table import Table
from mmgenre.tagging.actors import Tagger
from mmgenre.tagging.decisions import DecisionConfig, Decisions, calibrations
from mmgenre.tagging.input import DIGEST, MovieSources, TagInput

_PICTURE_SIDE = 960
# Not part of the recipe: the content they name is.
_PATHS = {"checkpoint", "movies", "catalog", "enriched", "posters", "plot", "poster", "output", "overwrite"}


@dataclass(frozen=True)
class MovieInput:
    """The movie to explain: its name for the headline, and the model's inputs."""

    name: str
    title: str | None
    plot: str | None
    image: bytes | None

    @property
    def rows(self) -> pa.Table:
        """A table of one row, as a Tagger reads it."""
        columns = {
            "imdb_id": pa.array([self.name], pa.string()),
            "title": pa.array([self.title], pa.string()),
            "plot": pa.array([self.plot], pa.string()),
            "image": pa.array([self.image], pa.binary()),
            DIGEST: pa.array([0], pa.int64()),
        }
        return pa.table(columns)

    @property
    def digest(self) -> str:
        """SHA-256 of the inputs."""
        values = [self.title, self.plot, self.image and hashlib.sha256(self.image).hexdigest()]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def explain_movie(config: ExplainMovieConfig) -> str:
    """Write the page and pictures; returns one line per explained genre, and the location of the page.

    Raises:
        InputError: captum is missing, the checkpoint is missing or not trained, there is no such movie, it has none of
            the model's inputs, or the output was made with other settings.
    """
    require_captum()
    card = checkpoint.read_card(config.checkpoint)
    decisions = Decisions(calibrations(card, config.checkpoint), DecisionConfig())
    movie = _read_movie(config, card)
    settings = {"model": model_settings(card)} | config.to_settings(without=_PATHS)
    recipe = Recipe(job="explain", settings=settings, inputs={"movie": movie.digest})
    output = Output(config.output, recipe, OWNED, overwrite=config.overwrite)
    manifest = output.finished
    if manifest is None:
        with output:
            manifest = _write(output, _explain(config, card, movie, decisions))
    return "\n".join([*manifest.notes["said"], storage.join(config.output, PAGE)])


def _explain(config: ExplainMovieConfig, card: Card, movie: MovieInput, decisions: Decisions) -> Explanation:
    tagged = Tagger.load(config.checkpoint, config.precision).tag(movie.rows)
    status, detail = tagged["status"][0].as_py(), tagged["detail"][0].as_py()
    if status in (PredictStatus.NO_INPUT, PredictStatus.ERROR):
        raise InputError(f"{movie.name}: {detail or 'none of the inputs of this model is known'}; choose another movie")
    probabilities = from_per_genre(tagged["probabilities"])
    genres = config.select_genres(probabilities[0])
    return Explanation(
        name=movie.name,
        model=card.model.family,
        status=status,
        probabilities=probabilities[0],
        thresholds=decisions.cutoffs(status),
        predicted=tuple(decode(decisions(probabilities, [status])[0])),
        genres=tuple(genres),
        attribution=Explainer.load(config.checkpoint).explain(movie.title, movie.plot, movie.image, genres),
        poster=movie.image if status != PredictStatus.TEXT_ONLY else None,
    )


def _write(output: Output, explanation: Explanation) -> Manifest:
    files: dict[str, bytes] = {}
    if explanation.poster is not None:
        for genre, heat in explanation.attribution.heat.items():
            name = PICTURES.replace("*", genre.lower())
            files[name] = overlay(explanation.poster, heat, _PICTURE_SIDE, "png")
    files[PAGE] = page(explanation).encode()
    for name, content in files.items():
        output.write(name, content)
    notes = {"said": str(explanation).splitlines(), "gaps": explanation.attribution.relative_errors}
    return output.complete(1, {explanation.status: 1}, notes, list(files))


def _read_movie(config: ExplainMovieConfig, card: Card) -> MovieInput:
    if config.movies is not None:
        return _read_from_table(config, card)
    plot = config.plot
    if plot is not None and plot.startswith("@"):
        storage.require_file(plot[1:], "a text file with the plot")
        plot = storage.read_bytes(plot[1:]).decode("utf-8", "replace")
    image = None if config.poster is None else _read_poster(config.poster)
    require_readable(card, {name for name, value in (("plot", plot), ("image", image)) if value is not None})
    name = config.title or (Path(config.poster).name if plot is None and config.poster else "Untitled movie")
    return MovieInput(name, config.title, plot, image)


def _read_poster(location: str) -> bytes:
    """Shrink a poster like jobs/posters.py does by default."""
    storage.require_file(location, "a poster (JPEG, PNG or WebP)")
    fields = PostersConfig.model_fields
    try:
        return shrink(storage.read_bytes(location), fields["max_side"].default, fields["max_pixels"].default).jpeg
    except (NotAnImage, TooManyPixels) as error:
        raise InputError(f"poster={location}: {error}") from None


def _read_from_table(config: ExplainMovieConfig, card: Card) -> MovieInput:
    assert config.movies is not None and config.imdb_id is not None  # noqa: S101 - validated together
    sources = MovieSources(config.movies, "all", config.catalog, config.enriched, config.posters)
    movies = TagInput(sources, card.model.columns, _title_columns(config))
    for batch in movies.rows():
        rows = batch.filter(pc.equal(batch["imdb_id"], config.imdb_id))
        if len(rows):
            row = ImageReader(movies.image_files).add_images(rows).to_pylist()[0]
            name = config.title or row.get("title") or config.imdb_id
            return MovieInput(name, row.get("title"), row.get("plot"), row.get("image"))
    raise InputError(f"imdb_id={config.imdb_id}: not in {config.movies}")


def _title_columns(config: ExplainMovieConfig) -> tuple[str, ...]:
    """The title column for the headline, if the movies' table or the catalogue has one."""
    location = str(config.movies)
    is_table = storage.kind(location) == FileType.Directory
    has_titles = config.catalog is not None or (is_table and "title" in Table(location).dataset.schema.names)
    return ("title",) if has_titles else ()
