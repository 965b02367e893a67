"""A checkpoint → a folder for a model hub: a model card, ONNX, and what transformers loads of a text encoder.

The folder is a checkpoint still: `mmgenre.models.checkpoint.load` reads it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import Field, ValidationError

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.evaluation.job import REPORT, Report
from mmgenre.export import onnx_model
from mmgenre.export.card import OTHER, Known, model_card, without_folders
from mmgenre.export.facts import Facts
from mmgenre.export.parity import Parity, parity
from mmgenre.labels import GENRES
from mmgenre.models import GenreModel, checkpoint
from mmgenre.models.checkpoint import ASSETS, CARD, WEIGHTS, Card
from mmgenre.models.hub import hub_in_silence
from mmgenre.models.transformer import Transformer
from mmgenre.scoring.thresholds import Calibration
from mmgenre.tables import storage
from mmgenre.tables.manifest import Manifest, Output, Recipe, read_manifest
from mmgenre.tagging.decisions import calibrations

README = "README.md"
ONNX = "model.onnx"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_NO_NAME = re.compile(r"[^\w.-]+")
_FREE = ("checkpoint", "output", "overwrite", "report")
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")
_OWNED = (CARD, WEIGHTS, ASSETS, README, f"{ONNX}*", "config.json", "model*.safetensors*", *_TOKENIZER)
_WHAT = {
    README: "this card",
    CARD: "thresholds, temperature, settings and scores, as mmgenre reads them",
    WEIGHTS: "all weights",
    ONNX: "the whole model for onnxruntime and others",
    f"{ONNX}.data": "its weights",
    "config.json": "the encoder's shape, for transformers",
    "model.safetensors": "the encoder's weights again, under transformers' names",
    "tokenizer.json": "the tokenizer",
    "tokenizer_config.json": "its settings",
}


class ExportConfig(Config):
    """Write a checkpoint as a folder for a model hub, with a model card and ONNX."""

    checkpoint: str = Field(description="folder of the model, made by jobs/train.py or best/ of a search")
    output: str = Field(description="folder to be made")
    overwrite: bool = Field(False, description="replace what another configuration left in output")
    report: str | None = Field(None, description="report.json of jobs/evaluate.py for the card, or the folder it is in")
    onnx: bool = Field(True, description="also model.onnx, compared with the checkpoint; of the extra `export`")
    encoder: bool = Field(
        True, description="of a transformer also what transformers' AutoModel loads: its weights once more"
    )
    name: str | None = Field(None, pattern=r"^[\w.-]+$", description="of the model; null: the output folder's")
    license: str = Field(OTHER, min_length=1, description="of the weights, as hubs name it, such as cc-by-nc-4.0")
    data: str | None = Field(None, description="what the model was trained on, for the card; Markdown")
    base_model: str | None = Field(
        None, description="hub name of the pretrained encoder; null: model.pretrained where that is one"
    )


@dataclass(frozen=True)
class Source:
    """A checkpoint to be exported.

    Args:
        directory: its folder.
        card: its card.
        model: in evaluation mode.
        found: temperature and thresholds by what is seen of a movie.
        report: scores of movies that it was not trained on, where there is one.
    """

    directory: str
    card: Card
    model: GenreModel
    found: Mapping[str, Calibration]
    report: Report | None


def export(config: ExportConfig) -> Manifest:
    """Write the folder; its manifest comes last, and only if ONNX says what the checkpoint says.

    Raises:
        InputError: no trained checkpoint, no report, a used output, packages that lack, or an architecture that
            cannot be exported.
    """
    _require_places(config)
    card, model = checkpoint.load(config.checkpoint)
    found = calibrations(card, config.checkpoint)
    source = Source(config.checkpoint, card, model, found, _report(config.report, card))
    output = Output(config.output, _recipe(config, source), _OWNED)
    finished = output.finished()
    if finished is not None:
        return finished
    keeps = output.keeps(overwrite=config.overwrite, keep="nothing")
    if config.onnx:
        onnx_model.require_packages()
    with TemporaryDirectory() as temporary:
        compared = _fill(Path(temporary), config, source)
        # Not before all of it is there: what an earlier export left stays until then.
        output.start(keeps=keeps)
        storage.upload(Path(temporary), config.output)
        files = storage.files_below(temporary)
        sizes = sum(Path(temporary, file).stat().st_size for file in files)
    storage.write_bytes(output.path(CARD), _card_without_folders(card))
    notes = {
        "difference": compared.difference if compared else None,
        "movies": compared.movies if compared else 0,
        "bytes": sizes,
        "is_scored": source.report is not None,
    }
    return output.complete(0, {}, notes, sorted([*files, CARD]))


def describe(manifest: Manifest) -> str:
    """What was written, how far ONNX is from the checkpoint, and what the card lacks."""
    notes, lines = manifest.notes, []
    if notes["difference"] is not None:
        lines.append(
            f"{ONNX}: probabilities differ from the checkpoint's by {notes['difference']:.1e} at the most "
            f"({notes['movies']} inputs, alone and in batches), decisions are the same"
        )
    if not notes["is_scored"]:
        lines.append(f"{README}: validation scores alone; report=DIR of a jobs/evaluate.py adds scores by genre")
    lines.append(f"export: {len(manifest.files)} files, {notes['bytes'] / 1e6:,.1f} MB, {manifest.seconds:.1f} s")
    return "\n".join(lines)


def _require_places(config: ExportConfig) -> None:
    """Raise InputError where replacing the output would take the checkpoint away."""
    source, target = (f"{storage.absolute(place).rstrip('/')}/" for place in (config.checkpoint, config.output))
    if source.startswith(target):
        raise InputError(f"output: {config.output}: holds the checkpoint itself; choose another folder")


def _recipe(config: ExportConfig, source: Source) -> Recipe:
    inputs = {"checkpoint": storage.fingerprint(storage.join(config.checkpoint, CARD))}
    if source.report is not None:
        inputs["report"] = hashlib.sha256(source.report.model_dump_json().encode()).hexdigest()
    settings = config.to_settings(without=_FREE) | {"name": _name(config)}
    return Recipe(job="export", settings=settings, inputs=inputs)


def _name(config: ExportConfig) -> str:
    return config.name or _NO_NAME.sub("-", storage.absolute(config.output).rstrip("/").rpartition("/")[2])


def _fill(folder: Path, config: ExportConfig, source: Source) -> Parity | None:
    """Write all but the checkpoint's card, which makes a checkpoint of the folder; returns what was compared."""
    compared = _write_onnx(source, folder / ONNX) if config.onnx else None
    if config.encoder and isinstance(source.model, Transformer):
        _write_encoder(source.model, folder)
    _copy(source, folder)
    files = sorted([README, CARD, *storage.files_below(str(folder))])
    known = Known(
        name=_name(config),
        license=config.license,
        data=config.data,
        base_model=config.base_model or _base_model(source.card),
        report=source.report,
        parity=compared,
        movies=_movies(source.directory),
        files=[(file, _WHAT.get(file, "read by mmgenre")) for file in files],
    )
    card = model_card(source.card, Facts(source.card.model, source.model), known)
    (folder / README).write_text(card, encoding="utf-8")
    return compared


