"""The optimizer and its schedule: separate learning rates for backbone and head, counted in optimizer steps."""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from mmgenre.config import Config


class OptimizerConfig(Config):
    """AdamW with linear warm-up and decay."""

    lr_backbone: float = Field(5e-5, ge=0, description="peak learning rate of all but the head")
    lr_head: float = Field(1e-3, ge=0, description="peak learning rate of the head")
    weight_decay: float = Field(0.01, ge=0, description="not applied to biases and normalisation")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the optimizer steps in which the rates rise")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="what follows the warm-up")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of the gradient; null: not clipped")

    def build(
        self, model: nn.Module, num_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """The optimizer of a model's trainable parameters, and a schedule to be advanced after each of its steps.

        Args:
            model: parameters below `head` are the head's, all others the backbone's.
            num_steps: optimizer steps of the whole training.
        """
        from transformers import get_scheduler  # noqa: PLC0415 - slow to import

        groups = [group for group in self._groups(model) if group["params"]]
        optimizer = torch.optim.AdamW(groups, fused=True)
        name = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        num_warmup_steps = round(self.warmup * num_steps)
        return optimizer, get_scheduler(name, optimizer, num_warmup_steps, num_steps)

    def _groups(self, model: nn.Module) -> list[dict]:
        trainable = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        return [
            {
                "params": [
                    value
                    for name, value in trainable
                    if name.startswith("head.") == is_head and (value.ndim > 1) == is_decayed
                ],
                "lr": self.lr_head if is_head else self.lr_backbone,
                "weight_decay": self.weight_decay if is_decayed else 0.0,
            }
            for is_head in (False, True)
            for is_decayed in (True, False)
        ]
