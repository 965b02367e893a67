"""Explaining one movie: which words of its plot and which regions of its poster speak for each genre."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mmgenre.errors import InputError
from mmgenre.explain.heat_maps import disable_inplace, heat_maps
from mmgenre.explain.words import TextInput, WordAttributions, attribute_words
from mmgenre.labels import GENRES
from mmgenre.models import Batch, GenreModel, Movies, checkpoint
from mmgenre.models.inference import local_device, to_device
from mmgenre.models.poster_model import PosterModel
from mmgenre.models.text import input_texts
from mmgenre.models.tfidf import Tfidf


@dataclass(frozen=True)
class ScoredWord:
    """A word and its scores.

    Args:
        start: index of its first character in Attribution.text.
        end: index after its last character.
        scores: by genre; a positive score supports the genre, a negative one opposes it. The largest absolute score of
            a text is 1.
    """

    start: int
    end: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Attribution:
    """The evidence for and against some genres of a movie.

    Args:
        text: the text the model reads, title and plot joined; None: it reads no text, or there is none.
        words: in reading order, without overlap; words the model ignores, such as stop words, are not included.
        heat: by genre: shape (h, w), float32, in [0, 1], over the whole poster; empty: it reads no poster, or there is
            none.
        relative_errors: by genre: how far the words' scores are from adding up to their joint effect; empty without
            words.
    """

    text: str | None
    words: tuple[ScoredWord, ...]
    heat: dict[str, np.ndarray]
    relative_errors: dict[str, float] = field(default_factory=dict)


class Explainer:
    """Explains a model's predictions, one movie at a time; not thread-safe.

    Args:
        card: of the model.
        model: of any family; it is modified and cannot be used otherwise afterwards.
        device: to compute on.
    """

    def __init__(self, card: checkpoint.Card, model: GenreModel, device: torch.device) -> None:
        require_captum()
        self._model, self._device = model.to(device).eval(), device
        model.requires_grad_(False)
        disable_inplace(model)
        # The text and poster parts of the model, with the batch entry that replaces their features.
        self._text: tuple[str, GenreModel] | None = None
        self._image: tuple[str, PosterModel] | None = None
        self._reads_title = False
        for role, part in model.parts.items():
            # A frozen part reads its features from the batch, where they can be replaced.
            part.freeze()
            features = f"{role}_frozen" if role else "frozen"
            if isinstance(part, PosterModel):
                self._image = features, part
            else:
                self._text, self._reads_title = (features, part), "title" in card.model.parts[role].columns

    @classmethod
    def load(cls, directory: str) -> "Explainer":
        """Load a checkpoint to this process's device."""
        card, model = checkpoint.load(directory)
        return cls(card, model, local_device())

    def explain(self, title: str | None, plot: str | None, image: bytes | None, genres: Sequence[str]) -> Attribution:
        """Compute the evidence for and against each of the genres.

        Args:
            title: used if the model reads titles.
            plot: used up to the model's maximum length.
            image: a JPEG.
            genres: some of GENRES.

        Raises:
            ValueError: no genre, or an unknown one.
        """
        _require_genres(genres)
        columns = [GENRES.index(genre) for genre in genres]
        movies = Movies([title], [plot], [image])
        encoded = self._model.encoder.encode(movies)
        batch = to_device(encoded.batch(np.zeros(1, np.int64)), self._device)
        text = input_texts(movies, title=self._reads_title)[0] if encoded.has_text[0] else None
        with torch.inference_mode(False):
            batch = batch | self._features(batch)
            attributions = None if text is None else self._attribute_words(text, batch, columns)
            maps = list(self._heat_maps(batch, columns)) if encoded.has_image[0] else []
        heat = dict(zip(genres, maps, strict=False))
        if attributions is None:
            return Attribution(text, (), heat)
        errors = dict(zip(genres, attributions.relative_errors.tolist(), strict=True))
        return Attribution(text, _scored_words(attributions, genres), heat, errors)

    def _features(self, batch: Batch) -> Batch:
        """Features of both parts of a fusion, so that each is explained while the other is held constant."""
        parts = [part for part in (self._text, self._image) if part is not None]
        if len(parts) == 1:
            return {}
        # Term weights are already in the batch.
        return {name: part.frozen(batch) for name, part in parts if not isinstance(part, Tfidf)}

    def _attribute_words(self, text: str, batch: Batch, columns: Sequence[int]) -> WordAttributions:
        assert self._text is not None  # noqa: S101 - encoded text implies a text part
        features, part = self._text
        constant = {name: value for name, value in batch.items() if name not in ("pixels", "terms", features)}

        def logits(inputs: Batch) -> torch.Tensor:
            return self._model(_expanded(constant, len(next(iter(inputs.values())))) | inputs)

        inputs: Batch = {name: batch[name] for name in ("terms", "input_ids", "attention_mask") if name in batch}
        return attribute_words(part, TextInput(text, inputs, logits, columns))

    def _heat_maps(self, batch: Batch, columns: Sequence[int]) -> np.ndarray:
        assert self._image is not None  # noqa: S101 - an encoded image implies a poster part
        features, part = self._image
        constant = {name: value for name, value in batch.items() if name != "pixels"}

        def logits(values: torch.Tensor) -> torch.Tensor:
            return self._model(_expanded(constant, len(values)) | {features: values})

        return heat_maps(part, batch["pixels"], logits, columns)


def _scored_words(attributions: WordAttributions, genres: Sequence[str]) -> tuple[ScoredWord, ...]:
    """Words with scores scaled to at most 1 per genre."""
    largest = np.abs(attributions.scores).max(0, initial=0)
    scores = attributions.scores / np.maximum(largest, np.finfo(np.float64).tiny)
    return tuple(
        ScoredWord(start, end, dict(zip(genres, row, strict=True)))
        for (start, end), row in zip(attributions.spans, scores.tolist(), strict=True)
    )


def _expanded(batch: Batch, num_rows: int) -> Batch:
    """Repeat the single row of a batch; sparse tensors become dense."""
    dense = {name: value.to_dense() if value.is_sparse else value for name, value in batch.items()}
    return {name: value.expand(num_rows, *value.shape[1:]) for name, value in dense.items()}


def _require_genres(genres: Sequence[str]) -> None:
    unknown = [genre for genre in genres if genre not in GENRES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: unknown genre; expected some of {', '.join(GENRES)}")
    if not genres:
        raise ValueError("no genre to explain")


def require_captum() -> None:
    """Raise InputError if captum is not installed."""
    try:
        import captum.attr  # noqa: F401, PLC0415 - slow to import
    except ImportError:
        raise InputError("explanations need captum; install it with pip install 'mmgenre[explain]'") from None
