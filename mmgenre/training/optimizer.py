"""The optimizer and its learning-rate schedule, with separate rates for backbone and head."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from mmgenre.config import Config
from mmgenre.models import GenreModel


class OptimizerConfig(Config):
    """An optimizer, and a schedule of warm-up and decay."""

    kind: Literal["adamw", "rmsprop"] = "adamw"
    lr_backbone: float = Field(5e-5, ge=0, description="peak learning rate of every layer but the head")
    lr_head: float = Field(1e-3, ge=0, description="peak learning rate of the head")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of each backbone layer relative to the layer above it (ELECTRA-Small: 0.8)",
    )
    weight_decay: float = Field(0.01, ge=0, description="not applied to biases and normalisation layers")
    warmup: float = Field(0.1, ge=0, le=1, description="fraction of the optimizer steps spent on warm-up")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="learning-rate decay after the warm-up"
    )
    clip_norm: float | None = Field(1.0, gt=0, description="maximum gradient norm; null: no clipping")

    def build(
        self, model: GenreModel, num_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """The optimizer of a model's trainable parameters, and its schedule; call both `step()` together.

        Args:
            model: parameters under `head` get `lr_head`, all others `lr_backbone`.
            num_steps: optimizer steps in the whole training.
        """
        from transformers import get_scheduler  # noqa: PLC0415 - slow to import

        groups = self._groups(model)
        optimizer: torch.optim.Optimizer = (
            torch.optim.RMSprop(groups) if self.kind == "rmsprop" else torch.optim.AdamW(groups, fused=True)
        )
        name = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        num_warmup_steps = round(self.warmup * num_steps)
        return optimizer, get_scheduler(name, optimizer, num_warmup_steps, num_steps)

    def _groups(self, model: GenreModel) -> list[dict]:
        """Parameter groups by learning rate and weight decay; the head's come last."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, value in model.named_parameters():
            if value.requires_grad:
                decay = self.weight_decay if value.ndim > 1 else 0.0
                groups.setdefault((self._lr(model, name), decay), []).append(value)
        return [{"params": values, "lr": lr, "weight_decay": decay} for (lr, decay), values in groups.items()]

    def _lr(self, model: GenreModel, parameter: str) -> float:
        """Peak learning rate of a parameter.

        Source of the layer-wise decay: Clark et al. 2020, arXiv:2003.10555, appendix B.
        """
        # Each tower of a fusion model has its own head.
        if "head" in parameter.split("."):
            return self.lr_head
        # Not every backbone is a stack of layers, so depth() is only called when the decay needs it.
        factor = 1.0 if self.layer_decay == 1 else self.layer_decay ** model.layers_above(parameter)
        return self.lr_backbone * factor
