"""One movie → a page and pictures: the words of its plot and the regions of its poster that spoke for its genres."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileType

from mmgenre.errors import InputError
from mmgenre.explain.attribution import Explainer, overlay, require_captum
from mmgenre.explain.config import OWNED, PAGE, PICTURES, ExplainMovieConfig, model_settings, require_readable
from mmgenre.explain.page import Explained, page
from mmgenre.labels import decode
from mmgenre.models import checkpoint
from mmgenre.models.checkpoint import Card
from mmgenre.posters.images import NotAnImage, TooManyPixels, shrink
from mmgenre.posters.job import PostersConfig
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Output, Recipe
from mmgenre.tables.schema import PredictStatus, from_per_genre
from mmgenre.tables.table import Table
from mmgenre.tagging.actors import Tagger
from mmgenre.tagging.decisions import DecisionConfig, Decisions, calibrations
from mmgenre.tagging.input import DIGEST, Places, TagInput
from mmgenre.tagging.units import ImageReader

_SIZE_OF_PICTURES = 960
_HOW = {"checkpoint", "movies", "catalog", "enriched", "posters", "plot", "poster", "output", "overwrite"}


@dataclass(frozen=True)
class Movie:
    """What is known of the movie that is explained: the headline of its page, and what Movies says of each."""

    name: str
    title: str | None
    plot: str | None
    image: bytes | None

    @property
    def rows(self) -> pa.Table:
        """As a table of one row, as a tagger reads it."""
        columns = {
            "imdb_id": pa.array([self.name], pa.string()),
            "title": pa.array([self.title], pa.string()),
            "plot": pa.array([self.plot], pa.string()),
            "image": pa.array([self.image], pa.binary()),
            DIGEST: pa.array([0], pa.int64()),
        }
        return pa.table(columns)


def explain_movie(config: ExplainMovieConfig) -> str:
    """Write the page and a picture for each genre; returns what is said of each, and where the page is.

    Raises:
        InputError: captum is missing, no checkpoint or one that is not trained, no such movie, nothing that its model
            reads, or an output made otherwise.
    """
    require_captum()
    card = checkpoint.read_card(config.checkpoint)
    found = calibrations(card, config.checkpoint)
    movie = _movie(config, card)
    settings = {"model": model_settings(card)} | config.to_settings(without=_HOW)
    output = Output(config.output, _recipe(settings, movie), OWNED)
    manifest = output.begin(overwrite=config.overwrite)
    if manifest is None:
        explained = _explained(config, card, movie, Decisions(found, DecisionConfig()))
        manifest = _written(output, explained)
    return "\n".join([*manifest.notes["said"], storage.join(config.output, PAGE)])


def _explained(config: ExplainMovieConfig, card: Card, movie: Movie, decisions: Decisions) -> Explained:
    tagged = Tagger.load(config.checkpoint, config.precision).tag(movie.rows)
    status, detail = tagged["status"][0].as_py(), tagged["detail"][0].as_py()
    if status in (PredictStatus.NO_INPUT, PredictStatus.ERROR):
        raise InputError(f"{movie.name}: {detail or 'nothing of it that this model reads is known'}; choose another")
    chances = from_per_genre(tagged["probabilities"])
    genres = config.chosen(chances[0])
    return Explained(
        name=movie.name,
        model=card.model.family,
        status=status,
        probabilities=chances[0],
        cutoffs=decisions.cutoffs(status),
        given=tuple(decode(decisions(chances, [status])[0])),
        genres=tuple(genres),
        attribution=Explainer.load(config.checkpoint).explain(movie.title, movie.plot, movie.image, genres),
        poster=movie.image if status != PredictStatus.TEXT_ONLY else None,
    )


def _written(output: Output, explained: Explained) -> Manifest:
    pictures = {}
    if explained.poster is not None:
        for genre, heat in explained.attribution.heat.items():
            name = PICTURES.replace("*", genre.lower())
            pictures[name] = overlay(explained.poster, heat, _SIZE_OF_PICTURES, "png")
    for name, content in (pictures | {PAGE: page(explained).encode()}).items():
        storage.write_bytes(output.path(name), content)
    notes = {"said": str(explained).splitlines(), "gaps": explained.attribution.gaps}
    return output.complete(1, {explained.status: 1}, notes, [PAGE, *pictures])


def _recipe(settings: dict[str, Any], movie: Movie) -> Recipe:
    known = [movie.title, movie.plot, movie.image and hashlib.sha256(movie.image).hexdigest()]
    digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    return Recipe(job="explain", settings=settings, inputs={"movie": digest})


def _movie(config: ExplainMovieConfig, card: Card) -> Movie:
    if config.movies is not None:
        return _from_table(config, card)
    plot = config.plot
    if plot is not None and plot.startswith("@"):
        storage.require_file(plot[1:], "a text file with the plot")
        plot = storage.read_bytes(plot[1:]).decode("utf-8", "replace")
    image = None if config.poster is None else _poster(config.poster)
    require_readable(card, {name for name, value in (("plot", plot), ("image", image)) if value is not None})
    name = config.title or (Path(config.poster).name if plot is None and config.poster else "A movie without a title")
    return Movie(name, config.title, plot, image)


def _poster(location: str) -> bytes:
    """As jobs/posters.py keeps it."""
    storage.require_file(location, "a poster (JPEG, PNG or WebP)")
    fields = PostersConfig.model_fields
    try:
        return shrink(storage.read_bytes(location), fields["max_side"].default, fields["max_pixels"].default).jpeg
    except (NotAnImage, TooManyPixels) as error:
        raise InputError(f"poster={location}: {error}") from None


def _from_table(config: ExplainMovieConfig, card: Card) -> Movie:
    assert config.movies is not None and config.imdb_id is not None  # noqa: S101 - validated together
    places = Places(config.movies, "all", config.catalog, config.enriched, config.posters)
    source = TagInput(places, card.model.columns, _titles(config))
    for batch in source.rows():
        rows = batch.filter(pc.equal(batch["imdb_id"], config.imdb_id))
        if len(rows):
            row = ImageReader(source.image_files).added_to(rows).to_pylist()[0]
            headline = config.title or row.get("title") or config.imdb_id
            return Movie(headline, row.get("title"), row.get("plot"), row.get("image"))
    raise InputError(f"imdb_id={config.imdb_id}: {config.movies} has no such movie")


def _titles(config: ExplainMovieConfig) -> tuple[str, ...]:
    """The column of titles, where the movies' table or the catalogue has it: for the headline."""
    location = str(config.movies)
    is_table = storage.kind(location) == FileType.Directory
    has_titles = config.catalog is not None or (is_table and "title" in Table(location).dataset.schema.names)
    return ("title",) if has_titles else ()
