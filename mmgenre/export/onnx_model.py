"""A trained model as an ONNX graph, for programs without mmgenre: named inputs, calibrated probabilities, decisions.

| input | of models that read | type, shape |
|---|---|---|
| input_ids, attention_mask | plots, by a transformer or a BiLSTM | int64, (movies, tokens) |
| term_ids, term_weights | plots, by TF-IDF: what of a row is not zero, then zeros | int64, float32, (movies, terms) |
| pixels | posters; what normalises them is inside | uint8, (movies, 3, H, W) |
| has_text, has_image | both | bool, (movies,) |

Outputs: `probabilities` and `logits`, float32, (movies, 9), and `predicted`, bool, which are above their thresholds.
"""

import copy
import importlib.util
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

from mmgenre.errors import InputError, one_line
from mmgenre.models import Batch, GenreModel, Movies
from mmgenre.models.bilstm import Bilstm
from mmgenre.models.fusion import Fusion
from mmgenre.models.image import ImageEncoder
from mmgenre.models.tfidf import Tfidf
from mmgenre.scoring.thresholds import Calibration
from mmgenre.tables.schema import PredictStatus

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OUTPUTS = ("probabilities", "logits", "predicted")
_AXES = {0: "movies"}
_SHAPES = {
    **dict.fromkeys(("input_ids", "attention_mask"), _AXES | {1: "tokens"}),
    **dict.fromkeys(("term_ids", "term_weights"), _AXES | {1: "terms"}),
    **dict.fromkeys(("pixels", "has_text", "has_image"), _AXES),
}
# Read by onnxruntime since its 1.17; torch's exporter writes no older one than 18.
_OPSET = 20
# One protobuf holds 2 GiB at the most; beyond it the weights lie beside the graph.
_MAX_BYTES = 2_000_000_000
_CASES = (PredictStatus.TEXT_AND_POSTER, PredictStatus.TEXT_ONLY, PredictStatus.POSTER_ONLY)


def require_packages() -> None:
    """Raise InputError where packages lack that write a file, or run it."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"onnx=true: needs {', '.join(missing)}: pip install 'mmgenre[export]'; or give onnx=false")


def write(model: GenreModel, found: Mapping[str, Calibration], metadata: Mapping[str, str], file: Path) -> None:
    """Write a model into a file, and where it is too large for one file its weights into another beside it.

    Args:
        model: in evaluation mode, on the CPU.
        found: temperature and thresholds by what is seen of a movie, see decisions.calibrations.
        metadata: goes into the file.
        file: ends in .onnx.

    Raises:
        InputError: torch cannot export this architecture.
    """
    example = inputs(model, model.encoder.encode(example_movies(model)).batch(np.arange(3)))
    module = _Calibrated(model, found, list(example)).eval()
    size = sum(value.nbytes for value in model.state_dict().values())
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                tuple(example.values()),
                dynamo=True,
                input_names=list(example),
                output_names=list(OUTPUTS),
                dynamic_shapes=(tuple(_SHAPES[name] for name in example),),
                opset_version=_OPSET,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise InputError(
            f"onnx=true: torch cannot export this architecture ({_cause_of(error)}); give onnx=false"
        ) from None
    assert program is not None, "an exporter by dynamo"  # noqa: S101 - what torch's signature leaves open
    program.model.metadata_props.update(metadata)
    program.save(str(file), external_data=size > _MAX_BYTES)


def _cause_of(error: BaseException) -> str:
    """What the exporter stumbled over: the first line of what it raises says which of its steps, and how to debug."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {one_line(str(error).strip().partition(chr(10))[0])[:200]}"


def inputs(model: GenreModel, batch: Batch) -> dict[str, torch.Tensor]:
    """What the graph reads of a batch, by name; in the order of its inputs."""
    found = _padded(batch["terms"]) if "terms" in batch else {}
    names = ["input_ids", "attention_mask", "pixels", *(["has_text", "has_image"] if isinstance(model, Fusion) else [])]
    return found | {name: batch[name] for name in names if name in batch}


def example_movies(model: GenreModel, seed: int = 0) -> Movies:
    """Six movies made of words that a model knows and of noise, a few words to more than it reads long.

    Of a fusion, some have a plot or a poster alone.
    """
    random = np.random.default_rng(seed)
    lengths, fused = (9, 40, 1, 900, 4, 17), isinstance(model, Fusion)
    plots: list[str | None] = [None] * len(lengths)
    images: list[bytes | None] = [None] * len(lengths)
    for part in model.parts.values():
        if isinstance(part.encoder, ImageEncoder):
            images = [None if fused and row % 3 == 1 else _noise(random) for row in range(len(lengths))]
        else:
            words = _vocabulary(part.encoder)
            drawn = [" ".join(random.choice(words, length)) for length in lengths]
            plots = [None if fused and row % 3 == 2 else plot for row, plot in enumerate(drawn)]
    return Movies(["Movie"] * len(lengths), plots, images)


def _noise(random: np.random.Generator) -> bytes:
    content = io.BytesIO()
    Image.fromarray(random.integers(0, 255, (300, 200, 3), np.uint8)).save(content, "JPEG")
    return content.getvalue()


def _vocabulary(encoder: Any) -> list[str]:
    """Words and pieces of words."""
    if hasattr(encoder, "tokenizer"):
        return sorted(piece.removeprefix("##") for piece in encoder.tokenizer.get_vocab())
    return encoder.terms if hasattr(encoder, "terms") else encoder.words


