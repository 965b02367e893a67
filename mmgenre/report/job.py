"""Tables, predictions and checkpoints → one HTML page about a dataset and its models, with the figures as SVG files."""

import hashlib
from collections.abc import Iterator
from typing import Self

from pydantic import Field, model_validator

import mmgenre
from mmgenre.config import Config, Requirements
from mmgenre.errors import InputError
from mmgenre.evaluation.job import GroundTruth, ScoringConfig, model_weights_sha256, score_predictions
from mmgenre.labels import decode
from mmgenre.report.blocks import Section
from mmgenre.report.mistakes import Mistakes
from mmgenre.report.model_section import model_section
from mmgenre.report.movies import MovieCards, MovieColumns
from mmgenre.report.movies_section import movies_section
from mmgenre.report.page import IMAGES, INDEX, OWNED, PAGE, Renderer, ReportPage
from mmgenre.report.scored_model import ScoredModel, genre_intervals
from mmgenre.report.scores_section import scores_section
from mmgenre.report.thresholds import ThresholdsInUse
from mmgenre.report.training_section import TrainingRecord, training_section
from mmgenre.scoring.metrics import Bootstrap
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, POSTERS, PREDICTIONS
from mmgenre.tables.table import Table

JOB = "report"
_SCHEMAS = {"movies": MOVIES, "catalog": CATALOG, "enriched": ENRICHED, "posters": POSTERS}


class ReportedModel(Config):
    """One model of a report."""

    predictions: str = Field(description="folder of the model's PREDICTIONS table")
    checkpoint: str | None = Field(
        None, description="folder of the model's checkpoint, for its inputs and its training history"
    )


class ReportConfig(ScoringConfig):
    """Show a dataset and the models trained on it on one page, which names the inputs that were not given."""

    models: dict[str, ReportedModel] = Field(default_factory=dict, description="models by a name of your choice")
    against: str | None = Field(
        None, description="name of the model that the others are tested against; null: the first one"
    )
    catalog: str | None = Field(None, description="folder of the CATALOG table, for genre counts before balancing")
    enriched: str | None = Field(None, description="folder of the ENRICHED table, for the results of fetching plots")
    posters: str | None = Field(None, description="folder of the POSTERS table, for the results of fetching posters")
    output: str = Field(description="folder of the report; an earlier report in it is replaced")
    site: bool = Field(
        False, description="write an index.html with separate image files, for a web server; false: one page with all"
    )
    title: str = Field("Movies and their genres", min_length=1, description="heading of the page")
    global_threshold: float | None = Field(
        None, ge=0, le=1, description="threshold of f1_of_averages; null: the one recorded with the predictions"
    )
    samples: int = Field(12, ge=0, description="number of randomly chosen movies to show")
    mistakes: int = Field(6, ge=0, description="most confident false positives and false negatives shown per model")
    plot_words: int = Field(60, ge=0, description="words shown of each plot; 0: none, for pages to be published")
    poster_side: int = Field(
        180, ge=0, description="longest side of the posters in pixels; 0: no posters, for pages to be published"
    )
    max_posters: int = Field(40, ge=0, description="maximum number of posters, those of the sample movies first")

    @model_validator(mode="after")
    def _against_is_a_model(self) -> Self:
        if self.against is not None and self.against not in self.models:
            raise ValueError(
                f"against: {self.against} is not one of the models {', '.join(self.models) or '(none given)'}"
            )
        return self

    @property
    def page(self) -> str:
        """Location of the page."""
        return storage.join(self.output, INDEX if self.site else PAGE)

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        tables = (self.movies, self.catalog, self.enriched, self.posters)
        models = [location for model in self.models.values() for location in (model.predictions, model.checkpoint)]
        return (Requirements(inputs=(*tables, *models), outputs=(self.output,)),)


def report(config: ReportConfig) -> Manifest:
    """Write the report; return at once if the same report of the same inputs exists.

    Raises:
        InputError: a table or checkpoint is missing, damaged or of another kind, predictions cannot be scored (see
            `evaluate`), or the output folder holds something else.
    """
    inputs = Inputs(config)
    output = Output(config.output, inputs.recipe, OWNED, overwrite=True)
    if output.finished is not None and storage.exists(config.page):
        return output.finished
    files = Renderer(site=config.site).render(inputs.page())
    counts = {"pictures": sum(name.startswith(IMAGES) for name in files), "page": 1}
    notes = {"bytes": sum(map(len, files.values())), "page_bytes": len(list(files.values())[-1])}
    with output:
        for name, content in files.items():
            output.write(name, content)
        return output.complete(inputs.num_movies, counts, notes, list(files))


