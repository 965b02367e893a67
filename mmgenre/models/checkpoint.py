"""A trained model on disk: `checkpoint.json` (the card), `weights.safetensors` and `assets/`. Nothing is unpickled."""

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model

import mmgenre
from mmgenre.config import Config
from mmgenre.errors import InputError, one_line
from mmgenre.labels import GENRES
from mmgenre.models import GenreModel, ModelConfig
from mmgenre.scoring.thresholds import Calibration, Thresholds
from mmgenre.tables import storage

FORMAT = 2
CARD = "checkpoint.json"
WEIGHTS = "weights.safetensors"
ASSETS = "assets"
# Prediction statuses for which a fusion has a calibration of its own.
SingleInputStatus = Literal["text_only", "poster_only"]
# Reading such files may run code.
_PICKLES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")


def _relative_path(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ValueError("not a path inside the checkpoint")
    return name


class Card(Config):
    """Everything in a checkpoint besides weights and assets."""

    format: int = FORMAT
    version: str = mmgenre.__version__
    genres: tuple[str, ...] = GENRES
    model: ModelConfig
    training: dict[str, Any] = Field(default_factory=dict, description="settings of the training job")
    thresholds: Thresholds | None = Field(None, description="fitted on the validation split; null: untrained")
    temperature: float = Field(1.0, gt=0, description="logits are divided by it before the sigmoid")
    alone: dict[SingleInputStatus, Calibration] = Field(
        default_factory=dict,
        description="a fusion's own thresholds and temperature for movies with only a plot or only a poster",
    )
    scores: dict[str, float] = Field(default_factory=dict, description="scores on the validation split")
    dataset: str | None = Field(None, description="fingerprint of the MOVIES table")
    weights_sha256: str = ""
    assets: dict[Annotated[str, AfterValidator(_relative_path)], str] = Field(
        default_factory=dict, description="SHA-256 of each file in assets/, by its path there"
    )


def save(model: GenreModel, card: Card, directory: str) -> None:
    """Write a checkpoint. The card is written last, so a folder with a card is complete."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / ASSETS).mkdir()
        model.save_assets(folder / ASSETS)
        save_weights(model, folder)
        digests = {name: storage.fingerprint(str(folder / name)) for name in storage.files_below(temporary)}
        weights = digests.pop(WEIGHTS)
        assets = {name.removeprefix(f"{ASSETS}/"): digest for name, digest in digests.items()}
        card = card.model_copy(update={"weights_sha256": weights, "assets": assets})
        storage.upload(folder, directory)
    storage.write_bytes(storage.join(directory, CARD), card.model_dump_json(indent=2).encode())


def load(directory: str) -> tuple[Card, GenreModel]:
    """Load a checkpoint: its card, and its model in evaluation mode on the CPU.

    Raises:
        InputError: there is no checkpoint, it is damaged, it was made for other genres or by another version of
            mmgenre, or it holds files that the card does not list.
    """
    card = read_card(directory)
    digests = {WEIGHTS: card.weights_sha256} | {f"{ASSETS}/{name}": digest for name, digest in card.assets.items()}
    _reject_unlisted_files(directory, digests)
    with storage.local_copy(directory, digests) as folder:
        for name, digest in digests.items():
            if not (folder / name).is_file() or storage.fingerprint(str(folder / name)) != digest:
                raise InputError(f"{directory}/{name}: missing, or not the file that the card describes; train again")
        try:
            model = card.model.restore(folder / ASSETS)
            load_weights(model, folder)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{directory}: damaged ({one_line(error)[:200]}); train again") from None
    return card, model.eval()


def mistakes(directory: str, check: Callable[[Card, str], object]) -> dict[str, str]:
    """Why a job would refuse an existing checkpoint, by its folder; empty if it would not.

    Args:
        directory: the checkpoint's folder.
        check: raises InputError if the job cannot use a checkpoint with this card, from this folder.
    """
    if not storage.exists(directory):
        return {}
    try:
        check(read_card(directory), directory)
    except InputError as error:
        return {directory: str(error)}
    return {}


def read_card(directory: str) -> Card:
    """Read and check the card only.

    Raises:
        InputError: there is no card, it is damaged, or it was made for other genres or by another version of mmgenre.
    """
    location = storage.join(directory, CARD)
    if CARD not in storage.names_in(directory):
        raise InputError(f"{directory}: no {CARD} found; expected a folder written by jobs/train.py")
    try:
        content = json.loads(storage.read_bytes(location))
        version, genres = int(content["format"]), tuple(content["genres"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{location}: not a checkpoint's card; train again") from None
    if version != FORMAT:
        remedy = "install a newer mmgenre" if version > FORMAT else "train again"
        raise InputError(f"{directory}: format {version}, but this mmgenre reads format {FORMAT}; {remedy}")
    if genres != GENRES:
        raise InputError(
            f"{directory}: trained for genres {genres}, but this mmgenre predicts {GENRES}; train it again"
        )
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise InputError(f"{location}: invalid fields: {fields}; train again") from None


def _reject_unlisted_files(directory: str, listed: Iterable[str]) -> None:
    """Raise InputError for any pickle, and for assets that the card does not list but a loader might read."""
    assets = [f"{ASSETS}/{name}" for name in storage.files_below(storage.join(directory, ASSETS))]
    for name in [*storage.names_in(directory), *assets]:
        if name.endswith(_PICKLES):
            raise InputError(f"{directory}/{name}: only JSON and safetensors files are read here; remove it")
    for name in sorted({*assets} - {*listed}):
        raise InputError(f"{directory}/{name}: not listed in the card; remove it")


def save_weights(model: torch.nn.Module, folder: Path) -> None:
    """Write a model's weights into a local folder."""
    save_model(model, str(folder / WEIGHTS))


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Load a model's weights from a local folder."""
    load_model(model, str(folder / WEIGHTS))
