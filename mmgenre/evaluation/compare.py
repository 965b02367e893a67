"""The compare job: scores of several models on the same movies, with tests of their differences."""

from collections.abc import Mapping

from pydantic import Field, model_validator

from mmgenre.config import Config, Requirements
from mmgenre.evaluation.job import GroundTruth, Report, ScoredPredictions, ScoringConfig, score_predictions
from mmgenre.scoring.metrics import confidence_intervals, p_value
from mmgenre.tables import storage
from mmgenre.text_tables import markdown, three_decimals

COMPARISON = "comparison.md"
# The scores whose differences are tested, with their names in tables.
_TESTED = {"macro_f1": "macro F1", "mean_average_precision": "mAP", "f1_of_averages": "f1_of_averages"}


class CompareConfig(ScoringConfig):
    """Compare models on the same movies."""

    predictions: dict[str, str] = Field(description="folder of a PREDICTIONS table per model name")
    against: str | None = Field(None, description="name of the baseline model for the tests; null: no tests")
    output: str = Field(description="folder for comparison.md; an existing one is overwritten")

    @model_validator(mode="after")
    def _against_is_a_model(self) -> "CompareConfig":
        if not self.predictions:
            raise ValueError("predictions: none given; give a folder per model, for example predictions.minilm=DIR")
        if self.against is not None and self.against not in self.predictions:
            raise ValueError(f"against: {self.against} is not one of the models {', '.join(self.predictions)}")
        return self

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        return (Requirements(inputs=(*self.predictions.values(), self.movies), outputs=(self.output,)),)


class Difference(Config):
    """The difference between two models' scores on the same movies."""

    value: float
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end of the 95 % interval")
    p: float = Field(description="p-value of a two-sided bootstrap test of no difference")

    def __str__(self) -> str:
        """The difference with its interval and p-value, for a table cell."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p {self.p:.3f}"


def compare(config: CompareConfig) -> str:
    """Compare the models; returns a Markdown text that is also written to comparison.md.

    Raises:
        InputError: predictions cannot be scored; see `evaluate`.
    """
    truth = GroundTruth.of(config)
    scored = {name: score_predictions(truth, directory) for name, directory in config.predictions.items()}
    parts = [f"{len(truth.labels):,} movies, split {config.split}, having {config.having}."]
    parts.append(markdown(comparison_rows({name: model.report for name, model in scored.items()})))
    if config.against is not None:
        parts.append(_differences_table(scored, config.against))
    text = "\n\n".join(parts)
    storage.write_bytes(storage.join(config.output, COMPARISON), f"{text}\n".encode())
    return text


def comparison_rows(reports: Mapping[str, Report]) -> list[list[str]]:
    """Table rows, the header first, from the reports of models on the same movies."""
    header = ["model", *_TESTED.values(), "micro F1", "weighted F1", "samples F1", "Hamming loss"]
    return [header, *([name, *_cells(report)] for name, report in reports.items())]


def differences(one: ScoredPredictions, other: ScoredPredictions) -> dict[str, Difference]:
    """Differences by score name, from the same bootstrap samples for both models."""
    resampled = {name: one.resampled[name] - other.resampled[name] for name in _TESTED}
    limits = confidence_intervals(resampled)
    return {
        name: Difference(
            value=_score(one.report, name) - _score(other.report, name),
            low=limits[name][0],
            high=limits[name][1],
            p=p_value(values),
        )
        for name, values in resampled.items()
    }


def _cells(report: Report) -> list[str]:
    scores = report.scores
    tested = [f"{_score(report, name):.3f} {report.interval(name)}" for name in _TESTED]
    return tested + three_decimals(scores.micro.f1, scores.weighted.f1, scores.samples.f1, scores.hamming_loss)


def _differences_table(scored: Mapping[str, ScoredPredictions], against: str) -> str:
    rows = [[f"difference from {against}", *_TESTED.values()]]
    for name, model in scored.items():
        if name != against:
            rows.append([name, *map(str, differences(model, scored[against]).values())])
    return markdown(rows)


def _score(report: Report, name: str) -> float:
    return report.scores.macro.f1 if name == "macro_f1" else getattr(report.scores, name)
