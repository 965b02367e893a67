"""Checkpoint → folder for a model hub: a model card, ONNX, and a text encoder that transformers can load.

The folder is still a checkpoint that `mmgenre.models.checkpoint.load` reads.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field, ValidationError

from mmgenre.config import Config, Requirements
from mmgenre.errors import InputError
from mmgenre.evaluation.job import REPORT, Report
from mmgenre.export import onnx_model
from mmgenre.export.card import OTHER, CardDetails, model_card, strip_paths
from mmgenre.export.facts import ModelFacts
from mmgenre.export.parity import Parity, compare
from mmgenre.labels import GENRES
from mmgenre.models import GenreModel, checkpoint
from mmgenre.models.checkpoint import ASSETS, CARD, WEIGHTS, Card
from mmgenre.models.hub import quiet_hub
from mmgenre.models.transformer import Transformer
from mmgenre.scoring.thresholds import Calibration
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Recipe, read_manifest
from mmgenre.tables.output import Output
from mmgenre.tagging.decisions import calibrations, trained_thresholds

README = "README.md"
ONNX = "model.onnx"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")
# Paths; the recipe has the contents.
_NOT_IN_RECIPE = ("checkpoint", "output", "overwrite", "report")
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")
_OWNED = (CARD, WEIGHTS, ASSETS, README, f"{ONNX}*", "config.json", "model*.safetensors*", *_TOKENIZER)
_DESCRIPTIONS = {
    README: "this card",
    CARD: "thresholds, temperature, settings and scores, for mmgenre",
    WEIGHTS: "all weights",
    ONNX: "the whole model, for onnxruntime and other ONNX runtimes",
    f"{ONNX}.data": "weights of the ONNX model",
    "config.json": "architecture of the encoder, for transformers",
    "model.safetensors": "a copy of the encoder's weights, for transformers",
    "tokenizer.json": "tokenizer",
    "tokenizer_config.json": "settings of the tokenizer",
}


class ExportConfig(Config):
    """Export a checkpoint as a folder for a model hub, with a model card and ONNX."""

    checkpoint: str = Field(description="checkpoint folder from jobs/train.py, or best/ of a search")
    output: str = Field(description="folder to create")
    overwrite: bool = Field(False, description="replace an output of another configuration")
    report: str | None = Field(
        None, description="report.json from jobs/evaluate.py, or its folder: scores for the card"
    )
    onnx: bool = Field(
        True, description="write model.onnx and compare it with the checkpoint; needs the extra `export`"
    )
    encoder: bool = Field(
        True, description="write a copy of a transformer's encoder that AutoModel of transformers can load"
    )
    name: str | None = Field(None, pattern=r"^[\w.-]+$", description="name of the model; null: name of the folder")
    license: str = Field(OTHER, min_length=1, description="licence of the weights, as hubs spell it: cc-by-nc-4.0")
    data: str | None = Field(None, description="Markdown for the card: the data that the model was trained on")
    base_model: str | None = Field(
        None, description="hub name of the pretrained encoder; null: model.pretrained if it is a hub name"
    )

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        needs = Requirements(
            inputs=(self.checkpoint, self.report),
            outputs=(self.output,),
            packages=onnx_model.PACKAGES if self.onnx else (),
            mistakes=checkpoint.mistakes(self.checkpoint, trained_thresholds),
        )
        return (needs,)


@dataclass(frozen=True)
class TrainedModel:
    """The checkpoint to export.

    Args:
        directory: of the checkpoint.
        card: of the checkpoint.
        model: in evaluation mode.
        calibrations: temperature and thresholds by status.
        report: scores on movies outside the training split, if known.
    """

    directory: str
    card: Card
    model: GenreModel
    calibrations: Mapping[str, Calibration]
    report: Report | None


def export(config: ExportConfig) -> Manifest:
    """Write the folder; it is complete only if ONNX and the checkpoint agree.

    Raises:
        InputError: no trained checkpoint, no report, an output of something else, a missing package, or an
            architecture that torch cannot export.
    """
    _refuse_own_folder(config)
    card, model = checkpoint.load(config.checkpoint)
    report = _read_report(config.report, card)
    source = TrainedModel(config.checkpoint, card, model, calibrations(card, config.checkpoint), report)
    output = Output(config.output, _recipe(config, source), _OWNED, overwrite=config.overwrite)
    if output.finished is not None:
        return output.finished
    if config.onnx:
        onnx_model.require_packages()
    with TemporaryDirectory() as temporary:
        parity = _fill(Path(temporary), config, source)
        files = storage.files_below(temporary)
        notes = {
            "difference": parity.difference if parity else None,
            "movies": parity.movies if parity else 0,
            "bytes": sum(Path(temporary, file).stat().st_size for file in files),
            "is_scored": source.report is not None,
        }
        # An earlier export stays complete until the new one is ready.
        with output:
            storage.upload(Path(temporary), config.output)
            output.write(CARD, _published_card(card))
            return output.complete(0, {}, notes, sorted([*files, CARD]))


def describe(manifest: Manifest) -> str:
    """The files, the difference between ONNX and the checkpoint, and what is missing from the card."""
    notes, lines = manifest.notes, []
    if notes["difference"] is not None:
        lines.append(
            f"{ONNX}: probabilities differ from the checkpoint's by at most {notes['difference']:.1e} "
            f"({notes['movies']} movies, alone and in batches); all decisions agree"
        )
    if not notes["is_scored"]:
        lines.append(
            f"{README}: has only validation scores; report=DIR, an output of jobs/evaluate.py, adds scores per genre"
        )
    lines.append(f"export: {len(manifest.files)} files, {notes['bytes'] / 1e6:,.1f} MB, {manifest.seconds:.1f} s")
    return "\n".join(lines)


def _refuse_own_folder(config: ExportConfig) -> None:
    """Raise InputError if replacing the output would delete the checkpoint."""
    source, target = (f"{storage.absolute(place).rstrip('/')}/" for place in (config.checkpoint, config.output))
    if source.startswith(target):
        raise InputError(f"output: {config.output}: contains the checkpoint itself; choose another folder")


def _recipe(config: ExportConfig, source: TrainedModel) -> Recipe:
    inputs = {"checkpoint": storage.fingerprint(storage.join(config.checkpoint, CARD))}
    if source.report is not None:
        inputs["report"] = hashlib.sha256(source.report.model_dump_json().encode()).hexdigest()
    settings = config.to_settings(without=_NOT_IN_RECIPE) | {"name": _name(config)}
    return Recipe(job="export", settings=settings, inputs=inputs)


def _name(config: ExportConfig) -> str:
    return config.name or _NOT_IN_NAMES.sub("-", storage.absolute(config.output).rstrip("/").rpartition("/")[2])


def _fill(folder: Path, config: ExportConfig, source: TrainedModel) -> Parity | None:
    """Write all files except the checkpoint's card, which comes last because it makes the folder a checkpoint."""
    parity = _write_onnx(source, folder / ONNX) if config.onnx else None
    if config.encoder and isinstance(source.model, Transformer):
        _write_encoder(source.model, folder)
    _copy(source, folder)
    files = sorted([README, CARD, *storage.files_below(str(folder))])
    details = CardDetails(
        name=_name(config),
        license=config.license,
        data=config.data,
        base_model=config.base_model or _base_model(source.card),
        report=source.report,
        parity=parity,
        movies=_movies_by_split(source.directory),
        files=[(file, _DESCRIPTIONS.get(file, "for mmgenre")) for file in files],
    )
    text = model_card(source.card, ModelFacts(source.card.model, source.model), details)
    (folder / README).write_text(text, encoding="utf-8")
    return parity


