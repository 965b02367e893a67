"""Transformers and TF-IDF: tokens, logits, frozen layers and loading."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models.inference import predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.text import TextEncoder, train_tokenizer
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.transformer import TransformerConfig

GENRE_WORDS = ["chase", "kiss", "ghost", "robot", "heist", "joke", "tears", "island", "stalker"]
WORDS = [*GENRE_WORDS, "night", "river", "winter", "letter", "bridge", "door"]
RANDOM = np.random.default_rng(0)
PLOTS = [" ".join(RANDOM.choice(WORDS, RANDOM.integers(6, 20))) for _ in range(200)]
LABELS = np.stack([[word in plot.split() for word in GENRE_WORDS] for plot in PLOTS]).astype(np.float32)
CPU = torch.device("cpu")
TWO_LAYERS = {
    "electra": {
        "model_type": "electra",
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "bert": {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "distilbert": {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
}
FIRST_LAYER = {"electra": "encoder.layer.0.", "bert": "encoder.layer.0.", "distilbert": "transformer.layer.0."}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(PLOTS, 200)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    return TextEncoder(tokenizer, max_length=16)


@pytest.fixture(scope="module")
def tiny(tiny_model):
    torch.manual_seed(0)
    return tiny_model.build(Movies.of_plots(PLOTS)).eval()


def two_layers(family, **changes):
    return TransformerConfig(pretrained=None, architecture=TWO_LAYERS[family], vocab_size=200, max_length=16, **changes)


def logits_of(model, plots):
    return predict_logits(model, model.encoder.encode(Movies.of_plots(plots)), CPU, "fp32")


def tokens_of(encoder, plots):
    (tokens,) = encoder.encode(Movies.of_plots(plots)).inputs
    return tokens


# Plots as tokens


def test_a_plot_is_tokenized_between_special_tokens(encoder):
    (plot,) = encoder.tokenizer.batch_decode([tokens_of(encoder, ["A KISS, by the Bridge"]).ids])

    assert plot.startswith("[CLS]")
    assert plot.endswith("bridge [SEP]")
    assert " kiss " in plot


def test_a_long_plot_is_truncated(encoder):
    long, short = "door " * 100, "door kiss"

    tokens = tokens_of(encoder, [long, short, "x" * 1_000_000])

    assert tokens.lengths.tolist()[:2] == [16, 4]
    assert tokens.lengths[2] <= 16
    assert tokens.ids[[0, 15]].tolist() == [encoder.tokenizer.cls_token_id, encoder.tokenizer.sep_token_id]


def test_no_plots_give_no_tokens(encoder):
    tokens = tokens_of(encoder, [])

    assert tokens.lengths.shape == (0,)
    assert tokens.batch(np.arange(0))["input_ids"].shape == (0, 1)
    assert tokens.take(np.arange(0)).lengths.shape == (0,)


def test_an_empty_plot_has_special_tokens(encoder):
    assert tokens_of(encoder, ["", "  "]).lengths.tolist() == [2, 2]


def test_take_keeps_the_given_order(encoder):
    rows = np.array([7, 3, 3, 150])

    taken = tokens_of(encoder, PLOTS).take(rows)

    alone = tokens_of(encoder, [PLOTS[row] for row in rows])
    assert taken.ids.tolist() == alone.ids.tolist()
    assert taken.offsets.tolist() == alone.offsets.tolist()


def test_a_batch_is_padded_to_its_longest_plot(encoder):
    tokens = tokens_of(encoder, ["kiss", "kiss door ghost", "ghost ghost", "robot " * 30])

    batch = tokens.batch(np.array([2, 0, 1]))

    padding = encoder.tokenizer.pad_token_id
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert (batch["input_ids"] == padding).tolist() == (batch["attention_mask"] == 0).tolist()
    assert batch["input_ids"][1, :3].tolist() == tokens.ids[:3].tolist()
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_training_a_tokenizer_is_deterministic():
    plots = [f"{plot} étude 電影 {number}" for number, plot in enumerate(PLOTS)]

    first, second = (train_tokenizer(plots, 300).get_vocab() for _ in range(2))

    assert first == second
    assert len(first) <= 300
    assert [token for token, number in sorted(first.items(), key=lambda item: item[1])][:5] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]


def test_a_trained_tokenizer_splits_unknown_words_into_pieces(tokenizer):
    assert tokenizer.tokenize("Ghost BRIDGE") == ["ghost", "bridge"]
    assert tokenizer.convert_tokens_to_string(tokenizer.tokenize("ghostbridge")) == "ghostbridge"
    assert tokenizer.tokenize("日") == ["[UNK]"]


# Transformers


def test_logits_do_not_depend_on_padding(tiny):
    together = tiny.encoder.encode(Movies.of_plots(["kiss door", "ghost " * 25])).batch(np.arange(2))
    alone = tiny.encoder.encode(Movies.of_plots(["kiss door"])).batch(np.arange(1))

    with torch.inference_mode():
        torch.testing.assert_close(tiny(together)[:1], tiny(alone), atol=1e-6, rtol=1e-5)


def test_mean_pooling_ignores_padding_and_first_pooling_takes_the_first_token(tiny_model):
    for pooling in ("mean", "first"):
        model = tiny_model.model_copy(update={"pooling": pooling}).build(Movies.of_plots(PLOTS)).eval()
        batch = model.encoder.encode(Movies.of_plots(["kiss door", "ghost " * 25])).batch(np.arange(2))
        with torch.inference_mode():
            hidden, features = (
                model.backbone(batch["input_ids"], batch["attention_mask"]).last_hidden_state,
                model.features(batch),
            )

        expected = hidden[0, :4].mean(0) if pooling == "mean" else hidden[0, 0]
        torch.testing.assert_close(features[0], expected)
        assert features.shape == (2, model.feature_dim)


def test_logits_have_one_column_per_genre_in_the_order_of_the_plots(tiny):
    found = logits_of(tiny, PLOTS)

    assert found.shape == (200, len(GENRES))
    assert found.dtype == np.float32
    assert found[17] == pytest.approx(logits_of(tiny, [PLOTS[17]])[0], abs=1e-5)
    assert logits_of(tiny, []).shape == (0, 9)


def test_the_same_seed_gives_the_same_model(tiny_model, tiny):
    torch.manual_seed(0)

    assert (logits_of(tiny_model.build(Movies.of_plots(PLOTS)).eval(), PLOTS) == logits_of(tiny, PLOTS)).all()


@pytest.mark.parametrize("family", TWO_LAYERS)
def test_the_lowest_layers_are_frozen_with_the_embeddings(family):
    model = two_layers(family, frozen_layers=1).build(Movies.of_plots(PLOTS))

    frozen = {name for name, value in model.backbone.named_parameters() if not value.requires_grad}
    expected = {
        name for name, _ in model.backbone.named_parameters() if name.startswith(("embed", FIRST_LAYER[family]))
    }
    assert frozen == expected
    assert any(name.startswith("embed") for name in frozen)
    assert all(value.requires_grad for value in model.head.parameters())


@pytest.mark.parametrize("frozen_layers", [0, 2])
@pytest.mark.parametrize("family", TWO_LAYERS)
def test_every_trained_parameter_gets_a_gradient(family, frozen_layers):
    model = two_layers(family, frozen_layers=frozen_layers).build(Movies.of_plots(PLOTS))

    model(model.encoder.encode(Movies.of_plots(PLOTS[:4])).batch(np.arange(4))).sum().backward()

    without = [name for name, value in model.named_parameters() if value.requires_grad != (value.grad is not None)]
    assert without == []


def test_the_output_of_a_fully_frozen_backbone_can_be_cached():
    model = two_layers("bert", frozen_layers=2).build(Movies.of_plots(PLOTS)).train()
    batch = model.encoder.encode(Movies.of_plots(PLOTS)).batch(np.arange(len(PLOTS)))

    assert list(model.frozen_modules) == ["backbone"]
    # Even in training mode, because a frozen backbone has no dropout.
    assert torch.equal(model.features(batch), model.features({"frozen": model.frozen(batch)}))
    assert not two_layers("bert", frozen_layers=1).build(Movies.of_plots(PLOTS)).frozen_modules


def test_freezing_too_many_layers_is_rejected():
    with pytest.raises(InputError, match=r"model\.frozen_layers: 3, but the backbone has 2 layers; give at most 2"):
        two_layers("electra", frozen_layers=3).build(Movies.of_plots(PLOTS))


def test_plots_are_truncated_to_the_backbones_positions():
    architecture = TWO_LAYERS["bert"] | {"max_position_embeddings": 12}
    config = two_layers("bert").model_copy(update={"architecture": architecture})

    assert logits_of(config.build(Movies.of_plots(PLOTS)), ["ghost " * 25]).shape == (1, 9)


@pytest.mark.parametrize("field", ["pretrained", "tokenizer"])
def test_a_hub_error_is_one_line_with_the_alternatives(field):
    settings = {"architecture": TWO_LAYERS["bert"], "pretrained": "none"} if field == "tokenizer" else {}
    config = TransformerConfig(**(settings | {field: "nobody/no-such-model"}))

    with pytest.raises(InputError) as error:
        config.build(Movies.of_plots(PLOTS))

    message = str(error.value)
    assert message.startswith(f"model.{field}: 'nobody/no-such-model' could not be loaded (")
    assert "offline, give a local folder in Hugging Face format, or model.pretrained=none" in message
    assert "\n" not in message


def test_a_folder_without_a_model_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"model\.pretrained: .*could not be loaded"):
        TransformerConfig(pretrained=str(tmp_path)).build(Movies.of_plots(PLOTS))


def test_a_pretrained_model_is_loaded_from_a_folder(tiny, tmp_path):
    tiny.backbone.save_pretrained(tmp_path)
    tiny.encoder.save(tmp_path)

    model = TransformerConfig(pretrained=str(tmp_path), max_length=32).build(Movies.of_plots([])).eval()

    with torch.inference_mode():
        batch = tiny.encoder.encode(Movies.of_plots(PLOTS[:3])).batch(np.arange(3))
        torch.testing.assert_close(model.features(batch), tiny.features(batch))
    assert model.encoder.tokenizer.get_vocab() == tiny.encoder.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"model_type": "elektra"}, "elektra"),
        (TWO_LAYERS["bert"] | {"num_attention_heads": 3}, "multiple of the number of attention"),
    ],
)
def test_an_invalid_architecture_is_rejected(architecture, message):
    with pytest.raises(InputError, match=rf"model\.architecture: .*{message}"):
        TransformerConfig(pretrained="none", architecture=architecture).build(Movies.of_plots(PLOTS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrained": "none"}, "architecture must give model_type"),
        ({"pretrained": None, "architecture": {"hidden_size": 64}}, "architecture must give model_type"),
        ({"architecture": TWO_LAYERS["bert"]}, "add pretrained=none, or remove"),
        (
            {"pretrained": "some/name", "architecture": TWO_LAYERS["bert"]},
            "add pretrained=none, or remove",
        ),
    ],
)
def test_a_model_is_either_pretrained_or_has_an_architecture(settings, message):
    with pytest.raises(ValidationError, match=message):
        TransformerConfig(**settings)


# TF-IDF


@pytest.fixture(scope="module")
def tfidf():
    return TfidfConfig(c=2).fit(Movies.of_plots(PLOTS), LABELS).eval()


def test_tfidf_gives_the_logits_of_scikit_learn(tfidf):
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, strip_accents="unicode", stop_words="english"
    )
    rows, unseen = vectorizer.fit_transform(PLOTS), [*PLOTS[:50], "an entirely different plot", ""]
    regressions = [
        LogisticRegression(C=2, class_weight="balanced", solver="liblinear", random_state=0).fit(rows, labels)
        for labels in LABELS.T
    ]

    expected = np.stack([one.decision_function(vectorizer.transform(unseen)) for one in regressions], axis=1)

    np.testing.assert_allclose(logits_of(tfidf, unseen), expected, atol=1e-3)


def test_a_restored_tfidf_model_gives_the_same_logits(tfidf, tmp_path):
    tfidf.save_assets(tmp_path)
    restored = TfidfConfig(c=2).restore(tmp_path)

    restored.load_state_dict(tfidf.state_dict())

    np.testing.assert_array_equal(logits_of(restored.eval(), PLOTS), logits_of(tfidf, PLOTS))


def test_a_genre_of_no_movie_or_all_keeps_its_base_rate():
    labels = LABELS.copy()
    labels[:, 2], labels[:, 5] = 0, 1

    found = logits_of(TfidfConfig().fit(Movies.of_plots(PLOTS), labels).eval(), PLOTS)

    chances = 1 / (1 + np.exp(-found))
    assert chances[:, 2] == pytest.approx(0, abs=1e-5)
    assert chances[:, 5] == pytest.approx(1, abs=1e-5)
    assert chances[:, 0].std() > 0.1


def test_tfidf_accepts_no_plots_and_plots_without_terms(tfidf):
    assert logits_of(tfidf, []).shape == (0, 9)
    assert logits_of(tfidf, ["", "zzz"]) == pytest.approx(tfidf.head.bias.detach().numpy()[None].repeat(2, 0))


def test_tfidf_rows_are_taken_in_the_given_order(tfidf):
    (terms,) = tfidf.encoder.encode(Movies.of_plots(PLOTS)).inputs
    rows = np.array([9, 4, 4])

    batch = terms.batch(rows)["terms"].to_dense()

    assert batch.tolist() == terms.take(rows).batch(np.arange(3))["terms"].to_dense().tolist()
    assert batch[1].tolist() == terms.batch(np.array([4]))["terms"].to_dense()[0].tolist()
    assert terms.lengths[rows].tolist() == (batch != 0).sum(1).tolist()


def test_plots_without_a_common_term_are_rejected():
    with pytest.raises(InputError, match=r"model\.min_df"):
        TfidfConfig().fit(Movies.of_plots(["chase", "kiss", "ghost"]), LABELS[:3])
