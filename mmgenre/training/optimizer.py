"""The optimizer and its schedule: separate learning rates for backbone and head, counted in optimizer steps."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from mmgenre.config import Config
from mmgenre.models import GenreModel


class OptimizerConfig(Config):
    """An optimizer, with a warm-up and a decay of its rates."""

    kind: Literal["adamw", "rmsprop"] = "adamw"
    lr_backbone: float = Field(5e-5, ge=0, description="peak learning rate of all but the head")
    lr_head: float = Field(1e-3, ge=0, description="peak learning rate of the head")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="rate of each backbone layer relative to the one above it (ELECTRA-Small: 0.8)"
    )
    weight_decay: float = Field(0.01, ge=0, description="not applied to biases and normalisation")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the optimizer steps in which the rates rise")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="what follows the warm-up")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null: not clipped")

    def build(
        self, model: GenreModel, num_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """The optimizer of a model's trainable parameters, and a schedule to be advanced after each of its steps.

        Args:
            model: parameters below `head` are the head's, all others the backbone's.
            num_steps: optimizer steps of the whole training.
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
        """Parameter groups by rate and decay, the head's last."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, value in model.named_parameters():
            if value.requires_grad:
                decay = self.weight_decay if value.ndim > 1 else 0.0
                groups.setdefault((self._lr(model, name), decay), []).append(value)
        return [{"params": values, "lr": lr, "weight_decay": decay} for (lr, decay), values in groups.items()]

    def _lr(self, model: GenreModel, parameter: str) -> float:
        """Source of the decay by layer: Clark et al. 2020, arXiv:2003.10555, appendix B."""
        # Towers of a fusion have heads of their own.
        if "head" in parameter.split("."):
            return self.lr_head
        # Only a decay needs a stack of layers, which not every backbone has.
        decay = 1.0 if self.layer_decay == 1 else self.layer_decay ** model.depth(parameter)
        return self.lr_backbone * decay