def _read_report(location: str | None, card: Card) -> Report | None:
    """Scores of this model on movies outside the training split."""
    if location is None:
        return None
    if not location.endswith(".json"):
        location = storage.join(location, REPORT)
    storage.require_file(location, "report.json of jobs/evaluate.py")
    try:
        report = Report.model_validate_json(storage.read_bytes(location))
    except ValidationError:
        raise InputError(f"{location}: not a report of this version of mmgenre; run jobs/evaluate.py again") from None
    if report.weights_sha256 not in (None, card.weights_sha256):
        raise InputError(
            f"{location}: scores of another model; tag with this checkpoint and evaluate these predictions"
        )
    if report.split == "train":
        raise InputError(f"{location}: scores on the model's training split; evaluate with split=test")
    return report


def _write_onnx(source: TrainedModel, file: Path) -> Parity:
    card = source.card
    thresholds = next(iter(source.calibrations.values())).thresholds.cutoffs()
    metadata = {
        "genres": json.dumps(GENRES),
        "thresholds": json.dumps(thresholds.tolist()),
        "temperature": json.dumps(card.temperature),
        "alone": json.dumps({status: one.to_settings() for status, one in card.alone.items()}),
        "family": card.model.family,
        "mmgenre_version": card.version,
        "weights_sha256": card.weights_sha256,
    }
    onnx_model.write(source.model, source.calibrations, metadata, file)
    parity = compare(file, source.model, source.calibrations, onnx_model.example_movies(source.model, seed=1))
    parity.require(ONNX)
    return parity


def _write_encoder(model: Transformer, folder: Path) -> None:
    """Write files for AutoModel and AutoTokenizer; AutoModelForSequenceClassification has no matching head."""
    with quiet_hub():
        model.backbone.save_pretrained(folder)
    model.encoder.save(folder)


def _copy(source: TrainedModel, folder: Path) -> None:
    """Copy the checkpoint's files, except its card."""
    for name in (WEIGHTS, *(f"{ASSETS}/{asset}" for asset in source.card.assets)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(storage.read_bytes(storage.join(source.directory, name)))


def _published_card(card: Card) -> bytes:
    """The checkpoint's card without paths of the training machine, which are private and not needed."""
    model = strip_paths(card.model.to_settings())
    return Card.model_validate(card.to_settings() | {"model": model}).model_dump_json(indent=2).encode()


def _base_model(card: Card) -> str | None:
    """Hub name of the pretrained encoder, if it has one."""
    for part in card.model.parts.values():
        name: str | None = getattr(part, "pretrained", None)
        if name is not None and _HUB_NAME.fullmatch(name) and not storage.exists(name):
            return name
    return None


def _movies_by_split(directory: str) -> dict[str, int]:
    """Number of movies in the training, if its manifest is in the checkpoint's folder."""
    manifest = read_manifest(directory)
    is_training = manifest is not None and manifest.recipe.job == "train"
    return dict(manifest.statuses) if manifest is not None and is_training else {}
