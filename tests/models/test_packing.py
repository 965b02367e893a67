"""Packed layers match plain ones, and CPUs without bf16 do without them."""

import copy

import pytest
import torch
from torch import nn

from mmgenre.models import inference
from mmgenre.models.inference import Predictor, predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.packing import PackedLinear, can_pack, packed

PLOTS = [f"somebody number {row} " + "chases a ghost " * (row % 7) for row in range(60)]
CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(not can_pack(), reason="this processor has no bf16 instructions")


@needs_packing
def test_a_packed_layer_matches_its_linear_layer():
    linear = nn.Linear(64, 32)
    values = torch.randn(5, 7, 64)

    found = PackedLinear(linear)(values)

    assert (found.shape, found.dtype) == ((5, 7, 32), torch.bfloat16)
    torch.testing.assert_close(found.float(), linear(values), atol=2e-2, rtol=2e-2)


@needs_packing
def test_a_packed_transformer_fuses_activations_and_gives_the_same_logits(tiny_model):
    model = tiny_model.build(Movies.of_plots(PLOTS)).eval()
    encoded = model.encoder.encode(Movies.of_plots(PLOTS))
    expected = predict_logits(model, encoded, CPU, "fp32")

    found = packed(copy.deepcopy(model))

    kinds = [type(module) for module in found.modules()]
    assert nn.Linear not in kinds
    assert nn.Identity in kinds
    assert predict_logits(found, encoded, CPU, "bf16") == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
def test_decisions_match_fp32_in_every_precision(tiny_model, precision):
    torch.manual_seed(3)
    model = tiny_model.build(Movies.of_plots(PLOTS)).eval()
    # Push logits as far from the threshold as a trained model does.
    model.head.weight.data *= 20
    encoded = model.encoder.encode(Movies.of_plots(PLOTS))
    expected = predict_logits(model, encoded, CPU, "fp32")

    predictor = Predictor(model, CPU, precision)
    found = predictor.logits(encoded)

    assert predictor.precision in ("fp32", "bf16")
    assert ((found > 0) == (expected > 0)).mean() >= 0.995


@pytest.mark.parametrize(("asked", "used"), [("auto", "fp32"), ("bf16", "bf16")])
def test_a_cpu_that_cannot_pack_predicts_with_plain_layers(monkeypatch, tiny_model, asked, used):
    monkeypatch.setattr(inference, "can_pack", lambda: False)
    model = tiny_model.build(Movies.of_plots(PLOTS)).eval()
    encoded = model.encoder.encode(Movies.of_plots(PLOTS))
    expected = predict_logits(model, encoded, CPU, "fp32")

    predictor = Predictor(model, CPU, asked)

    assert predictor.logits(encoded) == pytest.approx(expected, abs=0.02)
    assert predictor.precision == used
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
