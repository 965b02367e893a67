"""Plots as token ids: tokenizers, encoders and padded batches."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mmgenre.errors import InputError
from mmgenre.models.alignment import Span
from mmgenre.models.hub import loading_from_hub
from mmgenre.models.movies import EncodedMovies, ModelInput, Movies

# A token rarely spans this many characters, so later text would be truncated anyway.
_CHARACTERS_PER_TOKEN = 64
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Tokens:
    """Token ids of N plots as one flat array: plot i is ids[offsets[i]:offsets[i + 1]].

    Args:
        ids: int32, all plots concatenated.
        offsets: int64, shape (N + 1,).
        padding: id of the padding token.
    """

    ids: np.ndarray
    offsets: np.ndarray
    padding: int

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], padding: int) -> "Tokens":
        """From one array of ids per plot."""
        ids = np.concatenate([np.zeros(0, np.int32), *rows])
        return cls(ids, np.cumsum([0, *map(len, rows)], dtype=np.int64), padding)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per plot, shape (N,)."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Tokens":
        """The given rows, in that order."""
        return Tokens.of([self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows], self.padding)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, int64, shape (B, T), where T is the longest row, at least 1."""
        lengths = self.lengths[rows]
        columns = np.arange(max(1, lengths.max(initial=1)))
        mask = columns < lengths[:, None]
        input_ids = np.full(mask.shape, self.padding, np.int64)
        input_ids[mask] = self.take(rows).ids
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def input_texts(movies: Movies, *, title: bool) -> list[str]:
    """The text a model reads of each movie: the plot, or title and plot; "" if there is no plot."""
    plots = [(plot or "").strip() for plot in movies.plots]
    if not title:
        return plots
    return [f"{name}. {plot}" if name and plot else plot for name, plot in zip(movies.titles, plots, strict=True)]


class PlotEncoder:
    """Encodes plots for one family.

    Args:
        title: read the title before the plot.
    """

    def __init__(self, *, title: bool):
        self._title = title

    def encode(self, movies: Movies) -> EncodedMovies:
        """All movies; a missing plot is encoded as an empty text."""
        texts = input_texts(movies, title=self._title)
        has_text = np.array([bool(text) for text in texts], bool)
        return EncodedMovies(has_text, np.zeros(len(texts), bool), (self._inputs(texts),))

    @abstractmethod
    def _inputs(self, texts: list[str]) -> ModelInput:
        """The texts as arrays."""


class TextEncoder(PlotEncoder):
    """Tokenizes plots and truncates them to max_length tokens, special tokens included.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        max_length: tokens.
        title: read the title before the plot.
    """

    def __init__(self, tokenizer: Any, max_length: int, *, title: bool = False):
        super().__init__(title=title)
        self.tokenizer = tokenizer
        self.max_length = max_length

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide which part of a text is read."""
        return {"max_length": self.max_length, "title": self._title}

    def spans(self, text: str) -> list[Span | None]:
        """Character span of each token in a text; None for the special tokens."""
        tokens = self._tokenize([text], return_offsets_mapping=True)
        words, spans = tokens.word_ids(0), tokens["offset_mapping"][0]
        return [None if word is None else span for word, span in zip(words, spans, strict=True)]

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(directory)

    def _tokenize(self, texts: list[str], **options: bool) -> Any:
        cut = [text[: self.max_length * _CHARACTERS_PER_TOKEN] for text in texts]
        return self.tokenizer(cut, truncation=True, max_length=self.max_length, return_attention_mask=False, **options)

    def _inputs(self, texts: list[str]) -> Tokens:
        rows = self._tokenize(texts)["input_ids"] if texts else []
        return Tokens.of([np.asarray(row, np.int32) for row in rows], self.tokenizer.pad_token_id)


def load_tokenizer(source: str, field: str = "model.tokenizer") -> Any:
    """Load a fast tokenizer.

    Args:
        source: hub name or local folder.
        field: config field that holds the source, for errors.

    Raises:
        InputError: the tokenizer cannot be loaded; the message says how to work offline.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: PLC0415 - slow to import

    with loading_from_hub(field, source):
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"{field}: {source}: no fast tokenizer (tokenizer.json) found; choose a model that has one")
    return tokenizer


def train_tokenizer(plots: Sequence[str], vocab_size: int) -> Any:
    """Train a lower-case WordPiece tokenizer, as BERT uses; the same plots always give the same tokenizer.

    Source: Wu et al. 2016, arXiv:1609.08144.
    """
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - slow to import

    tokenizer = _lower_case_tokenizer(models.WordPiece(_train_pieces(plots, vocab_size), unk_token="[UNK]"))  # noqa: S106 - not a password
    tokenizer.decoder = decoders.WordPiece()
    cls, sep = _SPECIAL.index("[CLS]"), _SPECIAL.index("[SEP]")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _lower_case_tokenizer(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _train_pieces(plots: Sequence[str], vocab_size: int) -> dict[str, int]:
    """Words and word pieces with their ids."""
    tokenizer = _lower_case_tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - not a password
    words = {word for plot in plots for word in tokenizer.normalizer.normalize_str(plot).split()}
    pieces = [piece for word in words for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(word)]
    # The trainer numbers inner letters in a random order and breaks ties by number. Listing them first fixes the order.
    inner = sorted({f"##{letter}" for piece in pieces for letter in piece[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=[*_SPECIAL, *inner], show_progress=False)
    tokenizer.train_from_iterator(plots, trainer)
    return tokenizer.get_vocab()
