"""Byte-wise dropout drops as much as PyTorch's, and falls back to it."""

import pytest
import torch
from torch import nn

from mmgenre.models.dropout import ByteDropout, use_byte_dropout


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_given_share_is_dropped_and_the_mean_is_unchanged(share):
    torch.manual_seed(0)
    kept = ByteDropout(share)(torch.ones(1000, 1001))
    assert (kept == 0).float().mean().item() == pytest.approx(share, abs=0.004)
    assert kept.mean().item() == pytest.approx(1, abs=0.002)


def test_the_gradient_flows_through_kept_values():
    values = torch.ones(64, 3, dtype=torch.bfloat16, requires_grad=True)
    kept = ByteDropout(0.5)(values)
    kept.sum().backward()
    assert torch.equal(values.grad, kept.detach())


def test_nothing_is_dropped_in_evaluation_mode():
    values = torch.randn(5, 7)
    assert torch.equal(ByteDropout(0.5).eval()(values), values)


def test_the_same_seed_drops_the_same_values():
    values, layer = torch.ones(50), ByteDropout(0.5)
    torch.manual_seed(3)
    first = layer(values)
    torch.manual_seed(3)
    assert torch.equal(layer(values), first)


def test_every_dropout_in_a_module_is_replaced_with_its_own_probability():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.3)))
    use_byte_dropout(module)
    assert [layer.p for layer in module.modules() if isinstance(layer, ByteDropout)] == [0.1, 0.3]


@pytest.mark.parametrize(("share", "device"), [(0.5, "meta"), (0.001, "cpu"), (1.0, "cpu")])
def test_other_devices_and_extreme_probabilities_use_pytorchs_dropout(monkeypatch, share, device):
    calls = []
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, values: calls.append(self.p) or values)

    ByteDropout(share)(torch.ones(9, device=device))

    assert calls == [share]
