"""A trained model as an ONNX graph: named inputs in, calibrated probabilities and decisions out.

| input | models | type, shape |
|---|---|---|
| input_ids, attention_mask | transformer or BiLSTM on plots | int64, (movies, tokens) |
| term_ids, term_weights | TF-IDF on plots: the non-zero terms, padded with zeros | int64, float32, (movies, terms) |
| pixels | models of posters; the graph normalises them | uint8, (movies, 3, H, W) |
| has_text, has_image | fusions | bool, (movies,) |

Outputs: `probabilities` and `logits`, float32, and `predicted`, bool: the decisions; each (movies, 9).
"""

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from mmgenre.config import missing_packages
from mmgenre.errors import InputError, one_line
from mmgenre.models import Batch, GenreModel, Movies
from mmgenre.models.bilstm import Bilstm
from mmgenre.models.fusion import Fusion
from mmgenre.models.image import ImageEncoder
from mmgenre.models.tfidf import Tfidf
from mmgenre.scoring.thresholds import Calibration
from mmgenre.tables.schema import PredictStatus

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OUTPUTS = ("probabilities", "logits", "predicted")
_AXES = {0: "movies"}
_DYNAMIC_AXES = {
    **dict.fromkeys(("input_ids", "attention_mask"), _AXES | {1: "tokens"}),
    **dict.fromkeys(("term_ids", "term_weights"), _AXES | {1: "terms"}),
    **dict.fromkeys(("pixels", "has_text", "has_image"), _AXES),
}
# onnxruntime supports it since 1.17; torch's exporter writes 18 or newer.
_OPSET = 20
# A protobuf holds at most 2 GiB; larger weights go to a file of their own.
_MAX_BYTES = 2_000_000_000
_STATUSES = (PredictStatus.TEXT_AND_POSTER, PredictStatus.TEXT_ONLY, PredictStatus.POSTER_ONLY)


def require_packages() -> None:
    """Raise InputError if a package for ONNX is missing."""
    if missing := missing_packages(PACKAGES):
        raise InputError(f"onnx=true: needs {', '.join(missing)}: pip install 'mmgenre[export]'; or set onnx=false")


def write(model: GenreModel, calibrations: Mapping[str, Calibration], metadata: Mapping[str, str], file: Path) -> None:
    """Write a model as an ONNX file; weights above 2 GB go to a second file, FILE.data.

    Args:
        model: in evaluation mode, on the CPU.
        calibrations: temperature and thresholds by status, see tagging.decisions.
        metadata: stored in the file.
        file: ends in .onnx.

    Raises:
        InputError: torch cannot export this architecture.
    """
    example = graph_inputs(model, model.encoder.encode(example_movies(model)).batch(np.arange(3)))
    module = _CalibratedModel(model, calibrations, list(example)).eval()
    size = sum(value.nbytes for value in model.state_dict().values())
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                module,
                tuple(example.values()),
                dynamo=True,
                input_names=list(example),
                output_names=list(OUTPUTS),
                dynamic_shapes=(tuple(_DYNAMIC_AXES[name] for name in example),),
                opset_version=_OPSET,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise InputError(
            f"onnx=true: torch cannot export this architecture ({_root_cause(error)}); set onnx=false"
        ) from None
    assert program is not None, "dynamo=True returns a program"  # noqa: S101 - torch's return type is optional
    program.model.metadata_props.update(metadata)
    program.save(str(file), external_data=size > _MAX_BYTES)


def _root_cause(error: BaseException) -> str:
    """The cause of an exporter's error, whose own message only names the step that failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {one_line(str(error).strip().partition(chr(10))[0])[:200]}"


def graph_inputs(model: GenreModel, batch: Batch) -> dict[str, torch.Tensor]:
    """The graph's inputs for a batch, by name, in the order of the graph."""
    inputs = _padded_terms(batch["terms"]) if "terms" in batch else {}
    names = ["input_ids", "attention_mask", "pixels", *(["has_text", "has_image"] if isinstance(model, Fusion) else [])]
    return inputs | {name: batch[name] for name in names if name in batch}


def _padded_terms(terms: torch.Tensor) -> dict[str, torch.Tensor]:
    """Columns and values of sparse TF-IDF rows, shape (B, V), padded with zeros."""
    terms = terms.coalesce()
    rows, columns = terms.indices()
    num_terms = torch.bincount(rows, minlength=len(terms)).tolist()
    return {
        "term_ids": pad_sequence(columns.split(num_terms), batch_first=True),
        "term_weights": pad_sequence(terms.values().split(num_terms), batch_first=True),
    }


def example_movies(model: GenreModel, seed: int = 0) -> Movies:
    """Six movies with random words of the model's vocabulary and random pixels.

    Texts have one word to more than the model reads. For a fusion, some movies have only a plot or only a poster.
    """
    random = np.random.default_rng(seed)
    lengths, is_fusion = (9, 40, 1, 900, 4, 17), isinstance(model, Fusion)
    plots: list[str | None] = [None] * len(lengths)
    images: list[bytes | None] = [None] * len(lengths)
    for part in model.parts.values():
        if isinstance(part.encoder, ImageEncoder):
            images = [None if is_fusion and row % 3 == 1 else _noise_jpeg(random) for row in range(len(lengths))]
        else:
            words = _vocabulary(part.encoder)
            texts = [" ".join(random.choice(words, length)) for length in lengths]
            plots = [None if is_fusion and row % 3 == 2 else text for row, text in enumerate(texts)]
    return Movies(["Movie"] * len(lengths), plots, images)


