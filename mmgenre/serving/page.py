"""The page on which people try a model: one HTML file that asks for nothing but the service's own answers."""

import base64
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from mmgenre import pages
from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.serving.config import ServiceConfig
from mmgenre.serving.examples import EXAMPLES
from mmgenre.tables.schema import PredictStatus
from mmgenre.tagging.decisions import DecisionConfig, Decisions, calibrations

_READS = {"title": "the title", "plot": "the plot", "image": "the poster"}
_REASONS = {"plot": "the words", "image": "the regions"}
_SCORES = {
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "mean_average_precision": "Mean average precision",
    "f1_of_averages": "F1 of averaged precision and recall",
}
_ALONE = {"text_only": "Plot alone", "poster_only": "Poster alone"}


@dataclass(frozen=True)
class Page:
    """What is sent to the browser.

    Args:
        html: the page, whole.
        headers: that it is sent with; they forbid everything that the page does not do.
    """

    html: str
    headers: dict[str, str]


def page(card: Card, config: ServiceConfig) -> Page:
    """The page for a trained model.

    Args:
        card: the model's.
        config: of the service.
    """
    reads, limits = card.model.columns, config.limits.model_dump()
    html = pages.render(
        "demo.html",
        title="Genres of a movie",
        reads=_listed([_READS[column] for column in reads]),
        gives=_gives(reads),
        reasons=_listed([name for column, name in _REASONS.items() if column in reads]),
        ignored=_listed([name for column, name in _READS.items() if column not in reads]),
        reads_columns=reads,
        family=card.model.family.replace("_", " "),
        version=card.version,
        scores=[(_SCORES.get(name, name), value) for name, value in card.scores.items()],
        cutoffs=_cutoffs(card, config),
        top_k=config.top_k,
        limits=limits,
        settings={"limits": limits, "reads": list(reads), "genres": GENRES, "patience_s": _patience_s(config)},
        examples=EXAMPLES,
        genres=GENRES,
        megabytes=_megabytes,
        percent=_percent,
    )
    return Page(html, {"Content-Security-Policy": _policy(html), "Referrer-Policy": "no-referrer"})


def _patience_s(config: ServiceConfig) -> dict[str, float]:
    """How long the page waits for the answer to a request: what the service allows itself, and as long for the way."""
    seconds = {"predict": config.timeout_s, "explain": config.explain_timeout_s, "tag": config.table_timeout_s}
    return {name: 2 * allowed for name, allowed in seconds.items()}


def _gives(reads: Collection[str]) -> str:
    """What a person is asked for."""
    if "plot" not in reads:
        return "poster"
    return "plot, its poster or both" if "image" in reads else "plot"


def _cutoffs(card: Card, decisions: DecisionConfig) -> dict[str, list[float]]:
    """By the heading of their column, in GENRES order."""
    decide = Decisions(calibrations(card, "the model"), decisions)
    usual = "Plot and poster" if card.alone else "Threshold"
    headings = {PredictStatus.TEXT_AND_POSTER: usual} | {PredictStatus(status): _ALONE[status] for status in card.alone}
    return {heading: decide.cutoffs(status).tolist() for status, heading in headings.items()}


def _policy(html: str) -> str:
    """A Content-Security-Policy under which only the page's own style and scripts are taken."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(html, 'script')}",
            f"style-src {_hashes(html, 'style')}",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hashes(html: str, tag: str) -> str:
    contents = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _listed(names: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f}".removesuffix(".0") + " MB"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
