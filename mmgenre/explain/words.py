"""How much each word of a plot adds to a model's logits: integrated gradients, from no words to all of them.

Source: Sundararajan, Taly, Yan 2017, arXiv:1703.01365; computed by captum.
"""

import bisect
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mmgenre.models import Batch, GenreModel
from mmgenre.models.alignment import Span
from mmgenre.models.bilstm import Bilstm
from mmgenre.models.tfidf import Tfidf
from mmgenre.models.transformer import Transformer

# Logits of the whole model, shape (B, 9), given what of B texts its text model reads.
Logits = Callable[[Batch], torch.Tensor]
# A stretch of the text, and what it adds to each of G logits: shape (G,).
Share = tuple[Span, np.ndarray]
# A word, with what an apostrophe joins to it.
_WORD = re.compile(r"\w+(?:['’]\w+)*")  # noqa: RUF001
# Points at which gradients are taken, placed as Gauss and Legendre have it: of a fine-tuned MiniLM, eight leave some
# logits with gaps of 10 %, these of 1 %. A graph behind term weights and the largest outputs of an LSTM have kinks.
_STEPS, _STEPS_WITH_KINKS = 16, 64
# Enough where logits are a line, and how near the sums then come to the changes.
_STEPS_OF_A_LINE, _CLOSE = 2, 1e-4
# Padded tokens computed at once, so that a long plot fits into memory; rows of terms, of which there may be many.
_MAX_TOKENS, _MAX_ROWS = 4096, 48


