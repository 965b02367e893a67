"""A trained model as a folder: `checkpoint.json` (the card), `weights.safetensors`, `assets/`. Nothing is unpickled."""

import json
import tempfile
from collections.abc import Iterable
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
# Statuses of predictions for which a fusion is calibrated by itself.
Alone = Literal["text_only", "poster_only"]
# What such files hold may run code when it is read.
_PICKLES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ValueError("leads out of the checkpoint's folder")
    return name


AssetName = Annotated[str, AfterValidator(_inside)]


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
    assets: dict[AssetName, str] = Field(
        default_factory=dict, description="sha256 of each file in assets/, by its path there"
    )


def save(model: GenreModel, card: Card, directory: str) -> None:
    """Write a checkpoint, the card last: a folder with a card is whole."""
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
    """A checkpoint's card, and its model in evaluation mode on the CPU.

    Raises:
        InputError: there is none, it is damaged, it was made for other genres or by another mmgenre, or it holds files
            that the card does not describe.
    """
    card = read_card(directory)
    digests = {WEIGHTS: card.weights_sha256} | {f"{ASSETS}/{name}": digest for name, digest in card.assets.items()}
    _refuse_others(directory, digests)
    with storage.local_copy(directory, digests) as folder:
        for name, digest in digests.items():
            if not (folder / name).is_file() or storage.fingerprint(str(folder / name)) != digest:
                raise InputError(f"{directory}/{name}: missing or not the file the card describes; train again")
        try:
            model = card.model.restore(folder / ASSETS)
            load_weights(model, folder)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise InputError(f"{directory}: damaged ({one_line(error)[:200]}); train again") from None
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
    if found != FORMAT:
        way_out = "install a newer mmgenre" if found > FORMAT else "train again"
        raise InputError(f"{directory}: format {found}, this mmgenre reads format {FORMAT}; {way_out}")
    if genres != GENRES:
        raise InputError(f"{directory}: trained for genres {genres}, this mmgenre predicts {GENRES}; retrain it")
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise InputError(f"{location}: damaged fields: {fields}; train again") from None


def _refuse_others(directory: str, described: Iterable[str]) -> None:
    """Raise InputError for files that might be read beside those that the card describes, and for any pickle."""
    assets = [f"{ASSETS}/{name}" for name in storage.files_below(storage.join(directory, ASSETS))]
    for name in [*storage.names_in(directory), *assets]:
        if name.endswith(_PICKLES):
            raise InputError(f"{directory}/{name}: only JSON and safetensors are read here; take it away")
    for name in sorted({*assets} - {*described}):
        raise InputError(f"{directory}/{name}: a file that the card does not describe; take it away")


def save_weights(model: torch.nn.Module, folder: Path) -> None:
    """Write a model's weights into a local folder."""
    save_model(model, str(folder / WEIGHTS))


def load_weights(model: torch.nn.Module, folder: Path) -> None:
    """Read a model's weights from a local folder."""
    load_model(model, str(folder / WEIGHTS))