class Inputs:
    """The tables, predictions and checkpoints of a report.

    Args:
        config: names their folders.

    Raises:
        InputError: one is missing, damaged or of another kind, or a checkpoint is not the one that predicted.
    """

    def __init__(self, config: ReportConfig):
        self._config = config
        directories = {role: getattr(config, role) for role in _SCHEMAS}
        self._tables = {
            role: Table(directory, _SCHEMAS[role]) for role, directory in directories.items() if directory is not None
        }
        self._movies = self._tables["movies"]
        self._predictions = {name: Table(model.predictions, PREDICTIONS) for name, model in config.models.items()}
        self._training: dict[str, TrainingRecord | None] = {}
        for name, model in config.models.items():
            record = None if model.checkpoint is None else TrainingRecord.read(model.checkpoint)
            predicted_by = model_weights_sha256(self._predictions[name])
            if record is not None and predicted_by not in (None, record.card.weights_sha256):
                raise InputError(
                    f"models.{name}.checkpoint={model.checkpoint}: not the model that made the predictions; "
                    "give the checkpoint that predicted them"
                )
            self._training[name] = record

    @property
    def num_movies(self) -> int:
        """Rows of the MOVIES table."""
        return self._movies.manifest.rows

    @property
    def recipe(self) -> Recipe:
        """Settings and input fingerprints."""
        tables = self._tables | {f"models.{name}.predictions": table for name, table in self._predictions.items()}
        inputs = {role: table.manifest.fingerprint for role, table in tables.items()}
        for name, record in self._training.items():
            if record is not None:
                inputs[f"models.{name}.checkpoint"] = hashlib.sha256(repr(record).encode()).hexdigest()
        settings = self._config.to_settings(without={*_SCHEMAS, "models", "output"}) | {
            "models": list(self._predictions)
        }
        return Recipe(job=JOB, settings=settings, inputs=inputs)

    def page(self) -> ReportPage:
        """Compute the content of the page."""
        lead = f"A dataset of {self.num_movies:,} movies"
        if self._predictions:
            lead += f", and the predictions of {', '.join(self._predictions)}"
        footer = f"Made by jobs/{JOB}.py of mmgenre {mmgenre.__version__} from the dataset "
        footer += f"{self._movies.manifest.fingerprint[:12]}. Each figure is also an SVG file in the folder figures."
        return ReportPage(self._config.title, f"{lead}.", list(self._sections()), footer)

    def _sections(self) -> Iterator[Section]:
        config, columns = self._config, MovieColumns.read(self._movies)
        truth = GroundTruth.of(config) if self._predictions else None
        models = {} if truth is None else {name: self._scored(truth, name) for name in self._predictions}
        mistakes = (
            {} if truth is None else {name: Mistakes(truth, model, config.mistakes) for name, model in models.items()}
        )
        sampled = columns.sample(config.samples, config.seed)
        cards = MovieCards(
            self._movies,
            [*sampled, *(imdb_id for of_model in mistakes.values() for imdb_id in of_model.ids)],
            plot_words=config.plot_words,
            poster_side=config.poster_side,
            max_posters=config.max_posters,
        )
        samples = [cards.card(imdb_id, decode(labels)) for imdb_id, labels in sampled.items()]
        yield movies_section(columns, self._tables, samples)
        yield training_section(self._training)
        yield scores_section(truth, models, config.against or next(iter(models), None))
        if truth is not None:
            for number, (name, model) in enumerate(models.items(), start=1):
                blocks = mistakes[name].blocks(cards) if config.mistakes else []
                yield model_section(number, name, truth, model, blocks)

    def _scored(self, truth: GroundTruth, name: str) -> ScoredModel:
        config, table = self._config, self._predictions[name]
        predictions = score_predictions(truth, table.directory, config.global_threshold)
        bootstrap = Bootstrap(resamples=config.resamples, seed=config.seed)
        return ScoredModel(
            predictions=predictions,
            intervals=genre_intervals(predictions.decided, truth.labels, bootstrap),
            thresholds=ThresholdsInUse.of(table.manifest, predictions.report.statuses),
            training=self._training[name],
        )
