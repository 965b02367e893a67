"""Several models' PREDICTIONS of the same movies side by side, and whether they differ by more than chance."""

from collections.abc import Mapping

from pydantic import Field, model_validator

from mmgenre.config import Config
from mmgenre.evaluation.job import JudgeConfig, Judged, Report, Truth, judge
from mmgenre.scoring.metrics import intervals, p_value
from mmgenre.tables import storage
from mmgenre.text_tables import figures, markdown

COMPARISON = "comparison.md"
# What the test of a difference is made for.
_TESTED = {"macro_f1": "macro F1", "mean_average_precision": "mAP", "f1_of_averages": "f1_of_averages"}


class CompareConfig(JudgeConfig):
    """Compare models on the same movies."""

    predictions: dict[str, str] = Field(description="folder of each model's PREDICTIONS table, by the model's name")
    against: str | None = Field(None, description="name of the model that the others are tested against; null: no test")
    output: str = Field(description="folder for comparison.md, which is replaced")

    @model_validator(mode="after")
    def _against_one_of_them(self) -> "CompareConfig":
        if not self.predictions:
            raise ValueError("predictions: none; give a folder for each model, such as predictions.minilm=DIR")
        if self.against is not None and self.against not in self.predictions:
            raise ValueError(f"against: {self.against} is none of the models {', '.join(self.predictions)}")
        return self


class Difference(Config):
    """How far one model's score is from another's, on the same movies."""

    value: float
    low: float = Field(description="of the 95 % interval")
    high: float = Field(description="of the 95 % interval")
    p: float = Field(description="of a two-sided bootstrap test that there is none")

    def __str__(self) -> str:
        """The difference, its interval and p, for a cell of a table."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}], p {self.p:.3f}"


def compare(config: CompareConfig) -> str:
    """Markdown of all models' scores, and of the differences from one of them; written to comparison.md, too.

    Raises:
        InputError: one of the tables cannot be scored; see `evaluate`.
    """
    truth = Truth.of(config)
    judged = {name: judge(truth, directory) for name, directory in config.predictions.items()}
    parts = [markdown(side_by_side({name: one.report for name, one in judged.items()}))]
    if config.against is not None:
        parts.append(_differences_text(judged, config.against))
    text = "\n\n".join([f"{len(truth.labels):,} movies, split {config.split}, having {config.having}.", *parts])
    storage.write_bytes(storage.join(config.output, COMPARISON), f"{text}\n".encode())
    return text


def side_by_side(reports: Mapping[str, Report]) -> list[list[str]]:
    """Rows of a table of reports of the same movies, by the models' names; the first is the header."""
    header = ["model", *_TESTED.values(), "micro F1", "weighted F1", "samples F1", "Hamming loss"]
    return [header, *([name, *_cells(report)] for name, report in reports.items())]


def differences(one: Judged, other: Judged) -> dict[str, Difference]:
    """By score, from movies resampled for both models alike."""
    drawn = {name: one.resampled[name] - other.resampled[name] for name in _TESTED}
    limits = intervals(drawn)
    return {
        name: Difference(
            value=_score(one.report, name) - _score(other.report, name),
            low=limits[name][0],
            high=limits[name][1],
            p=p_value(values),
        )
        for name, values in drawn.items()
    }


def _cells(report: Report) -> list[str]:
    found = report.scores
    tested = [f"{_score(report, name):.3f} {report.interval(name)}" for name in _TESTED]
    return tested + figures(found.micro.f1, found.weighted.f1, found.samples.f1, found.hamming_loss)


def _differences_text(judged: Mapping[str, Judged], against: str) -> str:
    header = [f"difference from {against}", *_TESTED.values()]
    others = {name: differences(one, judged[against]) for name, one in judged.items() if name != against}
    return markdown([header, *([name, *map(str, found.values())] for name, found in others.items())])


def _score(report: Report, name: str) -> float:
    return report.scores.macro.f1 if name == "macro_f1" else getattr(report.scores, name)
