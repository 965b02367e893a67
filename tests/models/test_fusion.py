"""Fusions: inputs of the towers, missing inputs, training and tagging."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from mmgenre.errors import InputError
from mmgenre.labels import GENRES, decode
from mmgenre.models.bilstm import BilstmConfig
from mmgenre.models.checkpoint import Card, read_card
from mmgenre.models.fusion import ConcatFusionConfig, GatedFusionConfig, LateFusionConfig
from mmgenre.models.inference import predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.vgg import VggConfig
from mmgenre.tables.schema import MOVIES as MOVIES_SCHEMA
from mmgenre.tables.schema import PREDICTIONS, per_genre
from mmgenre.tables.table import Table
from mmgenre.tagging.job import TagConfig, _reads, tag
from mmgenre.training.config import TrainConfig
from mmgenre.training.features import FeatureOptions, frozen_parts, recipe
from mmgenre.training.job import train

CPU = torch.device("cpu")
PLOTS = [
    "Two ghosts haunt the old house.",
    "A ghost kisses a robot.",
    "Robots and the robots' revenge!",
    None,
    "House.",
]
TEXT = {"model": {"family": "bilstm", "vector_size": 8, "hidden": 5, "dropout": 0.0}}
IMAGE = {"model": {"family": "vgg", "weights": "none", "head": "light", "height": 32, "width": 32, "augment": None}}
FAMILIES = {
    config.model_fields["family"].default: config
    for config in (ConcatFusionConfig, GatedFusionConfig, LateFusionConfig)
}


def poster(seed):
    content = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 255, (40, 30, 3), np.uint8)
    Image.fromarray(values).save(content, "JPEG")
    return content.getvalue()


# Both, both, a plot, a poster, a plot and a broken poster.
MOVIES = Movies([None] * 5, PLOTS, [poster(0), poster(1), None, poster(3), b"broken"])
BOTH, PLOT_ONLY, POSTER_ONLY = [0, 1], [2, 4], [3]


def build(family, **settings):
    torch.manual_seed(0)
    model = FAMILIES[family].model_validate({"text": TEXT, "image": IMAGE} | settings).build(MOVIES)
    # Like a trained model: the fusion head starts at zero.
    for value in model.head.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return build(request.param)


def logits_of(model, movies):
    return predict_logits(model, model.encoder.encode(movies), CPU, "fp32")


def only(movies, *, plots=False, images=False):
    unknown = [None] * len(movies)
    return Movies(unknown, movies.plots if plots else unknown, movies.images if images else unknown)


def test_encoding_marks_the_inputs_that_each_movie_has(model):
    encoded = model.encoder.encode(MOVIES)

    assert encoded.has_text.tolist() == [True, True, True, False, True]
    assert encoded.has_image.tolist() == [True, True, False, True, False]
    assert set(encoded.batch(np.arange(5))) >= {"input_ids", "pixels", "has_text", "has_image"}


def test_logits_are_finite_with_any_input_missing(model):
    together = logits_of(model, MOVIES)

    assert together.shape == (5, len(GENRES))
    assert np.isfinite(together).all()
    for row in range(5):
        alone = Movies([None], [MOVIES.plots[row]], [MOVIES.images[row]])
        assert together[row] == pytest.approx(logits_of(model, alone)[0], abs=1e-4)


def test_a_missing_input_has_no_effect(model):
    logits = logits_of(model, MOVIES)

    assert logits[PLOT_ONLY] == pytest.approx(logits_of(model, only(MOVIES, plots=True))[PLOT_ONLY], abs=1e-5)
    assert logits[POSTER_ONLY] == pytest.approx(logits_of(model, only(MOVIES, images=True))[POSTER_ONLY], abs=1e-5)
    assert np.abs(logits[BOTH] - logits_of(model, only(MOVIES, plots=True))[BOTH]).max() > 1e-3
    assert np.abs(logits[BOTH] - logits_of(model, only(MOVIES, images=True))[BOTH]).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_training_starts_from_the_mean_of_the_towers(family):
    model = FAMILIES[family].model_validate({"text": TEXT, "image": IMAGE}).build(MOVIES).eval()

    text, image = logits_of(model.text, MOVIES), logits_of(model.image, MOVIES)

    found = logits_of(model, MOVIES)
    assert found[BOTH] == pytest.approx((text + image)[BOTH] / 2, abs=1e-4)
    assert found[PLOT_ONLY] == pytest.approx(text[PLOT_ONLY], abs=1e-4)
    assert found[POSTER_ONLY] == pytest.approx(image[POSTER_ONLY], abs=1e-4)


def test_late_fusion_returns_the_logits_of_a_single_tower_unchanged():
    model = build("late_fusion")

    assert logits_of(model, MOVIES)[PLOT_ONLY] == pytest.approx(logits_of(model.text, MOVIES)[PLOT_ONLY], abs=1e-4)
    assert logits_of(model, MOVIES)[POSTER_ONLY] == pytest.approx(logits_of(model.image, MOVIES)[POSTER_ONLY], abs=1e-4)


BATCH_NORM = {"model": {"family": "efficientnet", "weights": "none", "height": 32, "width": 32, "augment": None}}


@pytest.mark.parametrize("images", [(0, 1, None, None, None), (0, None, None, None, None), (0, 1, 2, 3, None)])
@pytest.mark.parametrize("family", FAMILIES)
def test_missing_posters_do_not_move_the_statistics_of_batch_norm(family, images):
    """They are black in the batch. A single poster is normalized like one that comes twice."""
    movies = Movies([None] * 5, PLOTS[:3] + PLOTS[:2], [None if seed is None else poster(seed) for seed in images])
    known = np.array([row for row, seed in enumerate(images) if seed is not None])
    fused, alone = build(family, image=BATCH_NORM).train(), build(family, image=BATCH_NORM).train()
    encoded = fused.encoder.encode(movies)
    only = np.repeat(known, 2) if len(known) == 1 else known

    torch.manual_seed(0)
    fused(encoded.batch(np.arange(5))).sum().backward()
    torch.manual_seed(0)
    alone.image(encoded.batch(only))

    statistics, expected = (dict(model.image.named_buffers()) for model in (fused, alone))
    moved = [name for name in expected if "running_mean" in name and expected[name].abs().max() > 0]
    assert len(moved) > 40
    # Other random numbers drop other residual branches of an EfficientNet; the first stages have none.
    for name in moved[:3]:
        assert torch.allclose(statistics[name], expected[name], atol=1e-6), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_without_posters_leaves_the_image_tower_as_it_is_and_gives_each_parameter_a_gradient(family):
    """DDP waits for the gradient of every parameter."""
    model = build(family, image=BATCH_NORM, modality_dropout=0.0).train()
    before = {name: value.clone() for name, value in model.image.named_buffers()}
    batch = model.encoder.encode(only(MOVIES, plots=True)).batch(np.array([0, 1, 2]))

    logits = model(batch)
    logits.sum().backward()

    assert logits.shape == (3, len(GENRES))
    assert torch.isfinite(logits).all()
    assert all(torch.equal(before[name], value) for name, value in model.image.named_buffers())
    assert [name for name, value in model.image.named_parameters() if value.grad is None] == []
    assert all((value.grad == 0).all() for value in model.image.parameters())
    assert any((value.grad != 0).any() for value in model.text.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_prediction_give_movies_with_missing_inputs_the_same_logits(family):
    """Without dropout and batch norm, which differ between the two."""
    model = build(family, modality_dropout=0.0, image={"model": IMAGE["model"] | {"dropout": 0.0}})
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = model.encoder.encode(MOVIES).batch(np.arange(5))

    assert torch.allclose(model.train()(batch), model.eval()(batch), atol=1e-5)


@pytest.mark.parametrize(("dropout", "hidden"), [(0.0, 0), (1.0, 100), (0.5, 50)])
def test_modality_dropout_never_hides_the_only_input(dropout, hidden):
    model = build("concat_fusion", modality_dropout=dropout).train()
    has_text, has_image = torch.tensor([True] * 100 + [True, False]), torch.tensor([True] * 100 + [False, True])

    text, image = model._visible(has_text, has_image)

    assert ((text + image)[:100] == 1).sum().item() == pytest.approx(hidden, abs=20 if 0 < hidden < 100 else 0)
    assert ((text + image) >= 1).all()
    assert (text[100].item(), image[101].item()) == (1, 1)
    if dropout:
        assert 0 < (text[:100] == 0).sum() < 100
    text, image = model.eval()._visible(has_text, has_image)
    assert (text[:101] == 1).all()


@pytest.mark.parametrize("frozen", [(), ("text",), ("image",), ("text", "image")])
def test_everything_but_frozen_towers_gets_a_gradient(model, frozen):
    settings = {"text": TEXT | {"frozen": "text" in frozen}, "image": IMAGE | {"frozen": "image" in frozen}}
    built = build(type(model._config).model_fields["family"].default, **settings).train()

    built(built.encoder.encode(MOVIES).batch(np.arange(5))).square().sum().backward()

    learned = {name for name, value in built.named_parameters() if value.grad is not None}
    wanted = {name for name, value in built.named_parameters() if value.requires_grad}
    assert learned == wanted
    assert {name.partition(".")[0] for name in learned} == {"head", "text", "image"} - set(frozen)


@pytest.mark.parametrize("frozen", [(), ("text",), ("text", "image")])
def test_cached_features_give_the_same_logits(model, frozen):
    settings = {"text": TEXT | {"frozen": "text" in frozen}, "image": IMAGE | {"frozen": "image" in frozen}}
    built = build(type(model._config).model_fields["family"].default, **settings)
    batch = built.encoder.encode(MOVIES).batch(np.arange(5))
    parts = frozen_parts(built, built._config)

    with torch.inference_mode():
        kept = {f"{part.role}_frozen": part.model.frozen(batch) for part in parts}
        unread = ("pixels", *(("input_ids", "attention_mask") if "text" in frozen else ()))
        from_features = built({name: value for name, value in batch.items() if name not in unread} | kept)
        torch.testing.assert_close(from_features, built(batch))
    # VGG's blocks are frozen by default.
    assert [part.role for part in parts] == (["text", "image"] if "text" in frozen else ["image"])


def test_fusions_share_cached_poster_features_with_the_image_model(tmp_path, write_table):
    columns = [["tt1"], ["train"], ["A title"], [None], [poster(0)], per_genre(np.eye(1, 9, dtype=np.float32))]
    dataset = Table(
        write_table(tmp_path / "movies", MOVIES_SCHEMA, dict(zip(MOVIES_SCHEMA.names, columns, strict=True)))
    )
    alone = VggConfig.model_validate(IMAGE["model"]).build(MOVIES)
    fusions = [build(name, text=TEXT | {"frozen": True}) for name in FAMILIES]
    for fusion in fusions:
        fusion.image.load_state_dict(alone.state_dict())

    def made_of(part):
        return recipe(part, dataset, FeatureOptions("DIR", "auto", "fp32", 0)).model_dump_json()

    assert {made_of(fusion.image) for fusion in fusions} == {made_of(alone)}
    # Of the same seed.
    assert len({made_of(fusion.text) for fusion in fusions} - {made_of(alone)}) == 1


def test_a_restored_model_gives_the_same_logits(model, tmp_path):
    model.save_assets(tmp_path)
    restored = model._config.restore(tmp_path).eval()
    restored.load_state_dict(model.state_dict())

    assert logits_of(restored, MOVIES) == pytest.approx(logits_of(model, MOVIES), abs=1e-6)


def test_layers_are_counted_within_each_tower(model):
    assert model.layers_above("text.vectors.weight") == 0
    assert model.layers_above("image.stages.0.0.weight") == 4
    assert model.layers_above("head.bias") == 0


def test_trained_towers_keep_their_weights():
    text = BilstmConfig(vector_size=8, hidden=5).build(MOVIES)
    config = LateFusionConfig.model_validate({"text": {"checkpoint": "some/folder"}, "image": IMAGE})

    resolved = config.resolved({"text": BilstmConfig(vector_size=8, hidden=5)})
    model = resolved.join({"text": text}, MOVIES)

    assert config.checkpoints == {"text": "some/folder"}
    assert resolved.checkpoints == {}
    assert resolved.columns == ("plot", "image")
    assert model.text is text
    assert isinstance(model.image, torch.nn.Module)


def test_a_checkpoint_for_the_other_role_is_rejected():
    config = LateFusionConfig.model_validate({"text": {"checkpoint": "some/folder"}, "image": IMAGE})

    with pytest.raises(InputError, match=r"model\.text\.checkpoint some/folder: .*'vgg'"):
        config.resolved({"text": VggConfig()})


def test_a_tower_has_either_a_checkpoint_or_a_model():
    for tower in ({}, TEXT | {"checkpoint": "some/folder"}):
        with pytest.raises(ValidationError, match="give either checkpoint=DIR of a trained model, or model"):
            LateFusionConfig.model_validate({"text": tower, "image": IMAGE})


def test_a_tfidf_tower_needs_a_checkpoint():
    config = LateFusionConfig.model_validate({"text": {"model": {"family": "tfidf"}}, "image": IMAGE})

    with pytest.raises(
        InputError, match=r"model\.text\.model: tfidf cannot be trained inside a fusion; train it by itself"
    ):
        config.build(MOVIES)
    with pytest.raises(InputError, match=r"model\.text: tfidf has no features for concat_fusion to fuse"):
        ConcatFusionConfig.model_validate({"text": {"model": {"family": "tfidf"}}, "image": IMAGE}).build(MOVIES)


@pytest.mark.parametrize("frozen", [False, True])
def test_tfidf_is_fused_by_its_logits(frozen):
    labels = np.eye(5, 9, dtype=np.float32)
    text = TfidfConfig(min_df=1).fit(Movies.of_plots([plot or "" for plot in PLOTS]), labels)
    settings = {"text": {"checkpoint": "a", "frozen": frozen}, "image": IMAGE | {"frozen": frozen}}
    config = LateFusionConfig.model_validate(settings).resolved({"text": TfidfConfig(min_df=1)})
    model = config.join({"text": text}, MOVIES).eval()

    batch = model.encoder.encode(MOVIES).batch(np.arange(5))

    assert logits_of(model, MOVIES)[PLOT_ONLY] == pytest.approx(logits_of(text.eval(), MOVIES)[PLOT_ONLY], abs=1e-5)
    assert model.features(batch).shape == (5, model.feature_dim) == (5, 18)
    # TF-IDF rows are large and cheap to compute, so they are not cached.
    assert "text" not in [part.role for part in frozen_parts(model, config)]


# Training and tagging on Ray, with cached poster features

RANDOM = np.random.default_rng(0)
WORDS = ["chase", "kiss", "ghost", "robot", "heist", "joke", "tears", "island", "stalker"]
SPLITS = ["train"] * 60 + ["val"] * 30 + ["test"] * 10
GENRE = RANDOM.integers(0, 9, len(SPLITS))


def inputs_of(row):
    """Plot and poster of a row: both, one of them, or a broken poster with or without a plot."""
    plot = f"Somebody meets a {WORDS[GENRE[row]]} somewhere far away." if row % 7 not in (3, 6) else None
    image = {5: None, 4: b"broken", 6: b"broken"}.get(row % 7, poster(int(GENRE[row])))
    return plot, image


@pytest.fixture(scope="module")
def movies(tmp_path_factory, write_table):
    plots, images = zip(*map(inputs_of, range(len(SPLITS))), strict=True)
    columns = [[f"tt{row:07}" for row in range(len(SPLITS))], SPLITS, ["A title"] * len(SPLITS), plots, images]
    columns.append(per_genre(np.eye(9, dtype=np.float32)[GENRE]))
    folder = tmp_path_factory.mktemp("movies") / "movies"
    return write_table(folder, MOVIES_SCHEMA, dict(zip(MOVIES_SCHEMA.names, columns, strict=True)))


def test_a_trained_fusion_tags_movies_with_any_inputs(local_ray, movies, tmp_path):
    text = {"model": TEXT["model"] | {"hidden": 20}}
    settings = {"model": {"family": "gated_fusion", "text": text, "image": IMAGE}}
    settings |= {"optimizer": {"lr_backbone": 1e-2, "lr_head": 1e-2}, "epochs": 10, "patience": 10, "batch_size": 8}
    checkpoint, tags = str(tmp_path / "fusion"), str(tmp_path / "tags")

    manifest = train(TrainConfig.parse({"dataset": movies, "output": checkpoint} | settings, "test"))
    tag(TagConfig(checkpoint=checkpoint, movies=movies, output=tags))

    tag(TagConfig(checkpoint=checkpoint, movies=movies, output=str(tmp_path / "posters"), split="test", without="plot"))

    card = read_card(checkpoint)
    assert card.alone.keys() == {"text_only", "poster_only"}
    assert len({card.thresholds, *(one.thresholds for one in card.alone.values())}) == 3
    # Movies with only a broken poster are left out of training.
    assert manifest.statuses == {"train": 52, "val": 26}
    assert manifest.notes["val"]["mean_average_precision"] > 0.5
    rows = Table(tags, PREDICTIONS).read().sort_by("imdb_id").to_pylist()
    expected = {3: "poster_only", 4: "text_only", 5: "text_only", 6: "error"}
    assert [row["status"] for row in rows] == [expected.get(row % 7, "text_and_poster") for row in range(len(SPLITS))]
    broken = "the poster is not an image that can be decoded"
    assert [row["detail"] for row in rows] == [broken if row % 7 in (4, 6) else None for row in range(len(SPLITS))]

    cutoffs = {status: one.thresholds.cutoffs() for status, one in card.alone.items()}
    cutoffs["text_and_poster"] = card.thresholds.cutoffs()
    for row in rows:
        if row["genres"] is not None:
            assert row["genres"] == decode(np.array(row["probabilities"]) >= cutoffs[row["status"]])
    rows = Table(str(tmp_path / "posters"), PREDICTIONS).read().sort_by("imdb_id").to_pylist()
    expected = {4: "error", 5: "no_input", 6: "error"}
    assert [row["status"] for row in rows] == [expected.get(row % 7, "poster_only") for row in range(90, 100)]
    with pytest.raises(InputError, match="without=poster: this model reads nothing else"):
        _reads(Card.model_validate({"model": {"family": "vgg"}}), "poster")
