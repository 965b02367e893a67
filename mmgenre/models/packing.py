"""Linear layers in bf16 whose weights are laid out for the processor's matrix unit once, and not in each call.

The operators are those that torch.compile puts in place of linear layers; without its minutes of compiling.
"""

from typing import Any, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
# Rows that the layout is chosen for: about as many tokens as are computed together.
_ROWS = 4096


class PackedLinear(nn.Module):
    """A linear layer in bf16, for prediction on a CPU.

    Args:
        linear: the layer.
        activation: what is computed with its result: none, or gelu (the exact one).
    """

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        weight = linear.weight.detach().to(torch.bfloat16)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach().to(torch.bfloat16)
        self._activation = activation

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Shape (..., in) → (..., out), bf16."""
        # The exact GELU is the one that approximates nothing.
        more = "none" if self._activation == "gelu" else ""
        return torch.ops.mkldnn._linear_pointwise(
            values.to(torch.bfloat16), self._weight, self._bias, self._activation, [], more
        )


def packed(model: M) -> M:
    """The model with its linear layers packed; the model itself is changed, and can only predict from here on."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child, _fused_activation(module, name)))
    return model


def can_pack() -> bool:
    """Whether this machine's torch and processor have what it takes."""
    return bool(
        torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _fused_activation(module: nn.Module, name: str) -> str:
    """The activation after a layer, where the layer can compute it, too; it is taken out of the module then."""
    activation: Any = getattr(module, "intermediate_act_fn", None)
    if name != "dense" or type(activation).__name__ != "GELUActivation" or activation.act is not nn.functional.gelu:
        return "none"
    module.intermediate_act_fn = nn.Identity()
    return "gelu"
