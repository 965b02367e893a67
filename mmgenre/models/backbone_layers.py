"""The layers of a transformers backbone: which parameters belong to which, and how many tokens it can read."""

from typing import Any

import torch
from torch import nn

from mmgenre.errors import InputError

_BELOW = -1


def transformer_layers(backbone: nn.Module) -> nn.ModuleList:
    """The backbone's stack of layers. Its name differs between transformers families, its length does not."""
    stack = next(iter(_stacks(backbone)), None)
    if stack is None:
        raise InputError(f"model.frozen_layers: {type(backbone).__name__} has no stack of layers; use frozen_layers=0")
    return stack


def layer_numbers(backbone: nn.Module) -> dict[str, int]:
    """The layer that each parameter belongs to, by the parameter's name.

    The layers count from 0. -1: the lowest layer depends on it, as on embeddings and on relative positions that all
    layers share. The number of layers: only the output depends on it, as on a final normalisation.
    """
    num_layers = len(transformer_layers(backbone))
    numbers: dict[int, int] = {}
    for stack in _stacks(backbone):
        for number, layer in enumerate(stack):
            for value in layer.parameters():
                numbers.setdefault(id(value), number)
    above = {id(value): num_layers for value in _parameters_above(backbone)}
    numbers = above | numbers
    return {name: numbers.get(id(value), _BELOW) for name, value in backbone.named_parameters()}


def freeze_lowest(backbone: nn.Module, num_layers: int) -> None:
    """Freeze the lowest layers and everything that they depend on; with all layers, the whole backbone.

    Raises:
        InputError: the backbone has fewer layers.
    """
    if num_layers == 0:
        return
    layers = transformer_layers(backbone)
    if num_layers > len(layers):
        raise InputError(
            f"model.frozen_layers: {num_layers}, but the backbone has {len(layers)} layers; give at most {len(layers)}"
        )
    if num_layers == len(layers):
        backbone.requires_grad_(False)
        return
    numbers = layer_numbers(backbone)
    for name, value in backbone.named_parameters():
        if numbers[name] < num_layers:
            value.requires_grad_(False)


def max_tokens(backbone: Any) -> int | None:
    """The number of tokens that the backbone has positions for; None: any number."""
    longest = getattr(backbone.config, "max_position_embeddings", None)
    if longest is None or longest <= 0:
        return None
    # RoBERTa, MPNet and their like number tokens from the padding's position on.
    paddings = [
        module.padding_idx
        for name, module in backbone.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return int(longest - max((padding + 1 for padding in paddings), default=0))


def _stacks(backbone: nn.Module) -> list[nn.ModuleList]:
    """The lists of as many modules as the backbone has layers; XLM keeps attention and feed-forward parts apart."""
    num_layers = backbone.config.num_hidden_layers  # type: ignore[union-attr]
    stacks: dict[str, nn.ModuleList] = {}
    for name, module in backbone.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and len(module) == num_layers and not is_inside:
            stacks[name] = module
    return list(stacks.values())


def _parameters_above(backbone: nn.Module) -> list[nn.Parameter]:
    """Parameters that still get a gradient when the last layer's output passes none down."""
    if len(_stacks(backbone)) > 1:
        # No module's output is that of a whole layer. Those families, XLM and FlauBERT, have nothing above the layers.
        return []
    device = next(backbone.parameters()).device
    tokens = torch.zeros((1, 2), dtype=torch.long, device=device)
    was_training, learning = backbone.training, [value.requires_grad for value in backbone.parameters()]
    hook = transformer_layers(backbone)[-1].register_forward_hook(lambda module, inputs, output: _detached(output))
    parameters = list(backbone.parameters())
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            backbone.eval().requires_grad_(True)
            output = backbone(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
            if not output.requires_grad:
                return []
            gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    finally:
        hook.remove()
        backbone.train(was_training)
        for value, learns in zip(parameters, learning, strict=True):
            value.requires_grad_(learns)
    return [value for value, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _detached(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output.detach()
    return type(output)(map(_detached, output)) if isinstance(output, tuple | list) else output
