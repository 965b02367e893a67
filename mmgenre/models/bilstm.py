"""A bidirectional LSTM over words, the text model before transformers.

Source: Hochreiter and Schmidhuber 1997; word vectors by Pennington et al. 2014, GloVe.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mmgenre.labels import GENRES
from mmgenre.models.genre_model import GenreModel, GradientTrainedConfig, TextFamilyConfig
from mmgenre.models.movies import Batch, Movies
from mmgenre.models.text import input_texts
from mmgenre.models.words import WordEncoder, build_vocabulary, word_vectors

_VOCABULARY = "words.json"


class BilstmConfig(TextFamilyConfig, GradientTrainedConfig):
    """A bidirectional LSTM over word vectors with max pooling."""

    family: Literal["bilstm"] = "bilstm"
    vectors: str | None = Field(None, description="word vectors in GloVe's text format, plain or .gz; null: learned")
    vector_size: int = Field(100, ge=1, description="dimensions of learned word vectors")
    frozen_vectors: bool = Field(False, description="do not train the vectors read from the file")
    vocab_size: int = Field(20_000, ge=1, description="vocabulary size: the most frequent words of the training plots")
    max_length: int = Field(256, ge=1, description="words read per plot, stop words excluded; the rest is cut off")
    hidden: int = Field(120, ge=1, description="LSTM units per direction")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout on the word vectors and before the head")

    def build(self, movies: Movies) -> "Bilstm":
        """An untrained model; its vocabulary is built from the movies.

        Raises:
            InputError: the word vector file is unreadable or malformed.
        """
        words = build_vocabulary(input_texts(movies, title=self.title), self.vocab_size)
        if self.vectors is None:
            return Bilstm(self, words, self.vector_size)
        vectors = torch.from_numpy(word_vectors(self.vectors, words))
        model = Bilstm(self, words, vectors.shape[1])
        model.vectors.weight.data.copy_(vectors)
        return model

    def restore(self, assets: Path) -> "Bilstm":
        """Build the model from a checkpoint's assets; the caller loads the weights."""
        content = json.loads((assets / _VOCABULARY).read_text(encoding="utf-8"))
        return Bilstm(self, content["words"], content["vector_size"])


class Bilstm(GenreModel):
    """Word vectors, an LSTM in each direction, max pooling over words, one linear layer.

    Args:
        config: layer sizes and dropout.
        words: vocabulary.
        vector_size: dimensions of a word vector.
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
        """Each unit's maximum output over the words of a plot, shape (B, 2 * hidden)."""
        if "frozen" in batch:
            return batch["frozen"]
        mask = batch["attention_mask"]
        # A plot without a known word is read as one padding word.
        lengths = mask.sum(1).clamp(min=1).cpu()
        # PyTorch has no bf16 LSTM on CPU.
        with torch.autocast(mask.device.type, enabled=False):
            vectors = self.dropout(self.vectors(batch["input_ids"]).float())
            packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
            outputs, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=float("-inf"))
        return outputs.amax(1)

    @property
    def frozen_settings(self) -> dict[str, Any]:
        """Which part of a plot is read."""
        return self.encoder.settings

    def save_assets(self, directory: Path) -> None:
        """Write the vocabulary."""
        content = {"words": self.encoder.words, "vector_size": self.vectors.embedding_dim}
        (directory / _VOCABULARY).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
