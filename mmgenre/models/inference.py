"""Prediction for many movies, shared by validation, tagging and serving."""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from ray.data import ActorPoolStrategy

from mmgenre import ray_session
from mmgenre.labels import GENRES
from mmgenre.models import Batch, EncodedMovies, GenreModel
from mmgenre.models.packing import can_pack, packed
from mmgenre.ray_session import Accelerator

Precision = Literal["auto", "fp32", "bf16"]
# Padded tokens per batch: enough to keep two cores or a GPU busy, few enough for any memory.
_MAX_TOKENS = 8192
# Rows shorter than this share of a batch's longest row wait for the next batch. Padding 32 plots of very different
# length to the longest takes twice as long as computing three batches.
_SIMILAR = 0.75
# Precisions are timed on this many tokens, this many times; the first time is a warm-up.
_TIMED_TOKENS, _TIMES = 2048, 3
# bf16 is chosen if it takes less than this share of fp32's time, so that noise does not decide.
_WORTH_IT = 0.67


def predict_logits(
    model: Callable[[Batch], torch.Tensor], movies: EncodedMovies, device: torch.device, precision: Precision = "auto"
) -> np.ndarray:
    """Logits of N encoded movies, shape (N, 9), float32, in their order.

    Args:
        model: in evaluation mode, on the device.
        movies: encoded by the model's own encoder.
        device: the model's device.
        precision: see autocast.
    """
    logits = np.zeros((len(movies.lengths), len(GENRES)), np.float32)
    for rows, outputs in batch_outputs(model, movies, device, precision):
        logits[rows] = outputs.float().cpu().numpy()
    return logits


def batch_outputs(
    model: Callable[[Batch], torch.Tensor], movies: EncodedMovies, device: torch.device, precision: Precision
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Run a model in batches of similar length; yields row numbers and outputs."""
    for rows in batches_by_length(movies.lengths, _MAX_TOKENS):
        with torch.inference_mode(), autocast(device, precision):
            outputs = model(to_device(movies.batch(rows), device))
        yield rows, outputs


def batches_by_length(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of similar length, longest first, with at most max_tokens padded tokens each.

    A row longer than max_tokens gets a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    ascending = -lengths[order]
    start = 0
    while start < len(order):
        longest = -int(ascending[start])
        similar = int(np.searchsorted(ascending, -_SIMILAR * longest, side="right"))
        end = min(similar, start + _max_rows(longest, max_tokens))
        yield order[start:end]
        start = end


def _max_rows(length: int, max_tokens: int) -> int:
    """Rows per batch when each is padded to this length; at least 1."""
    return max(1, max_tokens // max(1, length))


class Predictor:
    """A model on a device, in the precision that is fastest there.

    Args:
        model: in evaluation mode; it can only predict afterwards.
        device: device to compute on.
        precision: auto: time fp32 and bf16 on the first movies and keep the faster one.
    """

    def __init__(self, model: GenreModel, device: torch.device, precision: Precision):
        self.encoder, self.device, self.precision = model.encoder, device, precision
        if precision == "auto" and device.type == "cpu" and not can_pack():
            self.precision = "fp32"
        self._model = model.to(device) if self.precision != "bf16" else _in_bf16(model, device)

    def logits(self, movies: EncodedMovies) -> np.ndarray:
        """Logits of N encoded movies, shape (N, 9), float32."""
        if self.precision == "auto" and len(movies.lengths):
            longest = np.argsort(-movies.lengths, kind="stable")
            num_rows = _max_rows(int(movies.lengths[longest[0]]), _TIMED_TOKENS)
            self._choose_precision(movies.take(longest[:num_rows]))
        return predict_logits(self._model, movies, self.device, self.precision)

    def _choose_precision(self, movies: EncodedMovies) -> None:
        in_bf16 = _in_bf16(copy.deepcopy(self._model), self.device)
        seconds = _seconds(self._model, movies, self.device, "fp32")
        if _seconds(in_bf16, movies, self.device, "bf16") < _WORTH_IT * seconds:
            self._model, self.precision = in_bf16, "bf16"
        else:
            self.precision = "fp32"


def _in_bf16(model: GenreModel, device: torch.device) -> GenreModel:
    return packed(model) if device.type == "cpu" and can_pack() else model.to(device)


def _seconds(model: GenreModel, movies: EncodedMovies, device: torch.device, precision: Precision) -> float:
    """The minimum of several runs, because other processes may slow some of them down."""
    times = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        predict_logits(model, movies, device, precision)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def map_batches_options(
    num_actors: int | None, accelerator: Accelerator, num_batches: int, cpus_per_actor: int = 1
) -> dict[str, Any]:
    """Options of `Dataset.map_batches` for actors that each hold a model: one per GPU if there are any, else per CPU.

    Args:
        num_actors: number of actors; None: as many as the cluster has room for once it has grown.
        accelerator: whether to use GPUs.
        num_batches: upper limit of the number of actors.
        cpus_per_actor: CPUs per actor.
    """
    resources = ray_session.max_resources()
    cpus, use_gpu = int(resources["CPU"]), ray_session.use_gpu(accelerator)
    places = int(resources["GPU"]) if use_gpu else cpus // cpus_per_actor
    size = max(1, min(num_actors or places, num_batches))
    # Reading and writing tasks need a share of a CPU, too.
    is_alone = cpus <= 1 and not ray_session.may_grow()
    num_cpus = cpus_per_actor - ray_session.IO_ACTOR_CPUS * (2 if is_alone else 1)
    return {"compute": ActorPoolStrategy(size=size), "num_cpus": num_cpus, "num_gpus": 1 if use_gpu else None}


def local_device() -> torch.device:
    """The device of this process: its GPU if it was assigned one, else the CPU."""
    return torch.device("cuda" if ray_session.may_use_gpu() and torch.cuda.is_available() else "cpu")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; copies to a GPU go through pinned memory and do not block."""
    if device.type == "cuda":
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def resolved(precision: Precision, device: torch.device) -> Precision:
    """The precision on a device: `auto` is bf16 if the CPU or GPU has bf16 matrix units, else fp32."""
    if precision == "auto":
        return "bf16" if _has_bf16_units(device) else "fp32"
    return precision


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Mixed precision in bf16, or none; see `resolved`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=resolved(precision, device) == "bf16")


def _has_bf16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without AMX, bf16 matrix products on a CPU are slower than fp32.
    return torch.cpu._is_amx_tile_supported()
