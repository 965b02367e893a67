"""Dropout whose mask is drawn from whole bytes: on a CPU, PyTorch draws one number after the other for each element."""

import torch
from torch import nn

_BYTE = 256


class ByteDropout(nn.Dropout):
    """Dropout with a chance that is a multiple of 1/256, scaled so that the mean stays exactly what it was."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The values, in training some of them zero."""
        dropped = round(self.p * _BYTE)
        if not self.training or dropped in {0, _BYTE} or values.device.type != "cpu":
            return super().forward(values)
        num_words = -(-values.numel() // 8)
        noise = torch.empty(num_words, dtype=torch.int64).random_(-(2**63), None).view(torch.uint8)
        kept = noise[: values.numel()].view(values.shape) >= dropped
        return values * kept.to(values.dtype).mul_(_BYTE / (_BYTE - dropped))


def draw_bytes(module: nn.Module) -> None:
    """Replace the dropout of all parts of a module."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, ByteDropout(child.p))