def _noise_jpeg(random: np.random.Generator) -> bytes:
    content = io.BytesIO()
    Image.fromarray(random.integers(0, 255, (300, 200, 3), np.uint8)).save(content, "JPEG")
    return content.getvalue()


def _vocabulary(encoder: Any) -> list[str]:
    """Words and word pieces."""
    if hasattr(encoder, "tokenizer"):
        return sorted(piece.removeprefix("##") for piece in encoder.tokenizer.get_vocab())
    return encoder.terms if hasattr(encoder, "terms") else encoder.words


class _CalibratedModel(nn.Module):
    """A model that also computes probabilities and decisions, with its inputs as separate arguments."""

    temperatures: torch.Tensor
    cutoffs: torch.Tensor

    def __init__(self, model: GenreModel, calibrations: Mapping[str, Calibration], names: list[str]):
        super().__init__()
        self._model = _exportable(model)
        self._names = names
        by_status = [calibrations[status] for status in _STATUSES]
        self.register_buffer("temperatures", torch.tensor([[one.temperature] for one in by_status]))
        cutoffs = np.stack([one.thresholds.cutoffs() for one in by_status])
        self.register_buffer("cutoffs", torch.from_numpy(cutoffs.astype(np.float32)))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See OUTPUTS."""
        batch = dict(zip(self._names, tensors, strict=True))
        logits = self._model(batch)
        if "has_text" not in batch:
            status = _STATUSES.index(PredictStatus.POSTER_ONLY if "pixels" in batch else PredictStatus.TEXT_ONLY)
            probabilities = torch.sigmoid(logits / self.temperatures[status])
            return probabilities, logits, probabilities >= self.cutoffs[status]
        has_text, has_image = batch["has_text"], batch["has_image"]
        statuses = torch.where(has_text & has_image, 0, torch.where(has_text, 1, 2))
        probabilities = torch.sigmoid(logits / self.temperatures[statuses])
        predicted = (probabilities >= self.cutoffs[statuses]) & (has_text | has_image).unsqueeze(1)
        return probabilities, logits, predicted


def _exportable(model: GenreModel) -> nn.Module:
    """An equivalent model of the graph's inputs, without operations that torch cannot export."""
    match model:
        case Tfidf():
            return _ExportableTfidf(model)
        case Bilstm():
            return _ExportableBilstm(model)
        case Fusion():
            fusion: Any = copy.deepcopy(model)
            fusion.text = _exportable(fusion.text)
            return fusion
    return model


class _ExportableTfidf(GenreModel):
    """TF-IDF by lookup: ONNX has no sparse products, so each term of a plot adds its row of weights."""

    def __init__(self, model: Tfidf):
        super().__init__()
        self.linear = model.linear
        self.head = model.head[1] if isinstance(model.head, nn.Sequential) else nn.Identity()

    def features(self, batch: Batch) -> torch.Tensor:
        """Logits before the genre graph, shape (B, 9)."""
        weights = self.linear.weight.T[batch["term_ids"]]
        return (weights * batch["term_weights"].unsqueeze(-1)).sum(1) + self.linear.bias

    def save_assets(self, directory: Path) -> None:
        """Not a checkpoint."""
        raise NotImplementedError


class _ExportableBilstm(GenreModel):
    """A BiLSTM by ONNX's own LSTM operator, which supports rows of different lengths; torch exports no such LSTM."""

    def __init__(self, model: Bilstm):
        super().__init__()
        self.vectors, self.head, self.hidden_size = model.vectors, model.head, model.lstm.hidden_size
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            directions = [getattr(model.lstm, f"{kind}_l0{suffix}") for suffix in ("", "_reverse")]
            self.register_buffer(kind, torch.stack([_onnx_gates(weights) for weights in directions]))

    def features(self, batch: Batch) -> torch.Tensor:
        """Each unit's maximum output over the words of a plot, shape (B, 2 * hidden)."""
        vectors, lengths = self.vectors(batch["input_ids"]).transpose(0, 1), batch["attention_mask"].sum(1).clamp(min=1)
        biases = torch.cat([self.get_buffer("bias_ih"), self.get_buffer("bias_hh")], 1)
        outputs = torch.onnx.ops.symbolic(
            "LSTM",
            (vectors, self.get_buffer("weight_ih"), self.get_buffer("weight_hh"), biases, lengths.int()),
            {"direction": "bidirectional", "hidden_size": self.hidden_size},
            dtype=torch.float32,
            shape=(vectors.shape[0], 2, vectors.shape[1], self.hidden_size),
        )
        outputs = outputs.permute(2, 0, 1, 3).flatten(2)
        is_padding = torch.arange(outputs.shape[1], device=outputs.device) >= lengths.unsqueeze(1)
        return outputs.masked_fill(is_padding.unsqueeze(-1), float("-inf")).amax(1)

    def save_assets(self, directory: Path) -> None:
        """Not a checkpoint."""
        raise NotImplementedError


def _onnx_gates(weights: torch.Tensor) -> torch.Tensor:
    """Reorder the gates of an LSTM: torch has input, forget, cell, output; ONNX has input, output, forget, cell."""
    gates = weights.detach().chunk(4)
    return torch.cat([gates[0], gates[3], gates[1], gates[2]])


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the progress, deprecation warnings and error reports of torch's exporter."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
