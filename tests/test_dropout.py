import pytest
import torch
from torch import nn

from mmgenre.models.dropout import ByteDropout, draw_bytes


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_as_many_values_are_dropped_as_asked_and_the_mean_stays(share):
    torch.manual_seed(0)
    kept = ByteDropout(share)(torch.ones(1000, 1001))
    assert (kept == 0).float().mean().item() == pytest.approx(share, abs=0.004)
    assert kept.mean().item() == pytest.approx(1, abs=0.002)


def test_the_gradient_flows_through_what_was_kept():
    values = torch.ones(64, 3, dtype=torch.bfloat16, requires_grad=True)
    kept = ByteDropout(0.5)(values)
    kept.sum().backward()
    assert torch.equal(values.grad, kept.detach())


def test_nothing_is_dropped_in_evaluation_mode():
    values = torch.randn(5, 7)
    assert torch.equal(ByteDropout(0.5).eval()(values), values)


def test_the_same_seed_drops_the_same():
    values, layer = torch.ones(50), ByteDropout(0.5)
    torch.manual_seed(3)
    first = layer(values)
    torch.manual_seed(3)
    assert torch.equal(layer(values), first)


def test_every_dropout_of_a_module_is_replaced_with_its_own_chance():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Sequential(nn.Dropout(0.3)))
    draw_bytes(module)
    assert [layer.p for layer in module.modules() if isinstance(layer, ByteDropout)] == [0.1, 0.3]
