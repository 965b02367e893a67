"""Logits of many movies: what validation, tagging and serving share."""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from ray.data import ActorPoolStrategy

from mmgenre import ray_session as cluster
from mmgenre.labels import GENRES
from mmgenre.models import Batch, Encoded, GenreModel
from mmgenre.models.packing import can_pack, packed
from mmgenre.ray_session import Accelerator
from mmgenre.training.batches import by_length, rows_of

Precision = Literal["auto", "fp32", "bf16"]
# Padded tokens computed at once: enough to fill two cores or a GPU, few enough for any memory.
_MAX_TOKENS = 8192
# Of the movies on which precisions are compared, and the share of the time of fp32 below which another is taken: where
# they are close, chance should not decide what a model says.
_MEASURED_TOKENS, _WORTH_IT, _TIMES = 2048, 0.67, 3


def predict_logits(
    model: Callable[[Batch], torch.Tensor], movies: Encoded, device: torch.device, precision: Precision = "auto"
) -> np.ndarray:
    """Logits of N encoded movies, shape (N, 9), float32, in their order.

    Args:
        model: in evaluation mode, on the device.
        movies: from the model's own encoder.
        device: where the model is.
        precision: see autocast.
    """
    logits = np.zeros((len(movies.lengths), len(GENRES)), np.float32)
    for rows, found in outputs(model, movies, device, precision):
        logits[rows] = found.float().cpu().numpy()
    return logits


def outputs(
    model: Callable[[Batch], torch.Tensor], movies: Encoded, device: torch.device, precision: Precision
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """What a model makes of encoded movies, in batches of similar length: their row numbers, and its output."""
    for rows in by_length(movies.lengths, _MAX_TOKENS):
        with torch.inference_mode(), autocast(device, precision):
            found = model(to_device(movies.batch(rows), device))
        yield rows, found


class Predictor:
    """A model on its device, in the precision that computes fastest there.

    Args:
        model: in evaluation mode; it can only predict from here on.
        device: where it is to compute.
        precision: auto: whichever of fp32 and bf16 is faster on the first movies.
    """

    def __init__(self, model: GenreModel, device: torch.device, precision: Precision):
        self.encoder, self.device, self.precision = model.encoder, device, precision
        self._model = model.to(device) if precision != "bf16" else _in_bf16(model, device)

    def logits(self, movies: Encoded) -> np.ndarray:
        """Logits of N encoded movies, shape (N, 9), float32."""
        if self.precision == "auto" and len(movies.lengths):
            longest = np.argsort(-movies.lengths, kind="stable")
            self._choose(movies.take(longest[: rows_of(int(movies.lengths[longest[0]]), _MEASURED_TOKENS)]))
        return predict_logits(self._model, movies, self.device, self.precision)

    def _choose(self, movies: Encoded) -> None:
        """Measure on some movies."""
        other = _in_bf16(copy.deepcopy(self._model), self.device)
        seconds = _seconds(self._model, movies, self.device, "fp32")
        if _seconds(other, movies, self.device, "bf16") < _WORTH_IT * seconds:
            self._model, self.precision = other, "bf16"
        else:
            self.precision = "fp32"


def _in_bf16(model: GenreModel, device: torch.device) -> GenreModel:
    return packed(model) if device.type == "cpu" and can_pack() else model.to(device)


def _seconds(model: GenreModel, movies: Encoded, device: torch.device, precision: Precision) -> float:
    """The least of some times, because other processes may be in the way; the first does not count."""
    times = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        predict_logits(model, movies, device, precision)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def actor_pool(
    num_actors: int | None, accelerator: Accelerator, num_batches: int, cpus_per_actor: int = 1
) -> dict[str, Any]:
    """Options of map_batches for actors with a model each: one for each GPU where there are any, else for each CPU.

    Args:
        num_actors: how many; as many as there is work, and room once the cluster has grown, for when it is None.
        accelerator: whether on GPUs.
        num_batches: work that can be shared out.
        cpus_per_actor: CPUs of each.
    """
    resources = cluster.most_resources()
    cpus, use_gpu = int(resources["CPU"]), cluster.use_gpu(accelerator)
    places = int(resources["GPU"]) if use_gpu else cpus // cpus_per_actor
    size = max(1, min(num_actors or places, num_batches))
    # Reading and writing needs the rest of a CPU.
    is_alone = cpus <= 1 and not cluster.may_grow()
    share = cpus_per_actor - cluster.SHARE_OF_WAITING * (2 if is_alone else 1)
    return {"compute": ActorPoolStrategy(size=size), "num_cpus": share, "num_gpus": 1 if use_gpu else None}


def own_device() -> torch.device:
    """Where this process computes: on the GPU that it was given, or on its CPUs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on the device; to a GPU it goes through pinned memory, so that nobody waits for the copy."""
    if device.type == "cuda":
        batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Mixed precision; `auto` is bf16 where the processor or the GPU computes in it, else fp32."""
    enabled = precision == "bf16" or (precision == "auto" and _computes_bf16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without AMX tiles a CPU emulates bf16 matrix products, slower than fp32.
    return torch.cpu._is_amx_tile_supported()
