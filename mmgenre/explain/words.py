"""Word attributions: how much each word of a plot adds to a model's logits, by integrated gradients.

Source: Sundararajan, Taly, Yan 2017, arXiv:1703.01365; computed by captum.
"""

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import regex
import torch
from torch import nn

from mmgenre.models import Batch, GenreModel
from mmgenre.models.alignment import Span
from mmgenre.models.bilstm import Bilstm
from mmgenre.models.tfidf import Tfidf
from mmgenre.models.transformer import Transformer

# Maps the text inputs of B rows to the logits of the whole model, shape (B, 9).
Logits = Callable[[Batch], torch.Tensor]
# A span of the text and its scores, shape (G,).
SpanScores = tuple[Span, np.ndarray]
# A word with its combining marks and apostrophes.
_LETTERS = r"[\p{L}\p{N}_][\p{L}\p{N}\p{M}_]*"
_WORD = regex.compile(rf"{_LETTERS}(?:['’]{_LETTERS})*")  # noqa: RUF001
# Points of the Gauss-Legendre quadrature. For a fine-tuned MiniLM, eight miss up to 10 % of the change, sixteen 1 %.
# A genre graph behind term weights, and the max pooling of an LSTM, have kinks and need more.
_STEPS, _STEPS_WITH_KINKS = 16, 64
# Enough for linear logits, and how close the scores then come to the change.
_STEPS_LINEAR, _TOLERANCE = 2, 1e-4
# Per forward pass: padded tokens, so that a long plot fits into memory, and rows of terms.
_MAX_TOKENS, _MAX_ROWS = 4096, 48


@dataclass(frozen=True)
class TextInput:
    """A text as the model reads it.

    Args:
        text: the text.
        batch: its encoded inputs, B = 1, on the model's device.
        logits: see Logits.
        columns: indices of the G genres to explain.
    """

    text: str
    batch: Batch
    logits: Logits
    columns: Sequence[int]


@dataclass(frozen=True)
class WordAttributions:
    """Scores of W words for G genres.

    Args:
        spans: of the words in the text, in reading order, without overlap.
        scores: shape (W, G), float64: what each word adds to the logits.
        changes: shape (G,): what all words together add to the logits.
    """

    spans: list[Span]
    scores: np.ndarray
    changes: np.ndarray

    @property
    def relative_errors(self) -> np.ndarray:
        """Shape (G,): |sum of scores - change|, relative to the sum of absolute scores."""
        total = np.maximum(np.abs(self.scores).sum(0), np.abs(self.changes))
        return np.abs(self.scores.sum(0) - self.changes) / np.maximum(total, 1e-9)


def attribute_words(part: GenreModel, text_input: TextInput) -> WordAttributions:
    """Compute how much each word of a text contributes to some genres' scores.

    TF-IDF terms are split evenly among their words; without a genre graph the scores are exact. For token models, the
    baseline is the same text with a padding token per word; special tokens stay, so that they get no score. Subwords
    and punctuation attached to a word count towards the word.

    Args:
        part: the text model or text tower, frozen and in evaluation mode.
        text_input: the text.
    """
    # cuDNN computes LSTM gradients in training mode only.
    with torch.backends.cudnn.flags(enabled=False):
        match part:
            case Tfidf():
                scored, changes = _attribute_terms(part, text_input)
            case Bilstm():
                spans: Sequence[Span | None] = part.encoder.spans(text_input.text)
                scored, changes = _attribute_tokens(part.vectors, text_input, spans, 0, _STEPS_WITH_KINKS)
            case Transformer():
                embeddings, pad = part.backbone.get_input_embeddings(), part.encoder.tokenizer.pad_token_id
                spans = part.encoder.spans(text_input.text)
                scored, changes = _attribute_tokens(embeddings, text_input, spans, pad, _STEPS)
            case _:
                raise TypeError(f"{type(part).__name__} reads no text")
    spans_of_words, scores = _merge_overlaps(_expand_to_words(text_input.text, scored), len(text_input.columns))
    return WordAttributions(spans_of_words, scores, changes)


def _attribute_terms(part: Tfidf, text_input: TextInput) -> tuple[list[SpanScores], np.ndarray]:
    """Scores of the words of each term, and the changes of the logits, shape (G,)."""
    terms = text_input.batch["terms"].coalesce()
    columns, weights = terms.indices()[1], terms.values()

    def logits(values: torch.Tensor) -> torch.Tensor:
        rows = torch.zeros(len(values), part.feature_dim, device=values.device).index_copy(1, columns, values)
        return text_input.logits({"terms": rows})

    scores, changes = _integrate_from_zero(logits, weights.unsqueeze(0), text_input.columns)
    score_of = dict(zip(columns.tolist(), scores, strict=True))
    occurrences = [(column, spans) for column, spans in part.encoder.spans(text_input.text) if column in score_of]
    counts = Counter(column for column, _ in occurrences)
    return [
        (span, score_of[column] / (counts[column] * len(spans))) for column, spans in occurrences for span in spans
    ], changes


