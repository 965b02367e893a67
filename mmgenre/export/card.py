"""The README.md of an exported checkpoint: a model card for people, with front matter for hubs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmgenre.evaluation.job import Report
from mmgenre.export.facts import Facts
from mmgenre.export.parity import Parity
from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.tagging.decisions import calibrations
from mmgenre.text_tables import figures, markdown

_TEMPLATE = "model_card.md"
_TASKS = {"plots": "text-classification", "posters": "image-classification"}
OTHER = "other"
_AVERAGES = ("macro", "micro", "weighted", "samples")


@dataclass(frozen=True)
class Known:
    """What a card tells that the checkpoint does not say.

    Args:
        name: of the folder.
        license: a hub's name for it, or OTHER.
        data: what the model was trained on, Markdown; None: not known.
        base_model: hub name of the pretrained encoder; None: none, or not known.
        report: scores of movies that it was not trained on.
        parity: of model.onnx; None: there is no such file.
        movies: of the training, by split.
        files: what is in the folder, and what it is.
    """

    name: str
    license: str
    data: str | None
    base_model: str | None
    report: Report | None
    parity: Parity | None
    movies: Mapping[str, int]
    files: Sequence[tuple[str, str]]


def model_card(card: Card, facts: Facts, known: Known) -> str:
    """The card as Markdown, its front matter as the Hugging Face Hub reads it."""
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            facts=facts,
            front_matter=_front_matter(card, facts, known),
            title=f"{known.name}: movie genres from {facts.reads}",
            name=known.name,
            genres=GENRES,
            version=card.version,
            onnx=known.parity is not None,
            parity=known.parity,
            scores_text=_scores_text(card, known.report),
            score_tables=_score_tables(card, known.report),
            threshold_kind="one for each genre"
            if card.thresholds and card.thresholds.kind == "per_genre"
            else "one for all genres",
            threshold_table=_threshold_table(card, facts),
            cutoffs=[round(float(value), 6) for value in card.thresholds.cutoffs()] if card.thresholds else [],
            temperature=round(card.temperature, 6),
            data_text=_data_text(known),
            data_table=_data_table(card, known),
            settings=_settings(card),
            license_text=_license_text(known.license),
            files=known.files,
        )
    )


def _front_matter(card: Card, facts: Facts, known: Known) -> str:
    from huggingface_hub import ModelCardData  # noqa: PLC0415 - slow to import

    tags = ["movies", "movie-genres", "multi-label-classification", "safetensors", card.model.family]
    other: dict[str, Any] = {
        "license_name": "terms-of-imdb-and-tmdb",
        "license_link": "https://developer.imdb.com/non-commercial-datasets/",
    }
    data = ModelCardData(
        # Of transformers a hub would offer a line that loads a head of random weights; see the card.
        library_name="mmgenre",
        license=known.license,
        **other if known.license == OTHER else {},
        language=["en"] if facts.text else None,
        pipeline_tag=_TASKS.get(facts.reads, _TASKS["plots"]),
        tags=tags + (["onnx"] if known.parity else []) + (["multimodal"] if facts.is_fusion else []),
        base_model=known.base_model,
        metrics=["f1", "precision", "recall"],
        model_name=known.name if known.report else None,
        eval_results=_results(facts, known.report) if known.report else None,
    )
    return data.to_yaml(line_break="\n").strip()


def _results(facts: Facts, report: Report) -> list[Any]:
    from huggingface_hub import EvalResult  # noqa: PLC0415 - slow to import

    scores = report.scores
    found = {
        ("f1", "Macro F1"): scores.macro.f1,
        ("f1", "Micro F1"): scores.micro.f1,
        ("precision", "Macro precision"): scores.macro.precision,
        ("recall", "Macro recall"): scores.macro.recall,
        ("mean_average_precision", "Mean average precision"): scores.mean_average_precision,
        ("hamming_loss", "Hamming loss"): scores.hamming_loss,
        **{("f1", f"F1 of {one.genre}"): one.f1 for one in scores.genres if one.support},
    }
    return [
        EvalResult(
            task_type=_TASKS.get(facts.reads, _TASKS["plots"]),
            task_name="Movie genres",
            dataset_type="mmgenre",
            dataset_name=f"mmgenre MOVIES {report.dataset_fingerprint[:12]}",
            dataset_split=report.split,
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for (kind, name), value in found.items()
    ]


def _scores_text(card: Card, report: Report | None) -> str:
    if report is None:
        return (
            "Of the validation movies, on which epoch, temperature and thresholds were chosen (genres of each were "
            "decided at thresholds fitted on others): movies that nothing was chosen on will score a little lower."
        )
    having = "" if report.having == "any" else f" that have {report.having}"
    same = "" if report.dataset_fingerprint == card.dataset else " of another dataset than it was trained on"
    lost = report.unpredicted
    wrong = f"; {lost:,} of them had nothing that it reads, and count as movies without a genre" if lost else ""
    return (
        f"Of {report.movies:,} movies of the {report.split} split{same}{having}{wrong}. In brackets 95 % intervals of "
        f"{report.resamples:,} bootstrap resamples of these movies: how far a score would move on others of that kind."
    )


def _score_tables(card: Card, report: Report | None) -> list[str]:
    if report is None:
        rows = [[name.replace("_", " "), *figures(value)] for name, value in card.scores.items()]
        return [markdown([["validation", "score"], *rows])]
    scores = report.scores
    averages = [["average", "precision", "recall", "F1"]]
    for name in _AVERAGES:
        one = getattr(scores, name)
        f1 = f"{one.f1:.3f} {report.interval(f'{name}_f1')}"
        averages.append([name, *figures(one.precision, one.recall), f1])
    singles = [
        ["mean average precision", f"{scores.mean_average_precision:.3f} {report.interval('mean_average_precision')}"],
        ["Hamming loss", *figures(scores.hamming_loss)],
        ["every genre right (subset accuracy)", *figures(scores.subset_accuracy)],
        ["expected calibration error", *figures(scores.expected_calibration_error)],
    ]
    genres = [["genre", "precision", "recall", "F1", "average precision", "movies", "predicted"]]
    for genre in scores.genres:
        precision = "-" if genre.average_precision is None else f"{genre.average_precision:.3f}"
        f1 = f"{genre.f1:.3f} {report.interval(genre.genre)}"
        counts = [f"{genre.support:,}", f"{genre.predicted:,}"]
        genres.append([genre.genre, *figures(genre.precision, genre.recall), f1, precision, *counts])
    return [markdown(averages), markdown([["all movies", "score"], *singles]), markdown(genres)]


def _threshold_table(card: Card, facts: Facts) -> str:
    found = calibrations(card, "the checkpoint")
    names = {facts.status: "threshold"}
    if facts.is_fusion:
        names = {"text_and_poster": "plot and poster", "text_only": "plot alone", "poster_only": "poster alone"}
    cutoffs = [[f"{value:.3f}" for value in found[status].thresholds.cutoffs()] for status in names]
    rows = [[genre, *row] for genre, *row in zip(GENRES, *cutoffs, strict=True)]
    temperatures = [f"{found[status].temperature:.3f}" for status in names]
    return markdown([["genre", *names.values()], *rows, ["temperature", *temperatures]])


def _data_text(known: Known) -> str:
    if known.data is not None:
        return known.data
    return (
        "Made for movies of IMDb's dump, whose genres are the labels, with plots and posters of TMDB or OMDb. The "
        "checkpoint knows its dataset by a fingerprint only; who trained on another one says so here by `data=`."
    )


def _data_table(card: Card, known: Known) -> str:
    training, is_in_epochs = card.training, card.model.family != "tfidf"
    rows = [["dataset, fingerprint", f"`{card.dataset}`" if card.dataset else "not recorded"]]
    chosen = "epoch, temperature and thresholds" if is_in_epochs else "temperature and thresholds"
    names = {"train": "learned from", "val": f"that {chosen} were chosen on"}
    rows += [[f"movies {names.get(split, split)}", f"{count:,}"] for split, count in known.movies.items()]
    if known.report is not None:
        rows.append(["movies scored", f"{known.report.movies:,} ({known.report.split})"])
    shown = {"epochs": "epochs, at the most", "batch_size": "batch size", "seed": "seed", "score": "epoch chosen by"}
    rows += [[said, str(training[name])] for name, said in shown.items() if is_in_epochs and name in training]
    rows.append(["split", "by groups of movies with the same plot, so that none is learned from and scored"])
    return markdown([["", ""], *rows])


def _settings(card: Card) -> str:
    settings = {"model": card.model.to_settings()}
    if card.model.family != "tfidf":
        settings["training"] = card.training
    return json.dumps(without_folders(settings), indent=2, ensure_ascii=False)


def without_folders(value: Any) -> Any:
    """JSON values in which a path of the machine that they are from is the name of its last part alone."""
    if isinstance(value, dict):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    is_path = isinstance(value, str) and (value.startswith(("/", "~", ".")) or "://" in value or value.count("/") > 1)
    return PurePath(value).name or value if is_path else value


def _license_text(license_name: str) -> str:
    if license_name != OTHER:
        return f"These weights are given under `{license_name}`, chosen by who exported them. Their sources have terms:"
    return (
        "`other`: weights that were learned from IMDb's labels and TMDB's plots are not free of the terms of these "
        "sources, so no open licence is claimed for them; the licence of a pretrained encoder goes on to hold, too. "
        "Who trained on data of their own chooses a licence of their own (`license=` of the export)."
    )


@cache
def _environment() -> Environment:
    """Markdown, in which nothing is escaped: all that is put in is this package's, or its user's own."""
    return Environment(  # noqa: S701 - not HTML
        loader=PackageLoader("mmgenre", "pages/templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
