"""Compares the outputs of an ONNX file with those of its checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmgenre.errors import InputError
from mmgenre.export.onnx_model import OUTPUTS, graph_inputs
from mmgenre.models import GenreModel, Movies
from mmgenre.scoring.thresholds import Calibration, probabilities
from mmgenre.tables.schema import PredictStatus
from mmgenre.tagging.decisions import DecisionConfig, Decisions

# Rounding errors of fp32 sums in another order.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Parity:
    """Differences between an ONNX file and its checkpoint.

    Args:
        difference: largest absolute difference of two probabilities.
        changed_decisions: different decisions with a probability farther than TOLERANCE from its threshold.
        movies: number of movies compared.
    """

    difference: float
    changed_decisions: int
    movies: int

    def require(self, name: str) -> None:
        """Raise InputError unless the outputs agree."""
        # Written so that NaN fails.
        if not self.difference <= TOLERANCE or self.changed_decisions:
            raise InputError(
                f"{name}: its probabilities differ from the checkpoint's by {self.difference:.1e} (expected at most "
                f"{TOLERANCE:.0e}), and {self.changed_decisions} decisions differ; nothing was exported, set onnx=false"
            )


class OnnxSession:
    """An ONNX file loaded into onnxruntime on the CPU.

    Args:
        file: ends in .onnx.
        threads: threads per operation; None: as many as torch uses.
    """

    def __init__(self, file: Path, threads: int | None = None):
        import onnxruntime  # noqa: PLC0415 - an extra

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Outputs by name; see OUTPUTS."""
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return dict(zip(OUTPUTS, self._session.run(list(OUTPUTS), arrays), strict=True))


def compare(file: Path, model: GenreModel, calibrations: Mapping[str, Calibration], movies: Movies) -> Parity:
    """Compare an ONNX file with its model in fp32, on single movies and on padded and unpadded batches.

    Args:
        file: exported from the model.
        model: in evaluation mode, on the CPU.
        calibrations: temperature and thresholds by status.
        movies: each with an input that the model reads.
    """
    encoded = model.encoder.encode(movies)
    decide, session = Decisions(dict(calibrations), DecisionConfig()), OnnxSession(file)
    all_statuses = np.select(
        [encoded.has_text & encoded.has_image, encoded.has_text],
        [PredictStatus.TEXT_AND_POSTER, PredictStatus.TEXT_ONLY],
        PredictStatus.POSTER_ONLY,
    ).tolist()
    difference, changed_decisions = 0.0, 0
    for rows in _batches(len(movies)):
        batch, statuses = encoded.batch(rows), [all_statuses[row] for row in rows]
        with torch.inference_mode():
            logits = model(batch).numpy()
        expected = probabilities(logits, np.array([[calibrations[status].temperature] for status in statuses]))
        actual = session(graph_inputs(model, batch))
        # Python's max() would drop NaN.
        difference = float(np.max([difference, np.abs(actual["probabilities"] - expected).max()]))
        is_close = np.abs(expected - np.stack([decide.cutoffs(status) for status in statuses])) <= TOLERANCE
        changed_decisions += int(np.count_nonzero((actual["predicted"] != decide(expected, statuses)) & ~is_close))
    return Parity(difference, changed_decisions, len(movies))


def _batches(size: int) -> Iterator[np.ndarray]:
    """Each row alone, all rows, and all rows in pairs."""
    rows = np.arange(size)
    yield from (*np.split(rows, size), rows, *np.array_split(rows[::-1], max(1, size // 2)))