def _report(location: str | None, card: Card) -> Report | None:
    """Scores for the model's card, of movies that it was not trained on."""
    if location is None:
        return None
    if not location.endswith(".json"):
        location = storage.join(location, REPORT)
    storage.require_file(location, "report.json of jobs/evaluate.py")
    try:
        report = Report.model_validate_json(storage.read_bytes(location))
    except ValidationError:
        raise InputError(
            f"{location}: not a report of this version of mmgenre; make it with jobs/evaluate.py"
        ) from None
    if report.weights_sha256 not in (None, card.weights_sha256):
        raise InputError(f"{location}: scores of another model; tag with this checkpoint, and evaluate that")
    if report.split == "train":
        raise InputError(f"{location}: scores of the movies that the model learned from; evaluate with split=test")
    return report


def _write_onnx(source: Source, file: Path) -> Parity:
    card = source.card
    thresholds = source.found[next(iter(source.found))].thresholds.cutoffs()
    metadata = {
        "genres": json.dumps(GENRES),
        "thresholds": json.dumps(thresholds.tolist()),
        "temperature": json.dumps(card.temperature),
        "alone": json.dumps({status: one.to_settings() for status, one in card.alone.items()}),
        "family": card.model.family,
        "mmgenre_version": card.version,
        "weights_sha256": card.weights_sha256,
    }
    onnx_model.write(source.model, source.found, metadata, file)
    compared = parity(file, source.model, source.found, onnx_model.example_movies(source.model, seed=1))
    compared.require(ONNX)
    return compared


def _write_encoder(model: Transformer, folder: Path) -> None:
    """What AutoModel and AutoTokenizer load; for AutoModelForSequenceClassification no head fits, see the card."""
    with hub_in_silence():
        model.backbone.save_pretrained(folder)
    model.encoder.save(folder)


def _copy(source: Source, folder: Path) -> None:
    """The checkpoint's own files, the card excepted."""
    for name in (WEIGHTS, *(f"{ASSETS}/{asset}" for asset in source.card.assets)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(storage.read_bytes(storage.join(source.directory, name)))


def _card_without_folders(card: Card) -> bytes:
    """The card as people may see it: folders of the machine that trained are nobody's business, and are not read."""
    model = without_folders(card.model.to_settings())
    return Card.model_validate(card.to_settings() | {"model": model}).model_dump_json(indent=2).encode()


def _base_model(card: Card) -> str | None:
    """The pretrained encoder's name on the hub, where it has one."""
    for part in card.model.parts.values():
        name: str | None = getattr(part, "pretrained", None)
        if name is not None and _HUB_NAME.fullmatch(name) and not storage.exists(name):
            return name
    return None


def _movies(directory: str) -> dict[str, int]:
    """Of the training, by split, where its manifest lies beside the checkpoint."""
    manifest = read_manifest(directory)
    is_training = manifest is not None and manifest.recipe.job == "train"
    return dict(manifest.statuses) if manifest is not None and is_training else {}
