"""Why a model gives a movie its genres: the words of its plot, and the regions of its poster, that speak for each."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFilter

from mmgenre.errors import InputError
from mmgenre.explain.heat_maps import heat_maps, without_changes_in_place
from mmgenre.explain.words import Contributions, Reading, contributions
from mmgenre.labels import GENRES
from mmgenre.models import Batch, GenreModel, Movies, checkpoint
from mmgenre.models.inference import own_device, to_device
from mmgenre.models.poster_model import PosterModel
from mmgenre.models.text import texts
from mmgenre.models.tfidf import Tfidf


@dataclass(frozen=True)
class Word:
    """A word that the model reads.

    Args:
        start: its first character in Attribution.text.
        end: the character after its last.
        scores: by genre: above 0 it spoke for it, below 0 against; the largest size over all words of the text is 1.
    """

    start: int
    end: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Attribution:
    """What spoke for and against some genres of a movie.

    Args:
        text: what is read, title and plot joined; None: no text is read, or there is none.
        words: in reading order, none over another; what is not read, such as stop words, is none of them.
        heat: by genre: float32, shape (h, w), in [0, 1], a coarse map over the whole poster; empty: no poster is read,
            or there is none.
        gaps: by genre: the share of what the words say that their scores get wrong, from the approximation of an
            integral; empty where there are no words.
    """

    text: str | None
    words: tuple[Word, ...]
    heat: dict[str, np.ndarray]
    gaps: dict[str, float] = field(default_factory=dict)


class Explainer:
    """Explains what a model says of one movie after the other; not to be called by two threads at once.

    Args:
        card: the model's.
        model: of any family; it is changed, and can do nothing else from here on.
        device: where it is to compute.
    """

    def __init__(self, card: checkpoint.Card, model: GenreModel, device: torch.device) -> None:
        require_captum()
        self._model, self._device = model.to(device).eval(), device
        model.requires_grad_(False)
        without_changes_in_place(model)
        self._text: tuple[str, GenreModel] | None = None
        self._image: tuple[str, PosterModel] | None = None
        self._title = False
        for role, part in model.parts.items():
            # A frozen part takes its features from the batch, where they can be put in whatever made them.
            part.freeze()
            kept = f"{role}_frozen" if role else "frozen"
            if isinstance(part, PosterModel):
                self._image = kept, part
            else:
                self._text, self._title = (kept, part), "title" in card.model.parts[role].columns

    @classmethod
    def load(cls, directory: str) -> "Explainer":
        """From a checkpoint, for this process's device."""
        card, model = checkpoint.load(directory)
        return cls(card, model, own_device())

    def explain(self, title: str | None, plot: str | None, image: bytes | None, genres: Sequence[str]) -> Attribution:
        """What speaks for and against each of the genres.

        Args:
            title: read before the plot where the model does so.
            plot: what the model reads of one that is too long is its beginning.
            image: a JPEG.
            genres: some of GENRES.

        Raises:
            ValueError: no genre, or one that is unknown.
        """
        _require_genres(genres)
        columns = [GENRES.index(genre) for genre in genres]
        movies = Movies([title], [plot], [image])
        encoded = self._model.encoder.encode(movies)
        batch = to_device(encoded.batch(np.zeros(1, np.int64)), self._device)
        text = texts(movies, title=self._title)[0] if encoded.has_text[0] else None
        with torch.inference_mode(False):
            kept = batch | self._kept(batch)
            found = self._words(text, kept, columns) if text is not None else None
            maps = list(self._heat(kept, columns)) if encoded.has_image[0] else []
        words, gaps = ((), {}) if found is None else _said(found, genres)
        return Attribution(text, words, dict(zip(genres, maps, strict=False)), gaps)

    def _kept(self, batch: Batch) -> Batch:
        """What both parts make of the movie, where there are two: each is explained while the other stays the same."""
        parts = [part for part in (self._text, self._image) if part is not None]
        if len(parts) == 1:
            return {}
        # Those of tfidf are what the batch has of it.
        return {name: part.frozen(batch) for name, part in parts if not isinstance(part, Tfidf)}

    def _words(self, text: str, batch: Batch, columns: Sequence[int]) -> Contributions:
        assert self._text is not None  # noqa: S101 - there is no text without
        kept, part = self._text
        fixed = {name: value for name, value in batch.items() if name not in ("pixels", "terms", kept)}

        def logits(read: Batch) -> torch.Tensor:
            rows = len(next(iter(read.values())))
            return self._model(_repeated(fixed, rows) | read)

        names: tuple[str, ...] = ("terms", "input_ids", "attention_mask")
        read = {name: batch[name] for name in names if name in batch}
        return contributions(part, Reading(text, read, logits, columns))

    def _heat(self, batch: Batch, columns: Sequence[int]) -> np.ndarray:
        assert self._image is not None  # noqa: S101
        kept, part = self._image
        fixed = {name: value for name, value in batch.items() if name != "pixels"}

        def logits(features: torch.Tensor) -> torch.Tensor:
            return self._model(_repeated(fixed, len(features)) | {kept: features})

        return heat_maps(part, batch["pixels"], logits, columns)


