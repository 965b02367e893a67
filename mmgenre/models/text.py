"""Plots as token ids: the tokenizer, and batches padded to their longest plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mmgenre.errors import InputError
from mmgenre.models.alignment import Span
from mmgenre.models.hub import fetching
from mmgenre.models.movies import Encoded, Movies, Part

# A token spans few characters: text beyond this many per token would be cut off anyway.
_CHARACTERS_PER_TOKEN = 64
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Tokens:
    """N plots as one flat array: plot i is ids[offsets[i]:offsets[i + 1]].

    Args:
        ids: int32, all plots one after the other.
        offsets: int64, shape (N + 1,).
        padding: the id that fills short rows up.
    """

    ids: np.ndarray
    offsets: np.ndarray
    padding: int

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], padding: int) -> "Tokens":
        """Those of N plots, given the ids of each."""
        ids = np.concatenate([np.zeros(0, np.int32), *rows])
        return cls(ids, np.cumsum([0, *map(len, rows)], dtype=np.int64), padding)

    @property
    def lengths(self) -> np.ndarray:
        """Shape (N,): tokens of each plot."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Tokens":
        """Some of the plots, in the order of the rows."""
        return Tokens.of([self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows], self.padding)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, int64, shape (B, T), T the longest of the rows, at least 1."""
        lengths = self.lengths[rows]
        columns = np.arange(max(1, lengths.max(initial=1)))
        mask = columns < lengths[:, None]
        input_ids = np.full(mask.shape, self.padding, np.int64)
        input_ids[mask] = self.take(rows).ids
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def texts(movies: Movies, *, title: bool) -> list[str]:
    """What is read of each movie: its plot, or its title and its plot; "" where there is no plot."""
    plots = [(plot or "").strip() for plot in movies.plots]
    if not title:
        return plots
    return [f"{name}. {plot}" if name and plot else plot for name, plot in zip(movies.titles, plots, strict=True)]


def encoded_texts(read: Sequence[str], part: Part) -> Encoded:
    """Movies of which only texts are read."""
    return Encoded(np.array([bool(text) for text in read], bool), np.zeros(len(read), bool), (part,))


class TextEncoder:
    """Tokenizes plots, cut off at max_length tokens, special ones included.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        max_length: tokens.
        title: whether the title is read before the plot.
    """

    def __init__(self, tokenizer: Any, max_length: int, *, title: bool = False):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._title = title

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which part of a text is read."""
        return {"max_length": self.max_length, "title": self._title}

    def encode(self, movies: Movies) -> Encoded:
        """Token ids; where there is no plot, those of an empty one."""
        read = texts(movies, title=self._title)
        return encoded_texts(read, self._tokens(read))

    def places(self, text: str) -> list[Span | None]:
        """Where each token of a text stands in it; None for those that the tokenizer adds."""
        tokens = self._tokenized([text], return_offsets_mapping=True)
        words, spans = tokens.word_ids(0), tokens["offset_mapping"][0]
        return [None if word is None else span for word, span in zip(words, spans, strict=True)]

    def _tokenized(self, read: list[str], **options: bool) -> Any:
        short = [text[: self.max_length * _CHARACTERS_PER_TOKEN] for text in read]
        return self.tokenizer(
            short, truncation=True, max_length=self.max_length, return_attention_mask=False, **options
        )

    def _tokens(self, read: list[str]) -> Tokens:
        if not read:
            return Tokens.of([], self.tokenizer.pad_token_id)
        rows = self._tokenized(read)
        return Tokens.of([np.asarray(row, np.int32) for row in rows["input_ids"]], self.tokenizer.pad_token_id)

    def save(self, directory: Path) -> None:
        """Write the tokenizer's own files."""
        self.tokenizer.save_pretrained(directory)


def load_tokenizer(source: str, field: str = "model.tokenizer") -> Any:
    """The fast tokenizer of a hub name or a local folder, which stands in a field of the configuration.

    Raises:
        InputError: it cannot be had; says how to go on without a hub.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: PLC0415 - slow to import

    with fetching(field, source):
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"{field}: {source}: has no fast tokenizer (tokenizer.json); choose one that has")
    return tokenizer


def learn_tokenizer(plots: Sequence[str], vocab_size: int) -> Any:
    """A lower-case WordPiece tokenizer (BERT's kind) learned from plots; the same plots give the same one.

    Source: Wu et al. 2016, arXiv:1609.08144.
    """
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - slow to import

    tokenizer = _lower_case_tokenizer(models.WordPiece(_learn_pieces(plots, vocab_size), unk_token="[UNK]"))  # noqa: S106 - not a password
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


def _learn_pieces(plots: Sequence[str], vocab_size: int) -> dict[str, int]:
    """Words and word pieces with their ids."""
    learner = _lower_case_tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - not a password
    words = {word for plot in plots for word in learner.normalizer.normalize_str(plot).split()}
    pieces = [piece for word in words for piece, _ in learner.pre_tokenizer.pre_tokenize_str(word)]
    # The trainer numbers these as it meets them, in an order drawn anew by each run, and breaks ties by number.
    inner = sorted({f"##{letter}" for piece in pieces for letter in piece[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=[*_SPECIAL, *inner], show_progress=False)
    learner.train_from_iterator(plots, trainer)
    return learner.get_vocab()
