"""The README.md of an exported checkpoint: a model card with front matter for the Hugging Face Hub."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from mmgenre import pages
from mmgenre.evaluation.job import Report
from mmgenre.export.facts import ModelFacts
from mmgenre.export.parity import Parity
from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.tagging.decisions import calibrations
from mmgenre.text_tables import markdown, three_decimals

OTHER = "other"
_OTHER_LICENSE: dict[str, Any] = {
    "license_name": "terms-of-imdb-and-tmdb",
    "license_link": "https://developer.imdb.com/non-commercial-datasets/",
}
_AVERAGES = ("macro", "micro", "weighted", "samples")
_STATUS_NAMES = {"text_and_poster": "plot and poster", "text_only": "only a plot", "poster_only": "only a poster"}


@dataclass(frozen=True)
class CardDetails:
    """What a model card says beyond the checkpoint.

    Args:
        name: of the model.
        license: a hub's name for it, or OTHER.
        data: Markdown about the training data; None if unknown.
        base_model: hub name of the pretrained encoder; None if unknown or none.
        report: scores on movies outside the training split.
        parity: of model.onnx; None without ONNX.
        movies: number of movies in the training, by split.
        files: name and description of each file in the folder.
    """

    name: str
    license: str
    data: str | None
    base_model: str | None
    report: Report | None
    parity: Parity | None
    movies: Mapping[str, int]
    files: Sequence[tuple[str, str]]


def model_card(card: Card, facts: ModelFacts, details: CardDetails) -> str:
    """The model card as Markdown."""
    text = pages.render(
        "model_card.md",
        card=card,
        facts=facts,
        details=details,
        genres=GENRES,
        front_matter=_front_matter(card, facts, details),
        scores_text=_scores_text(card, details.report),
        score_tables=_score_tables(card, details.report),
        threshold_table=_threshold_table(card, facts),
        cutoffs=[round(float(value), 6) for value in card.thresholds.cutoffs()] if card.thresholds else [],
        data_table=_data_table(card, details),
        settings=_settings(card),
    )
    return f"{text}\n"


def _front_matter(card: Card, facts: ModelFacts, details: CardDetails) -> str:
    """YAML that the hub reads."""
    from huggingface_hub import ModelCardData  # noqa: PLC0415 - slow to import

    tags = ["movies", "movie-genres", "multi-label-classification", "safetensors", card.model.family]
    data = ModelCardData(
        # Not transformers: the hub would suggest code that loads a random head; see the card.
        library_name="mmgenre",
        license=details.license,
        **_OTHER_LICENSE if details.license == OTHER else {},
        language=["en"] if facts.text else None,
        pipeline_tag=_task(facts),
        tags=tags + (["onnx"] if details.parity else []) + (["multimodal"] if facts.is_fusion else []),
        base_model=details.base_model,
        metrics=["f1", "precision", "recall"],
        model_name=details.name if details.report else None,
        eval_results=_eval_results(_task(facts), details.report) if details.report else None,
    )
    return data.to_yaml(line_break="\n").strip()


def _task(facts: ModelFacts) -> str:
    return "text-classification" if facts.text else "image-classification"


def _eval_results(task: str, report: Report) -> list[Any]:
    """The report's scores for the hub."""
    from huggingface_hub import EvalResult  # noqa: PLC0415 - slow to import

    scores = report.scores
    metrics = [
        ("f1", "Macro F1", scores.macro.f1),
        ("f1", "Micro F1", scores.micro.f1),
        ("precision", "Macro precision", scores.macro.precision),
        ("recall", "Macro recall", scores.macro.recall),
        ("mean_average_precision", "Mean average precision", scores.mean_average_precision),
        ("hamming_loss", "Hamming loss", scores.hamming_loss),
        *(("f1", f"F1 of {genre.genre}", genre.f1) for genre in scores.genres if genre.support),
    ]
    return [
        EvalResult(
            task_type=task,
            task_name="Movie genres",
            dataset_type="mmgenre",
            dataset_name=f"mmgenre MOVIES {report.dataset_fingerprint[:12]}",
            dataset_split=report.split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for metric, name, value in metrics
    ]


def _scores_text(card: Card, report: Report | None) -> str:
    if report is None:
        return (
            "Scores on the validation split, on which epoch, temperature and thresholds were chosen (by cross-fitting: "
            "the thresholds for each movie were fitted on other movies). Scores on new movies are slightly lower."
        )
    having = "" if report.having == "any" else f" that have {report.having}"
    dataset = "" if report.dataset_fingerprint == card.dataset else " of another dataset than the training's"
    missing = f"; {report.unpredicted:,} of them had no usable input and count as movies without a genre"
    return (
        f"Scores on {report.movies:,} movies of the {report.split} split{dataset}{having}"
        f"{missing if report.unpredicted else ''}. In brackets: 95 % intervals from {report.resamples:,} bootstrap "
        "resamples of these movies."
    )


def _score_tables(card: Card, report: Report | None) -> list[str]:
    if report is None:
        rows = [[name.replace("_", " "), *three_decimals(value)] for name, value in card.scores.items()]
        return [markdown([["validation", "score"], *rows])]
    scores = report.scores
    averages = [["average", "precision", "recall", "F1"]]
    for name in _AVERAGES:
        average = getattr(scores, name)
        f1 = f"{average.f1:.3f} {report.interval(f'{name}_f1')}"
        averages.append([name, *three_decimals(average.precision, average.recall), f1])
    singles = [
        ["all movies", "score"],
        ["mean average precision", f"{scores.mean_average_precision:.3f} {report.interval('mean_average_precision')}"],
        ["Hamming loss", *three_decimals(scores.hamming_loss)],
        ["subset accuracy (all genres correct)", *three_decimals(scores.subset_accuracy)],
        ["expected calibration error", *three_decimals(scores.expected_calibration_error)],
    ]
    genres = [["genre", "precision", "recall", "F1", "average precision", "movies", "predicted"]]
    for genre in scores.genres:
        precision = "-" if genre.average_precision is None else f"{genre.average_precision:.3f}"
        f1 = f"{genre.f1:.3f} {report.interval(genre.genre)}"
        counts = [f"{genre.support:,}", f"{genre.predicted:,}"]
        genres.append([genre.genre, *three_decimals(genre.precision, genre.recall), f1, precision, *counts])
    return [markdown(averages), markdown(singles), markdown(genres)]


def _threshold_table(card: Card, facts: ModelFacts) -> str:
    by_status = calibrations(card, "the checkpoint")
    columns = _STATUS_NAMES if facts.is_fusion else {facts.status: "threshold"}
    cutoffs = [[f"{value:.3f}" for value in by_status[status].thresholds.cutoffs()] for status in columns]
    rows = [[genre, *row] for genre, *row in zip(GENRES, *cutoffs, strict=True)]
    temperatures = [f"{by_status[status].temperature:.3f}" for status in columns]
    return markdown([["genre", *columns.values()], *rows, ["temperature", *temperatures]])


def _data_table(card: Card, details: CardDetails) -> str:
    has_epochs = card.model.family != "tfidf"
    chosen = "epoch, temperature and thresholds" if has_epochs else "temperature and thresholds"
    splits = {"train": "training movies", "val": f"validation movies (chose {chosen})"}
    rows = [["dataset fingerprint", f"`{card.dataset}`" if card.dataset else "not recorded"]]
    rows += [[splits.get(split, f"{split} movies"), f"{count:,}"] for split, count in details.movies.items()]
    if details.report is not None:
        rows.append([f"scored movies ({details.report.split})", f"{details.report.movies:,}"])
    if has_epochs:
        names = {"epochs": "epochs, maximum", "batch_size": "batch size", "seed": "seed", "score": "epoch chosen by"}
        rows += [[name, str(card.training[key])] for key, name in names.items() if key in card.training]
    rows.append(["split", "movies with the same plot are in the same split"])
    return markdown([["", ""], *rows])


def _settings(card: Card) -> str:
    """Settings of the model and its training as JSON."""
    settings = {"model": card.model.to_settings()}
    if card.model.family != "tfidf":
        settings["training"] = card.training
    return json.dumps(strip_paths(settings), indent=2, ensure_ascii=False)


def strip_paths(value: Any) -> Any:
    """JSON values in which each path is reduced to its last component."""
    if isinstance(value, dict):
        return {key: strip_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strip_paths(item) for item in value]
    is_path = isinstance(value, str) and (value.startswith(("/", "~", ".")) or "://" in value or value.count("/") > 1)
    return PurePath(value).name or value if is_path else value
