"""Backbones of many shapes: positions, freezing and learning rates. Each is tiny and has random weights."""

import numpy as np
import pytest
import torch

from mmgenre.errors import InputError
from mmgenre.models.backbone_layers import layer_numbers
from mmgenre.models.movies import Movies
from mmgenre.models.transformer import TransformerConfig
from mmgenre.training.optimizer import OptimizerConfig

PLOTS = ["ghost kiss heist robot joke " * 20, "a ghost", "the last heist of a robot"]
TABLE = 16
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": TABLE,
}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
SHAPES = {
    "bert": SIZES,
    "electra": SIZES | {"embedding_size": 8},
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": TABLE},
    "roberta": SIZES,
    "xlm-roberta": SIZES,
    "camembert": SIZES,
    "longformer": SIZES | {"attention_window": 4},
    "mpnet": SIZES,
    "deberta": SIZES | DEBERTA,
    "deberta-v2": SIZES | DEBERTA | {"norm_rel_ebd": "layer_norm", "position_buckets": 8, "conv_kernel_size": 3},
    "modernbert": SIZES,
    "eurobert": SIZES,
    "rembert": SIZES | {"num_key_value_heads": 2},
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": TABLE},
    "xlm": {"emb_dim": 16, "n_layers": 3, "n_heads": 2, "max_position_embeddings": TABLE},
}
# Positions that these keep for the padding: up to its own, which is 0 here and always 1 in MPNet.
RESERVED = {"roberta": 1, "xlm-roberta": 1, "camembert": 1, "longformer": 1, "mpnet": 2}
SHARED = {
    "mpnet": {"encoder.relative_attention_bias.weight"},
    "deberta": {"encoder.rel_embeddings.weight"},
    "deberta-v2": {"encoder.rel_embeddings.weight", "encoder.LayerNorm.weight", "encoder.conv.conv.weight"},
    "rembert": {"encoder.embedding_hidden_mapping_in.weight"},
}
FINAL_NORM = {"modernbert": "final_norm.weight", "eurobert": "norm.weight", "gpt2": "ln_f.weight"}


def build(shape, **settings):
    torch.manual_seed(0)
    architecture = {"model_type": shape} | SHAPES[shape]
    config = TransformerConfig(pretrained=None, architecture=architecture, vocab_size=200, **settings)
    return config.build(Movies.of_plots(PLOTS))


def batch_of(model):
    return model.encoder.encode(Movies.of_plots(PLOTS)).batch(np.arange(len(PLOTS)))


@pytest.mark.parametrize("max_length", [TABLE, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_plot_is_cut_to_the_tokens_that_the_backbone_has_positions_for(shape, max_length):
    model = build(shape, max_length=max_length).eval()

    batch = batch_of(model)

    assert batch["input_ids"].shape == (3, TABLE - RESERVED.get(shape, 0))
    assert torch.isfinite(model(batch)).all()


def test_a_shorter_limit_stays():
    assert build("roberta", max_length=10).encoder.max_length == 10


@pytest.mark.parametrize("shape", SHAPES)
def test_with_all_layers_frozen_only_the_head_learns(shape):
    model = build(shape, frozen_layers=3)

    assert {name for name, value in model.named_parameters() if value.requires_grad} == {"head.weight", "head.bias"}
    assert list(model.frozen_modules) == ["backbone"]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_learned_leaves_the_output_of_the_frozen_layers_as_it_is(shape):
    model = build(shape, frozen_layers=1).eval()
    batch = batch_of(model)

    def outputs():
        with torch.no_grad():
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            hidden = model.backbone(**inputs, output_hidden_states=True).hidden_states
        return hidden[1].clone(), hidden[-1].clone()

    lowest, last = outputs()
    with torch.no_grad():
        for value in model.backbone.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value))
    changed_lowest, changed_last = outputs()

    assert torch.equal(changed_lowest, lowest)
    assert not torch.allclose(changed_last, last)


@pytest.mark.parametrize("frozen_layers", [0, 1, 3])
# Longformer has weights for global attention, which nothing here uses.
@pytest.mark.parametrize("shape", sorted(SHAPES.keys() - {"longformer"}))
def test_every_trained_parameter_gets_a_gradient(shape, frozen_layers):
    model = build(shape, frozen_layers=frozen_layers).train()

    model(batch_of(model)).sum().backward()

    assert [name for name, value in model.named_parameters() if value.requires_grad != (value.grad is not None)] == []


@pytest.mark.parametrize("shape", SHAPES)
def test_what_all_layers_share_learns_as_slowly_as_embeddings_and_a_final_norm_as_fast_as_the_last_layer(shape):
    model = build(shape)
    names = {id(value): name for name, value in model.named_parameters()}
    optimizer, _ = OptimizerConfig(lr_backbone=1, lr_head=5, layer_decay=0.5, warmup=0).build(model, num_steps=10)

    rate = {names[id(value)]: group["lr"] for group in optimizer.param_groups for value in group["params"]}

    numbers = layer_numbers(model.backbone)
    assert set(numbers.values()) == {-1, 0, 1, 2} | ({3} if shape in FINAL_NORM else set())
    assert {name for name in SHARED.get(shape, ()) if rate[f"backbone.{name}"] != 0.125} == set()
    assert {number: rate[f"backbone.{name}"] for name, number in numbers.items()} == {
        number: {-1: 0.125, 0: 0.25, 1: 0.5, 2: 1, 3: 1}[number] for number in set(numbers.values())
    }
    if shape in FINAL_NORM:
        assert numbers[FINAL_NORM[shape]] == 3
    else:
        assert all(rate[name] == 0.125 for name in rate if "embed" in name)


def test_finding_the_layers_changes_neither_the_model_nor_the_random_numbers():
    model = build("modernbert").train()
    for value in model.backbone.embeddings.parameters():
        value.requires_grad_(False)
    learning = [value.requires_grad for value in model.parameters()]
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)

    layer_numbers(model.backbone)

    assert torch.equal(torch.rand(3), expected)
    assert [value.requires_grad for value in model.parameters()] == learning
    assert model.backbone.training and all(value.grad is None for value in model.parameters())


def test_an_encoder_with_a_decoder_is_refused():
    architecture = {"model_type": "t5", "d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}

    with pytest.raises(InputError, match="model: T5Model is an encoder with a decoder; choose an encoder"):
        TransformerConfig(pretrained=None, architecture=architecture).build(Movies.of_plots(PLOTS))
