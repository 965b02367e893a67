"""Logits of many movies: what validation, tagging and serving share."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy

from mmgenre import cluster
from mmgenre.batches import by_length
from mmgenre.cluster import Accelerator
from mmgenre.genres import GENRES
from mmgenre.models import Batch, Encoded, GenreModel

Precision = Literal["auto", "fp32", "bf16"]
# Padded tokens computed at once: enough to fill two cores or a GPU, few enough for any memory.
_MAX_TOKENS = 8192
# Of the movies on which precisions are compared, and the share of the time of fp32 below which another is taken: where
# they are close, chance should not decide what a model says.
_MEASURED_TOKENS, _WORTH_IT = 2048, 0.67


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
    """A model on its device, with the precision that computes fastest there.

    Args:
        model: in evaluation mode.
        device: where it is to compute.
        precision: auto: whichever of fp32 and bf16 is faster on the first movies.
        compiled: by torch.compile, which takes a minute and a C++ compiler.
    """

    def __init__(self, model: GenreModel, device: torch.device, precision: Precision, *, compiled: bool = False):
        self.model, self.device, self.precision = model.to(device), device, precision
        self._call: Callable[[Batch], torch.Tensor] = _compiled(model) if compiled else model

    def logits(self, movies: Encoded) -> np.ndarray:
        """Logits of N encoded movies, shape (N, 9), float32."""
        if self.precision == "auto" and len(movies.lengths):
            self.precision = _fastest(self._call, movies, self.device)
        return predict_logits(self._call, movies, self.device, self.precision)


def _fastest(model: Callable[[Batch], torch.Tensor], movies: Encoded, device: torch.device) -> Precision:
    """Measured on some movies; fp32 where bf16 is hardly faster."""
    rows = next(by_length(movies.lengths, _MEASURED_TOKENS))
    some = movies.take(rows)
    seconds: dict[Precision, float] = {}
    choices: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in choices:
        # The first time is not counted, and of the others the least: other processes may be in the way.
        seconds[precision] = min([_seconds(model, some, device, precision) for _ in range(3)][1:])
    return "bf16" if seconds["bf16"] < _WORTH_IT * seconds["fp32"] else "fp32"


def _seconds(
    model: Callable[[Batch], torch.Tensor], movies: Encoded, device: torch.device, precision: Precision
) -> float:
    began = time.perf_counter()
    predict_logits(model, movies, device, precision)
    return time.perf_counter() - began


def _compiled(model: GenreModel) -> Callable[[Batch], torch.Tensor]:
    # Weights become constants: cast and laid out for the processor once.
    torch._inductor.config.freezing = True
    return torch.compile(model, dynamic=True)


def actor_pool(
    num_actors: int | None, accelerator: Accelerator, num_batches: int, cpus_per_actor: int = 1
) -> dict[str, Any]:
    """Options of map_batches for actors with a model each: one for each GPU where there are any, else for each CPU.

    Args:
        num_actors: how many; as many as there is room and work for when it is None.
        accelerator: whether on GPUs.
        num_batches: work that can be shared out.
        cpus_per_actor: CPUs of each.
    """
    resources = ray.cluster_resources()
    cpus, use_gpu = int(resources.get("CPU", 0)), cluster.use_gpu(accelerator)
    places = int(resources.get("GPU", 0)) if use_gpu else cpus // cpus_per_actor
    size = max(1, min(num_actors or places, num_batches))
    # Reading and writing needs the rest of a CPU.
    share = cpus_per_actor - cluster.SHARE_OF_WAITING * (1 if cpus > 1 else 2)
    return {"compute": ActorPoolStrategy(size=size), "num_cpus": share, "num_gpus": 1 if use_gpu else None}


def own_device() -> torch.device:
    """Where this process computes: on the GPU that it was given, or on its CPUs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on the device."""
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
