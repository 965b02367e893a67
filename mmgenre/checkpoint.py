"""A trained model as a folder: `checkpoint.json` (the card), `weights.safetensors`, `assets/`. Nothing is unpickled."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

import mmgenre
from mmgenre import storage
from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.genres import GENRES
from mmgenre.models import GenreModel, ModelConfig
from mmgenre.thresholds import Calibration, Thresholds

FORMAT = 1
CARD = "checkpoint.json"
WEIGHTS = "weights.safetensors"
ASSETS = "assets"
# Statuses of predictions for which a fusion is calibrated by itself.
Alone = Literal["text_only", "poster_only"]


class Card(Config):
    """What there is to know of a checkpoint beside its weights."""

    format: int = FORMAT
    version: str = mmgenre.__version__
    genres: tuple[str, ...] = GENRES
    model: ModelConfig
    training: dict[str, Any] = Field(default_factory=dict, description="the settings of the training job")
    thresholds: Thresholds | None = Field(None, description="fitted on the validation split; null: not trained yet")
    temperature: float = Field(1.0, gt=0, description="logits are divided by it before the sigmoid")
    alone: dict[Alone, Calibration] = Field(
        default_factory=dict, description="of a fusion, in place of both for movies with only a plot or only a poster"
    )
    scores: dict[str, float] = Field(default_factory=dict, description="of the validation split")
    dataset: str | None = Field(None, description="fingerprint of the MOVIES table")
    weights_sha256: str = ""

    @property
    def fingerprint(self) -> str:
        """Of all that decides what the model says of a movie."""
        said = self.model_dump_json(include={"model", "thresholds", "temperature", "alone", "weights_sha256"})
        return hashlib.sha256(said.encode()).hexdigest()[:32]


def save(model: GenreModel, card: Card, directory: str) -> None:
    """Write a checkpoint, the card last: a folder with a card is whole."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / ASSETS).mkdir()
        model.save_assets(folder / ASSETS)
        save_weights(model, folder)
        card = card.model_copy(update={"weights_sha256": storage.fingerprint(str(folder / WEIGHTS))})
        storage.upload(folder, directory)
    storage.write_bytes(storage.join(directory, CARD), card.model_dump_json(indent=2).encode())


def load(directory: str) -> tuple[Card, GenreModel]:
    """A checkpoint's card, and its model in evaluation mode on the CPU.

    Raises:
        InputError: there is none, it is damaged, or it was made for other genres or by a newer mmgenre.
    """
    card = read_card(directory)
    with storage.local_copy(directory) as folder:
        weights = folder / WEIGHTS
        if not weights.is_file() or storage.fingerprint(str(weights)) != card.weights_sha256:
            raise InputError(f"{directory}/{WEIGHTS}: missing or not the file the card describes; train again")
        try:
            model = card.model.restore(folder / ASSETS)
            load_weights(model, folder)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{directory}: damaged ({' '.join(str(error).split())[:200]}); train again") from None
    return card, model.eval()


def read_card(directory: str) -> Card:
    """The card alone, with the same checks."""
    location = storage.join(directory, CARD)
    if CARD not in storage.names_in(directory):
        raise InputError(f"{directory}: no {CARD} there; expected a folder made by jobs/train.py")
    try:
        content = json.loads(storage.read_bytes(location))
        found, genres = int(content["format"]), tuple(content["genres"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{location}: not the card of a checkpoint; train again") from None
    if found > FORMAT:
        raise InputError(f"{directory}: format {found}, this mmgenre reads up to {FORMAT}; install a newer mmgenre")
    if genres != GENRES:
        raise InputError(f"{directory}: trained for genres {genres}, this mmgenre predicts {GENRES}; retrain it")
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise InputError(f"{location}: damaged fields: {fields}; train again") from None


def save_weights(model: torch.nn.Module, folder: Path) -> None:
    """Write a model's weights into a local folder."""
    save_model(model, str(folder / WEIGHTS))


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Read a model's weights from a local folder."""
    load_model(model, str(folder / WEIGHTS))