def _padded(terms: torch.Tensor) -> dict[str, torch.Tensor]:
    """TF-IDF rows, sparse, shape (B, V), as the columns and values of each row; filled up with zeros."""
    terms = terms.coalesce()
    rows, columns = terms.indices().numpy()
    counts = np.bincount(rows, minlength=len(terms))
    shape = (len(terms), max(1, counts.max(initial=0)))
    found = {"term_ids": np.zeros(shape, np.int64), "term_weights": np.zeros(shape, np.float32)}
    places = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    found["term_ids"][rows, places], found["term_weights"][rows, places] = columns, terms.values().numpy()
    return {name: torch.from_numpy(values) for name, values in found.items()}


class _Calibrated(nn.Module):
    """A model with what makes probabilities and decisions of its logits; takes its inputs one by one."""

    temperatures: torch.Tensor
    cutoffs: torch.Tensor

    def __init__(self, model: GenreModel, found: Mapping[str, Calibration], names: list[str]):
        super().__init__()
        self._model = _exportable(model)
        self._names = names
        cases = [found[case] for case in _CASES]
        self.register_buffer("temperatures", torch.tensor([[one.temperature] for one in cases]))
        cutoffs = np.stack([one.thresholds.cutoffs() for one in cases])
        self.register_buffer("cutoffs", torch.from_numpy(cutoffs.astype(np.float32)))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See OUTPUTS."""
        batch = dict(zip(self._names, tensors, strict=True))
        logits = self._model(batch)
        if "has_text" not in batch:
            only = _CASES.index(PredictStatus.POSTER_ONLY if "pixels" in batch else PredictStatus.TEXT_ONLY)
            probabilities = torch.sigmoid(logits / self.temperatures[only])
            return probabilities, logits, probabilities >= self.cutoffs[only]
        has_text, has_image = batch["has_text"], batch["has_image"]
        case = torch.where(has_text & has_image, 0, torch.where(has_text, 1, 2))
        probabilities = torch.sigmoid(logits / self.temperatures[case])
        predicted = (probabilities >= self.cutoffs[case]) & (has_text | has_image).unsqueeze(1)
        return probabilities, logits, predicted


def _exportable(model: GenreModel) -> nn.Module:
    """A model that computes the same of the graph's inputs, with nothing in it that torch cannot export."""
    match model:
        case Tfidf():
            return _Terms(model)
        case Bilstm():
            return _Words(model)
        case Fusion():
            fusion: Any = copy.deepcopy(model)
            fusion.text = _exportable(fusion.text)
            return fusion
    return model


class _Tower(nn.Module):
    """What a fusion, too, asks of a model."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        return self.classify(self.features(batch))

    def features(self, batch: Batch) -> torch.Tensor:
        """What `classify` sees."""
        raise NotImplementedError

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        raise NotImplementedError


class _Terms(_Tower):
    """TF-IDF: ONNX has no sparse products, so each term that there is adds its weights to the nine sums."""

    def __init__(self, model: Tfidf):
        super().__init__()
        head: Any = model.head
        self.linear: Any = head[0] if isinstance(head, nn.Sequential) else head
        self.graph = head[1] if isinstance(head, nn.Sequential) else nn.Identity()

    def features(self, batch: Batch) -> torch.Tensor:
        """Logits before the graph of genres: TF-IDF has no other features."""
        weights = self.linear.weight.T[batch["term_ids"]]
        return (weights * batch["term_weights"].unsqueeze(-1)).sum(1) + self.linear.bias

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        return self.graph(features)


class _Words(_Tower):
    """A BiLSTM by ONNX's own LSTM, which reads rows of several lengths; torch exports none that does."""

    weight_ih: torch.Tensor
    weight_hh: torch.Tensor
    bias_ih: torch.Tensor
    bias_hh: torch.Tensor

    def __init__(self, model: Bilstm):
        super().__init__()
        self.model = model
        lstm = model.lstm
        both = [{kind: _gates(getattr(lstm, f"{kind}_l0{end}")) for kind in _WEIGHTS} for end in ("", "_reverse")]
        for kind in _WEIGHTS:
            self.register_buffer(kind, torch.stack([one[kind] for one in both]))

    def features(self, batch: Batch) -> torch.Tensor:
        """The largest output of each unit over a plot's words, shape (B, 2 * hidden)."""
        mask, vectors = batch["attention_mask"], self.model.vectors(batch["input_ids"]).transpose(0, 1)
        lengths, size = mask.sum(1).clamp(min=1), self.model.lstm.hidden_size
        weights = (self.weight_ih, self.weight_hh, torch.cat([self.bias_ih, self.bias_hh], 1))
        found = torch.onnx.ops.symbolic(
            "LSTM",
            (vectors, *weights, lengths.int()),
            {"direction": "bidirectional", "hidden_size": size},
            dtype=torch.float32,
            shape=(vectors.shape[0], 2, vectors.shape[1], size),
        )
        found = found.permute(2, 0, 1, 3).flatten(2)
        is_padding = torch.arange(found.shape[1], device=found.device) >= lengths.unsqueeze(1)
        return found.masked_fill(is_padding.unsqueeze(-1), float("-inf")).amax(1)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Logits, shape (B, 9)."""
        return self.model.classify(features)


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _gates(weights: torch.Tensor) -> torch.Tensor:
    """Torch has input, forget, cell and output one below the other, ONNX has input, output, forget and cell."""
    gates = weights.detach().chunk(4)
    return torch.cat([gates[0], gates[3], gates[1], gates[2]])


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter tells of its steps, of what its own libraries have deprecated, and of what it stumbled over."""
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