def overlay(image: bytes, heat: np.ndarray, max_side: int = 480, kind: Literal["jpeg", "png"] = "jpeg") -> bytes:
    """The poster as if a lamp shone on what spoke for a genre: the rest is dark and grey, the core has an outline.

    Brightness says it all, so that no colour needs to be told from another.

    Args:
        image: a JPEG.
        heat: shape (h, w), in [0, 1], over the whole poster.
        max_side: px, of the result; a smaller poster stays as it is.
        kind: of the result.

    Raises:
        OSError: the image cannot be decoded.
    """
    poster = Image.open(io.BytesIO(image), formats=("JPEG",)).convert("RGB")
    poster.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    light = Image.fromarray(heat.astype(np.float32)).resize(poster.size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(light), 0, 1)
    colours = np.asarray(poster, np.float32)
    dark = _DIMMED * colours.mean(2, keepdims=True)
    lit = dark + (colours - dark) * strength[..., None] ** _GAMMA
    core = Image.fromarray(np.uint8(255) * (strength >= _CORE))
    edge = np.asarray(core.filter(ImageFilter.MaxFilter(5))) ^ np.asarray(core)
    lit[edge > 0] = _OUTLINE
    content = io.BytesIO()
    Image.fromarray(lit.round().astype(np.uint8)).save(content, kind, quality=85)
    return content.getvalue()


# How bright a cold region is, how fast brightness grows with heat, the heat at the outline, and its colour, which
# stands out from skin, sky and night.
_DIMMED, _GAMMA, _CORE, _OUTLINE = 0.35, 0.7, 0.5, (255, 176, 0)


def _said(found: Contributions, genres: Sequence[str]) -> tuple[tuple[Word, ...], dict[str, float]]:
    scores = found.scores / np.maximum(np.abs(found.scores).max(0, initial=0), np.finfo(np.float64).tiny)
    words = tuple(
        Word(start, end, dict(zip(genres, map(float, row), strict=True)))
        for (start, end), row in zip(found.spans, scores, strict=True)
    )
    return words, dict(zip(genres, map(float, found.gaps), strict=True))


def _repeated(batch: Batch, num_rows: int) -> Batch:
    """The one row of a batch so many times; sparse rows become dense ones."""
    dense = {name: value.to_dense() if value.is_sparse else value for name, value in batch.items()}
    return {name: value.expand(num_rows, *value.shape[1:]) for name, value in dense.items()}


def _require_genres(genres: Sequence[str]) -> None:
    unknown = [genre for genre in genres if genre not in GENRES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no genre; expected some of {', '.join(GENRES)}")
    if not genres:
        raise ValueError("no genre to explain")


def require_captum() -> None:
    """Raise InputError where it is not installed."""
    try:
        import captum.attr  # noqa: F401, PLC0415 - slow to import
    except ImportError:
        raise InputError("explanations need captum; install it with pip install 'mmgenre[explain]'") from None
