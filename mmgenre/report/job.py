"""Tables, predictions and checkpoints → a page that people look at, and its figures as files."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Self

from pydantic import Field, model_validator

import mmgenre
from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.evaluation.job import JudgeConfig, Truth, judge, weights_of
from mmgenre.report.blocks import Section
from mmgenre.report.genre_intervals import genre_intervals
from mmgenre.report.model_section import Mistakes, model_section
from mmgenre.report.movies import Details, MovieRows, details, thumbnail
from mmgenre.report.movies_section import DataTables, data_section, samples_of
from mmgenre.report.page import INDEX, OWNED, PAGE, PICTURES, Page, Printer
from mmgenre.report.scores_section import Scored, scores_section
from mmgenre.report.thresholds import Cutoffs
from mmgenre.report.training_section import Trained, training_section
from mmgenre.scoring.metrics import Bootstrap
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Output, Recipe
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, POSTERS, PREDICTIONS
from mmgenre.tables.table import Table

JOB = "report"
_PLACES = ("movies", "catalog", "enriched", "posters", "models", "output")


class ReportedModel(Config):
    """What there is of one model."""

    predictions: str = Field(description="folder of its PREDICTIONS table")
    checkpoint: str | None = Field(
        None, description="folder of the checkpoint: what the model reads, and how it was trained; null: not shown"
    )


class ReportConfig(JudgeConfig):
    """Show movies and models on one page; what is not given is missing there, and said to be."""

    models: dict[str, ReportedModel] = Field(default_factory=dict, description="by a name of your choice")
    against: str | None = Field(
        None, description="name of the model that the others are tested against; null: the first one"
    )
    catalog: str | None = Field(None, description="folder of the CATALOG table, for genres before balancing")
    enriched: str | None = Field(None, description="folder of the ENRICHED table, for plots that were not found")
    posters: str | None = Field(None, description="folder of the POSTERS table, for posters that were not found")
    output: str = Field(description="folder of the report; a report that is there is replaced")
    site: bool = Field(
        False, description="an index.html with its pictures and style as files, for a web server; not one page with all"
    )
    title: str = Field("Movies and their genres", min_length=1, description="heading of the page")
    global_threshold: float | None = Field(
        None, ge=0, le=1, description="cut-off of f1_of_averages; null takes the one recorded with the predictions"
    )
    samples: int = Field(12, ge=0, description="movies shown as they are")
    mistakes: int = Field(6, ge=0, description="most confident mistakes shown of each model, of each kind")
    plot_words: int = Field(60, ge=0, description="words shown of a plot; 0: none, for pages that are published")
    poster_side: int = Field(
        180, ge=0, description="longest side of a poster, in pixels; 0: none, for pages that are published"
    )
    max_posters: int = Field(40, ge=0, description="posters shown at the most, those of the samples first")

    @model_validator(mode="after")
    def _against_one_of_them(self) -> Self:
        if self.against is not None and self.against not in self.models:
            raise ValueError(
                f"against: {self.against} is none of the models {', '.join(self.models) or '(none given)'}"
            )
        return self

    @property
    def page(self) -> str:
        """Where the page is written."""
        return storage.join(self.output, INDEX if self.site else PAGE)


def report(config: ReportConfig) -> Manifest:
    """Write the page and its figures, or return at once when they are there already, made of the same.

    Raises:
        InputError: a table or checkpoint is missing, damaged or of another kind, predictions cannot be scored (see
            `evaluate`), or the output holds something else.
    """
    inputs = Inputs(config)
    output = Output(config.output, inputs.recipe, OWNED)
    complete = output.finished()
    if complete is not None and storage.exists(config.page):
        return complete
    # What must not be replaced is refused before the work.
    keeps = output.keeps(overwrite=True, keep="nothing")
    files = Printer(site=config.site).print(inputs.page())
    output.start(keeps=keeps)
    for name, content in files.items():
        storage.write_bytes(output.path(name), content)
    counts = {"pictures": sum(name.startswith(PICTURES) for name in files), "page": 1}
    notes = {"bytes": sum(map(len, files.values())), "page_bytes": len(list(files.values())[-1])}
    return output.complete(inputs.num_movies, counts, notes, list(files))


class Inputs:
    """All that a report is made of.

    Args:
        config: says where it is.
    """

    def __init__(self, config: ReportConfig):
        self._config = config
        self._movies = Table(config.movies, MOVIES)
        self._catalog = None if config.catalog is None else Table(config.catalog, CATALOG)
        self._enriched = None if config.enriched is None else Table(config.enriched, ENRICHED)
        self._posters = None if config.posters is None else Table(config.posters, POSTERS)
        self._predictions = {name: Table(one.predictions, PREDICTIONS) for name, one in config.models.items()}
        self._trained = {
            name: None if one.checkpoint is None else Trained.of(one.checkpoint) for name, one in config.models.items()
        }
        for name, one in self._trained.items():
            self._require_own(name, one)

    def _require_own(self, name: str, trained: Trained | None) -> None:
        """Raise InputError for the checkpoint of another model."""
        predicted = weights_of(self._predictions[name])
        if trained is not None and predicted not in (None, trained.card.weights_sha256):
            where = f"models.{name}.checkpoint={self._config.models[name].checkpoint}"
            raise InputError(f"{where}: another model than that of its predictions; give the one that predicted them")

    @property
    def num_movies(self) -> int:
        """Rows of the MOVIES table."""
        return self._movies.manifest.rows

    @property
    def recipe(self) -> Recipe:
        """What the report is made of."""
        tables = {
            "movies": self._movies,
            "catalog": self._catalog,
            "enriched": self._enriched,
            "posters": self._posters,
        } | {f"models.{name}.predictions": table for name, table in self._predictions.items()}
        inputs = {role: table.manifest.fingerprint for role, table in tables.items() if table is not None}
        for name, trained in self._trained.items():
            if trained is not None:
                inputs[f"models.{name}.checkpoint"] = hashlib.sha256(repr(trained).encode()).hexdigest()
        settings = self._config.to_settings(without=_PLACES) | {"models": list(self._predictions)}
        return Recipe(job=JOB, settings=settings, inputs=inputs)

    def page(self) -> Page:
        """All of it, before it is printed."""
        config = self._config
        lead = f"{self.num_movies:,} movies to learn from"
        if self._predictions:
            lead += f", and what {', '.join(self._predictions)} made of them"
        made_by = f"Made by jobs/{JOB}.py of mmgenre {mmgenre.__version__} from the movies "
        made_by += f"{self._movies.manifest.fingerprint[:12]}; every figure is a PNG and an SVG file, too."
        return Page(config.title, f"{lead}.", list(self._sections()), made_by)

    def _sections(self) -> Iterator[Section]:
        config, rows = self._config, MovieRows.of(self._movies)
        truth = Truth.of(config) if self._predictions else None
        models = {} if truth is None else {name: self._scored(truth, name) for name in self._predictions}
        mistakes = (
            {} if truth is None else {name: Mistakes(truth, one, config.mistakes) for name, one in models.items()}
        )
        sampled = rows.sample(config.samples, config.seed)
        shown = [*sampled, *(imdb_id for one in mistakes.values() for imdb_id in one.ids)]
        found = details(self._movies, shown)
        posters = self._thumbnails(shown, found)
        samples = samples_of(rows, sampled, found, config.plot_words, posters) if sampled else None
        yield data_section(DataTables(rows, self._catalog, self._enriched, self._posters), samples)
        yield training_section(self._trained)
        yield scores_section(truth, models, config.against or next(iter(models), None))
        if truth is not None:
            for place, (name, model) in enumerate(models.items(), start=1):
                blocks = mistakes[name].blocks(found, config.plot_words, posters) if config.mistakes else []
                yield model_section(place, name, truth, model, blocks)

    def _scored(self, truth: Truth, name: str) -> Scored:
        config, predictions = self._config, self._predictions[name]
        judged = judge(truth, predictions.directory, config.global_threshold)
        return Scored(
            judged=judged,
            intervals=genre_intervals(
                judged.decided, truth.labels, Bootstrap(resamples=config.resamples, seed=config.seed)
            ),
            cutoffs=Cutoffs.of(predictions.manifest, judged.report.statuses),
            trained=self._trained[name],
        )

    def _thumbnails(self, ids: list[str], found: Mapping[str, Details]) -> dict[str, bytes]:
        """Small posters of the first movies that have one, by id, as many as are to be shown."""
        small: dict[str, bytes] = {}
        for imdb_id in dict.fromkeys(ids):
            if len(small) == self._config.max_posters:
                break
            poster = thumbnail(found[imdb_id].image, self._config.poster_side)
            if poster is not None:
                small[imdb_id] = poster
        return small