@dataclass(frozen=True)
class Contributions:
    """What each of W words adds to each of G logits.

    Args:
        spans: where the words stand in the text: in reading order, none over another.
        scores: shape (W, G), float64.
        changes: shape (G,): by how much the text's words raise the logits, all together.
    """

    spans: list[Span]
    scores: np.ndarray
    changes: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """Shape (G,): the part of the changes that the scores get wrong, as a share of all that the words say."""
        said = np.maximum(np.abs(self.scores).sum(0), np.abs(self.changes))
        return np.abs(self.scores.sum(0) - self.changes) / np.maximum(said, 1e-9)


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it.

    Args:
        text: what is read.
        batch: what the encoder made of it, B = 1, on the model's device.
        logits: see Logits.
        columns: of the G genres that are asked for.
    """

    text: str
    batch: Batch
    logits: Logits
    columns: Sequence[int]


def contributions(part: GenreModel, reading: Reading) -> Contributions:
    """What the words of one text say for and against some genres.

    With tfidf a term's share is divided among its words, and scores add up exactly where no graph follows. For the
    others the baseline is the same text with a padding token for each word; what the tokenizer adds stays, so that
    nothing is put down to it. Pieces of a word, and the marks that it is written together with, count with the word.

    Args:
        part: what reads the text, frozen and in evaluation mode: the model that gives the logits, or a tower of it.
        reading: the text.
    """
    # cuDNN takes gradients of an LSTM in training mode only.
    with torch.backends.cudnn.flags(enabled=False):
        match part:
            case Tfidf():
                shares, changes = _of_terms(part, reading)
            case Bilstm():
                shares, changes = _of_words(part, reading)
            case Transformer():
                shares, changes = _of_pieces(part, reading)
            case _:
                raise TypeError(f"{type(part).__name__} reads no text")
    spans, scores = _summed(_whole_words(reading.text, shares), len(reading.columns))
    return Contributions(spans, scores, changes)


def _of_terms(part: Tfidf, reading: Reading) -> tuple[list[Share], np.ndarray]:
    terms = reading.batch["terms"].coalesce()
    columns, values = terms.indices()[1], terms.values()

    def logits(found: torch.Tensor) -> torch.Tensor:
        rows = torch.zeros(len(found), part.feature_dim, device=found.device).index_copy(1, columns, found)
        return reading.logits({"terms": rows})

    scores, changes = _integrated(logits, values.unsqueeze(0), reading.columns)
    score_of = dict(zip(columns.tolist(), scores, strict=True))
    places = [(column, spans) for column, spans in part.encoder.places(reading.text) if column in score_of]
    counts: dict[int, int] = {}
    for column, _ in places:
        counts[column] = counts.get(column, 0) + 1
    shares = [(span, score_of[column] / (counts[column] * len(spans))) for column, spans in places for span in spans]
    return shares, changes


def _of_words(part: Bilstm, reading: Reading) -> tuple[list[Share], np.ndarray]:
    ids = reading.batch["input_ids"]
    scores, changes = _integrated_over_tokens(part.vectors, reading, torch.zeros_like(ids), _STEPS_WITH_KINKS)
    places = part.encoder.places(reading.text)
    return list(zip(places, scores[: len(places)], strict=True)), changes


def _of_pieces(part: Transformer, reading: Reading) -> tuple[list[Share], np.ndarray]:
    places = part.encoder.places(reading.text)
    ids = reading.batch["input_ids"]
    is_word = torch.tensor([[place is not None for place in places]], device=ids.device)
    baseline = torch.where(is_word, part.encoder.tokenizer.pad_token_id, ids)
    embeddings = part.backbone.get_input_embeddings()
    scores, changes = _integrated_over_tokens(embeddings, reading, baseline, _STEPS)
    return [(place, score) for place, score in zip(places, scores, strict=True) if place is not None], changes


def _integrated_over_tokens(
    layer: nn.Module, reading: Reading, baseline: torch.Tensor, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of T tokens, shape (T, G), and the change of the logits, shape (G,).

    Args:
        layer: gives tokens their vectors.
        reading: with `input_ids`, shape (1, T).
        baseline: tokens without the words, shape (1, T).
        steps: points at which gradients are taken.
    """
    from captum.attr import LayerIntegratedGradients  # noqa: PLC0415 - slow to import

    ids, mask = reading.batch["input_ids"], reading.batch["attention_mask"]

    def logits(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return reading.logits({"input_ids": input_ids, "attention_mask": attention_mask})

    num_genres = len(reading.columns)
    found = LayerIntegratedGradients(logits, layer).attribute(
        ids.expand(num_genres, -1),
        baselines=baseline.expand(num_genres, -1),
        target=list(reading.columns),
        additional_forward_args=(mask.expand(num_genres, -1),),
        n_steps=steps,
        internal_batch_size=max(num_genres, _MAX_TOKENS // ids.shape[1]),
    )
    with torch.inference_mode():
        ends = logits(torch.cat([baseline, ids]), mask.expand(2, -1))[:, list(reading.columns)].double()
    return found.detach().sum(2).T.double().cpu().numpy(), (ends[1] - ends[0]).cpu().numpy()


def _integrated(
    logits: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor, columns: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of K values, shape (K, G), against zeros, and the change of the logits, shape (G,)."""
    from captum.attr import IntegratedGradients  # noqa: PLC0415 - slow to import

    if not values.numel():
        return np.zeros((0, len(columns))), np.zeros(len(columns))
    with torch.inference_mode():
        ends = logits(torch.cat([torch.zeros_like(values), values]))[:, list(columns)].double().cpu().numpy()
    changes = ends[1] - ends[0]
    scores = np.zeros((values.numel(), len(columns)))
    for steps in (_STEPS_OF_A_LINE, _STEPS_WITH_KINKS):
        found = IntegratedGradients(logits).attribute(
            values.expand(len(columns), -1), target=list(columns), n_steps=steps, internal_batch_size=_MAX_ROWS
        )
        scores = found.detach().T.double().cpu().numpy()
        if np.abs(scores.sum(0) - changes).max() < _CLOSE:
            break
    return scores, changes


def _whole_words(text: str, shares: Iterable[Share]) -> list[Share]:
    """The same with whole words in place of their pieces, and of the marks beside them."""
    units = list(_units(text))
    starts = [start for (start, _), _ in units]
    whole = []
    for (start, end), score in shares:
        # Some tokenizers count the space before a word with it.
        inside = start + len(text[start:end]) - len(text[start:end].lstrip())
        first = max(0, bisect.bisect_right(starts, inside) - 1)
        last = max(first, bisect.bisect_left(starts, end) - 1)
        whole.append(((units[first][1][0], units[last][1][1]), score))
    return whole


def _units(text: str) -> Iterator[tuple[Span, Span]]:
    """Each word with the marks that it is written together with, and the word alone; marks that stand alone are one."""
    for chunk in re.finditer(r"\S+", text):
        words = [(chunk.start() + start, chunk.start() + end) for start, end in _words(chunk.group())]
        edges = [chunk.start(), *(start for start, _ in words[1:]), chunk.end()]
        for word, reach in zip(words or [chunk.span()], itertools.pairwise(edges), strict=True):
            yield reach, word


def _words(text: str) -> list[Span]:
    """Where words stand; vowel signs and accents that are characters of their own, no \\w, belong to their word."""
    found: list[Span] = []
    for word in _WORD.finditer(text):
        start, end = word.span()
        while end < len(text) and unicodedata.category(text[end]).startswith("M"):
            end += 1
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return found


def _summed(shares: Iterable[Share], num_genres: int) -> tuple[list[Span], np.ndarray]:
    """In reading order; shares of one stretch, or of stretches that overlap, are added up."""
    spans: list[Span] = []
    scores: list[np.ndarray] = []
    for (start, end), score in sorted(shares, key=lambda share: share[0]):
        if spans and start < spans[-1][1]:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
            scores[-1] = scores[-1] + score
        else:
            spans.append((start, end))
            scores.append(score)
    return spans, np.array(scores, np.float64).reshape(-1, num_genres)
