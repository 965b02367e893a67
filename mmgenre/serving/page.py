"""The demo page: a single HTML file that talks to nothing but the service."""

import base64
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from mmgenre import pages
from mmgenre.labels import GENRES
from mmgenre.models.checkpoint import Card
from mmgenre.serving.config import ServingConfig
from mmgenre.serving.examples import EXAMPLES
from mmgenre.tables.schema import PredictStatus
from mmgenre.tagging.decisions import DecisionConfig, Decisions, calibrations

_INPUTS = {"title": "the title", "plot": "the plot", "image": "the poster"}
_EVIDENCE = {"plot": "the words", "image": "the regions"}
_SCORES = {
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "mean_average_precision": "Mean average precision",
    "f1_of_averages": "F1 of averaged precision and recall",
}
_SINGLE_INPUTS = {"text_only": "Plot only", "poster_only": "Poster only"}


@dataclass(frozen=True)
class DemoPage:
    """The rendered page.

    Args:
        html: the whole page.
        headers: response headers, with a Content-Security-Policy that forbids everything the page does not do.
    """

    html: str
    headers: dict[str, str]


def render_page(card: Card, config: ServingConfig) -> DemoPage:
    """The page for a trained model.

    Args:
        card: of the model.
        config: of the service.
    """
    columns, limits = card.model.columns, config.limits.model_dump()
    html = pages.render(
        "demo.html",
        title="Movie genres",
        reads=_joined([_INPUTS[column] for column in columns]),
        inputs=_required_inputs(columns),
        evidence=_joined([name for column, name in _EVIDENCE.items() if column in columns]),
        ignored=_joined([name for column, name in _INPUTS.items() if column not in columns]),
        columns=columns,
        family=card.model.family.replace("_", " "),
        version=card.version,
        scores=[(_SCORES.get(name, name), value) for name, value in card.scores.items()],
        cutoffs=_cutoffs(card, config),
        top_k=config.top_k,
        limits=limits,
        settings={"limits": limits, "reads": list(columns), "genres": GENRES, "timeout_s": _timeouts(config)},
        examples=EXAMPLES,
        genres=GENRES,
        megabytes=_megabytes,
        percent=_percent,
    )
    return DemoPage(html, {"Content-Security-Policy": _content_policy(html), "Referrer-Policy": "no-referrer"})


def _timeouts(config: ServingConfig) -> dict[str, float]:
    """Seconds that the page waits for each route: twice the service's own timeout, to allow for the network."""
    seconds = {"predict": config.timeout_s, "explain": config.explain_timeout_s, "tag": config.table_timeout_s}
    return {route: 2 * timeout for route, timeout in seconds.items()}


def _required_inputs(columns: Collection[str]) -> str:
    if "plot" not in columns:
        return "poster"
    return "plot, its poster or both" if "image" in columns else "plot"


def _cutoffs(card: Card, decisions: DecisionConfig) -> dict[str, list[float]]:
    """Thresholds in GENRES order, by table heading."""
    decide = Decisions(calibrations(card, "the model"), decisions)
    all_inputs = "Plot and poster" if card.alone else "Threshold"
    headings = {PredictStatus.TEXT_AND_POSTER: all_inputs}
    headings |= {PredictStatus(status): _SINGLE_INPUTS[status] for status in card.alone}
    return {heading: decide.cutoffs(status).tolist() for status, heading in headings.items()}


def _content_policy(html: str) -> str:
    """A Content-Security-Policy that allows only the page's own style and scripts, by hash."""
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


def _joined(names: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f}".removesuffix(".0") + " MB"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
