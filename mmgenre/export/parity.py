"""Whether an ONNX file says what its checkpoint says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmgenre.errors import InputError
from mmgenre.export.onnx_model import OUTPUTS, inputs
from mmgenre.models import Encoded, GenreModel, Movies
from mmgenre.scoring.thresholds import Calibration, probabilities
from mmgenre.tables.schema import PredictStatus
from mmgenre.tagging.decisions import DecisionConfig, Decisions

# What sums in another order may bring in fp32.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Parity:
    """How far a file is from its checkpoint.

    Args:
        difference: the largest between two probabilities.
        others: decisions that are other ones, though the probability is no closer to its threshold than TOLERANCE.
        movies: that were compared.
    """

    difference: float
    others: int
    movies: int

    def require(self, name: str) -> None:
        """Raise InputError unless they say the same."""
        if not self.difference <= TOLERANCE or self.others:
            raise InputError(
                f"{name}: its probabilities differ from the checkpoint's by {self.difference:.1e}, where at most "
                f"{TOLERANCE:.0e} is expected, and {self.others} decisions; the export is not complete, give onnx=false"
            )


class Session:
    """An ONNX file, run by onnxruntime on the CPU.

    Args:
        file: ends in .onnx.
        threads: it computes with; None: as many as torch does.
    """

    def __init__(self, file: Path, threads: int | None = None):
        import onnxruntime  # noqa: PLC0415 - an extra

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, given: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Outputs by name; see OUTPUTS."""
        feeds = {name: tensor.numpy() for name, tensor in given.items()}
        return dict(zip(OUTPUTS, self._session.run(list(OUTPUTS), feeds), strict=True))


def parity(file: Path, model: GenreModel, found: Mapping[str, Calibration], movies: Movies) -> Parity:
    """Compare an ONNX file with its model in fp32, movie by movie and in batches, padded and not.

    Args:
        file: made of the model.
        model: in evaluation mode, on the CPU.
        found: temperature and thresholds by what is seen of a movie.
        movies: of which the model can read something.
    """
    encoded = model.encoder.encode(movies)
    decide, session = Decisions(dict(found), DecisionConfig()), Session(file)
    difference, others = 0.0, 0
    for rows in _batches(len(movies)):
        batch = encoded.batch(rows)
        with torch.inference_mode():
            logits = model(batch).numpy()
        statuses = [_status(encoded, row) for row in rows]
        temperatures = np.array([found[status].temperature for status in statuses])[:, None]
        wanted = probabilities(logits, temperatures)
        got = session(inputs(model, batch))
        # Of a probability that is no number the difference is none, either, which max() would pass over.
        difference = float(np.max([difference, np.abs(got["probabilities"] - wanted).max()]))
        is_close = np.abs(wanted - np.stack([decide.cutoffs(status) for status in statuses])) <= TOLERANCE
        others += int(np.count_nonzero((got["predicted"] != decide(wanted, statuses)) & ~is_close))
    return Parity(difference, others, len(movies))


def _batches(size: int) -> Iterator[np.ndarray]:
    """Each row alone, all of them, and all of them in pairs."""
    rows = np.arange(size)
    yield from (*np.split(rows, size), rows, *np.array_split(rows[::-1], max(1, size // 2)))


def _status(encoded: Encoded, row: int) -> str:
    if encoded.has_text[row] and encoded.has_image[row]:
        return PredictStatus.TEXT_AND_POSTER
    return PredictStatus.TEXT_ONLY if encoded.has_text[row] else PredictStatus.POSTER_ONLY