def _attribute_tokens(
    layer: nn.Module, text_input: TextInput, spans: Sequence[Span | None], pad: int, steps: int
) -> tuple[list[SpanScores], np.ndarray]:
    """Scores of the tokens that are part of the text, and the changes of the logits, shape (G,).

    Args:
        layer: the embedding layer.
        text_input: with `input_ids`, shape (1, T).
        spans: of each token in the text; None: a special token. Missing at the end: padding.
        pad: token id of the baseline.
        steps: points of the quadrature.
    """
    from captum.attr import LayerIntegratedGradients  # noqa: PLC0415 - slow to import

    ids, mask, columns = text_input.batch["input_ids"], text_input.batch["attention_mask"], list(text_input.columns)
    is_text = torch.zeros_like(ids, dtype=torch.bool)
    is_text[0, : len(spans)] = torch.tensor([span is not None for span in spans], device=ids.device)
    baseline = torch.where(is_text, pad, ids)

    def logits(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return text_input.logits({"input_ids": input_ids, "attention_mask": attention_mask})

    gradients = LayerIntegratedGradients(logits, layer).attribute(
        ids.expand(len(columns), -1),
        baselines=baseline.expand(len(columns), -1),
        target=columns,
        additional_forward_args=(mask.expand(len(columns), -1),),
        n_steps=steps,
        internal_batch_size=max(len(columns), _MAX_TOKENS // ids.shape[1]),
    )
    scores = gradients.detach().sum(2).T.double().cpu().numpy()
    with torch.inference_mode():
        ends = logits(torch.cat([baseline, ids]), mask.expand(2, -1))[:, columns].double().cpu().numpy()
    scored = [(span, score) for span, score in zip(spans, scores, strict=False) if span is not None]
    return scored, ends[1] - ends[0]


def _integrate_from_zero(
    logits: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor, columns: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of K values against zeros, shape (K, G), and the changes of the logits, shape (G,)."""
    from captum.attr import IntegratedGradients  # noqa: PLC0415 - slow to import

    if not values.numel():
        return np.zeros((0, len(columns))), np.zeros(len(columns))
    with torch.inference_mode():
        ends = logits(torch.cat([torch.zeros_like(values), values]))[:, list(columns)].double().cpu().numpy()
    changes = ends[1] - ends[0]
    scores = np.zeros((values.numel(), len(columns)))
    for steps in (_STEPS_LINEAR, _STEPS_WITH_KINKS):
        gradients = IntegratedGradients(logits).attribute(
            values.expand(len(columns), -1), target=list(columns), n_steps=steps, internal_batch_size=_MAX_ROWS
        )
        scores = gradients.detach().T.double().cpu().numpy()
        if np.abs(scores.sum(0) - changes).max() < _TOLERANCE:
            break
    return scores, changes


def _expand_to_words(text: str, scored: Iterable[SpanScores]) -> Iterator[SpanScores]:
    """Replace each span of a subword or punctuation mark by the span of its word."""
    units = list(_words_with_punctuation(text))
    starts = [start for (start, _), _ in units]
    for (start, end), score in scored:
        # Some tokenizers include the space before a word.
        inside = start + len(text[start:end]) - len(text[start:end].lstrip())
        first = max(0, bisect.bisect_right(starts, inside) - 1)
        last = max(first, bisect.bisect_left(starts, end) - 1)
        yield (units[first][1][0], units[last][1][1]), score


def _words_with_punctuation(text: str) -> Iterator[tuple[Span, Span]]:
    """Span of each word with its punctuation, and of the word alone; free-standing punctuation is its own word."""
    for chunk in regex.finditer(r"\S+", text):
        words = [word.span() for word in _WORD.finditer(text, *chunk.span())] or [chunk.span()]
        edges = [chunk.start(), *(start for start, _ in words[1:]), chunk.end()]
        yield from zip(itertools.pairwise(edges), words, strict=True)


def _merge_overlaps(scored: Iterable[SpanScores], num_genres: int) -> tuple[list[Span], np.ndarray]:
    """Merge overlapping spans and add up their scores; returns spans in reading order, and scores of shape (W, G)."""
    spans: list[Span] = []
    scores: list[np.ndarray] = []
    for (start, end), score in sorted(scored, key=lambda pair: pair[0]):
        if spans and start < spans[-1][1]:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
            scores[-1] = scores[-1] + score
        else:
            spans.append((start, end))
            scores.append(score)
    return spans, np.array(scores, np.float64).reshape(-1, num_genres)
