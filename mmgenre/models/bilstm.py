"""A bidirectional LSTM over words, the text model before transformers.

Source: Hochreiter and Schmidhuber 1997; vectors by Pennington et al. 2014, GloVe.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mmgenre.labels import GENRES
from mmgenre.models.genre_model import GenreModel, ReadsText, TrainedByGradient
from mmgenre.models.movies import Batch, Movies
from mmgenre.models.text import texts
from mmgenre.models.words import WordEncoder, learn_vocabulary, word_vectors

_VOCABULARY = "words.json"


class BilstmConfig(ReadsText, TrainedByGradient):
    """Words with vectors from a file or learned ones, read in both directions, the maximum over all words."""

    family: Literal["bilstm"] = "bilstm"
    vectors: str | None = Field(None, description="file in GloVe's text format, plain or .gz; null: learned ones")
    vector_size: int = Field(100, ge=1, description="dimensions of learned vectors")
    frozen_vectors: bool = Field(False, description="vectors of the file stay as they are")
    vocab_size: int = Field(20_000, ge=1, description="words kept, the most frequent of the training plots")
    max_length: int = Field(256, ge=1, description="words, without stop words; what follows is not read")
    hidden: int = Field(120, ge=1, description="units in each direction")
    dropout: float = Field(0.5, ge=0, lt=1, description="of the vectors, and before the head")

    def build(self, movies: Movies) -> "Bilstm":
        """A model ready to be trained; the movies are what its vocabulary is learned from.

        Raises:
            InputError: the file of vectors cannot be read, or is broken.
        """
        words = learn_vocabulary(texts(movies, title=self.title), self.vocab_size)
        if self.vectors is None:
            return Bilstm(self, words, self.vector_size)
        vectors = torch.from_numpy(word_vectors(self.vectors, words))
        model = Bilstm(self, words, vectors.shape[1])
        model.vectors.weight.data.copy_(vectors)
        return model

    def restore(self, assets: Path) -> "Bilstm":
        """The model's structure from a checkpoint's assets; its weights are loaded afterwards."""
        content = json.loads((assets / _VOCABULARY).read_text(encoding="utf-8"))
        return Bilstm(self, content["words"], content["vector_size"])


class Bilstm(GenreModel):
    """Vectors of words, an LSTM in each direction, their maximum over all words, one linear layer.

    Args:
        config: sizes and dropout.
        words: the vocabulary.
        vector_size: dimensions of a word's vector.
    """

    encoder: WordEncoder

    def __init__(self, config: BilstmConfig, words: list[str], vector_size: int):
        super().__init__()
        self.encoder = WordEncoder(words, config.max_length, title=config.title)
        self.feature_dim = 2 * config.hidden
        self.vectors = nn.Embedding(len(words) + 2, vector_size, padding_idx=0)
        self.vectors.requires_grad_(not (config.frozen_vectors and config.vectors is not None))
        self.lstm = nn.LSTM(vector_size, config.hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(config.dropout)
        self.head = config.headed(nn.Linear(self.feature_dim, len(GENRES)))

    def features(self, batch: Batch) -> torch.Tensor:
        """The largest output of each unit over a plot's words, shape (B, 2 * hidden)."""
        if "frozen" in batch:
            return batch["frozen"]
        mask = batch["attention_mask"]
        # A plot without a known word is one word of padding.
        lengths = mask.sum(1).clamp(min=1).cpu()
        # The CPU has no LSTM in bf16.
        with torch.autocast(mask.device.type, enabled=False):
            vectors = self.dropout(self.vectors(batch["input_ids"]).float())
            packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
            found, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=float("-inf"))
        return found.amax(1)

    @property
    def frozen_settings(self) -> dict[str, Any]:
        """What is read of a plot."""
        return self.encoder.settings

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of features, shape (B, 9)."""
        return self.head(self.dropout(features))

    def save_assets(self, directory: Path) -> None:
        """The vocabulary."""
        content = {"words": self.encoder.words, "vector_size": self.vectors.embedding_dim}
        (directory / _VOCABULARY).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
