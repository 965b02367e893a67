"""Logits of many movies: what validation, tagging and serving share."""

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
from mmgenre.models import Batch, Encoded

Precision = Literal["auto", "fp32", "bf16"]
# Padded tokens computed at once: enough to fill two cores or a GPU, few enough for any memory.
_MAX_TOKENS = 16_384


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


def actor_pool(num_actors: int | None, accelerator: Accelerator, num_batches: int) -> dict[str, Any]:
    """Options of map_batches for actors with a model each: one for each GPU where there are any, else for each CPU.

    Args:
        num_actors: how many; as many as there is room and work for when it is None.
        accelerator: whether on GPUs.
        num_batches: work that can be shared out.
    """
    resources = ray.cluster_resources()
    cpus, use_gpu = int(resources.get("CPU", 0)), cluster.use_gpu(accelerator)
    places = int(resources.get("GPU", 0)) if use_gpu else cpus
    size = num_actors or max(1, min(places, num_batches))
    # Reading and writing needs the rest of a CPU.
    share = 1 - cluster.SHARE_OF_WAITING if cpus > 1 else 1 - 2 * cluster.SHARE_OF_WAITING
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
