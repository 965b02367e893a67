"""Attributions: decisive words and regions score highest, and word scores add up to the words' joint effect."""

import copy
import io
import sys
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy.stats import spearmanr
from services import TEXT
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models.vgg import cfgs
from vision import VISION

from mmgenre.errors import InputError
from mmgenre.explain import attribution
from mmgenre.explain.attribution import Explainer
from mmgenre.explain.heat_maps import overlay
from mmgenre.explain.words import TextInput, attribute_words
from mmgenre.labels import GENRES
from mmgenre.models import vgg
from mmgenre.models.bilstm import BilstmConfig
from mmgenre.models.checkpoint import Card
from mmgenre.models.clip import ClipConfig
from mmgenre.models.efficientnet import EfficientNetConfig
from mmgenre.models.fusion import ConcatFusionConfig, GatedFusionConfig, LateFusionConfig
from mmgenre.models.inference import predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.transformer import TransformerConfig
from mmgenre.models.vgg import VggConfig
from mmgenre.models.words import content_lemmas
from mmgenre.sandbox.posters import draw

CPU = torch.device("cpu")
COLUMNS = range(len(GENRES))
GENRE_WORDS = ["chase", "kiss", "ghost", "robot", "heist", "joke", "tears", "island", "stalker"]
WORDS = [*GENRE_WORDS, "night", "river", "winter", "letter", "bridge", "door", "café"]
RANDOM = np.random.default_rng(0)
PLOTS = [" ".join(RANDOM.choice(WORDS, RANDOM.integers(8, 16))) for _ in range(240)]
LABELS = np.stack([[word in plot.split() for word in GENRE_WORDS] for plot in PLOTS]).astype(np.float32)
TEXTS = {
    "tfidf": TfidfConfig(c=10),
    "tfidf with a graph": TfidfConfig(c=10, genre_graph=True),
    "bilstm": BilstmConfig(vector_size=24, hidden=32, dropout=0),
    "transformer": TransformerConfig(
        pretrained=None, architecture=TEXT["architecture"], vocab_size=150, max_length=32, dropout=0, title=True
    ),
}
POSTERS = {
    "vgg": VggConfig(weights=None, augment=None, height=64, width=48),
    "vgg light": VggConfig(weights=None, augment=None, height=64, width=48, head="light", genre_graph=True),
    "efficientnet": EfficientNetConfig(weights=None, augment=None, height=64, width=64),
    "clip": ClipConfig(
        pretrained=None, architecture=VISION["clip_vision_model"], augment=None, height=32, width=32, frozen=False
    ),
    "vit": ClipConfig(pretrained=None, architecture=VISION["vit"], augment=None, height=32, width=32),
}
FUSIONS = {"concat": ConcatFusionConfig, "gated": GatedFusionConfig, "late": LateFusionConfig}


def explainer(config, model):
    return Explainer(Card(model=config), copy.deepcopy(model), CPU)


def learn(model, batch, labels, steps, rate):
    """Train in a plain loop, which takes seconds; labels are smoothed to avoid saturation."""
    targets = torch.as_tensor(labels) * 0.9 + 0.05
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for step in range(steps):
        rows = torch.from_numpy(np.random.default_rng(step).choice(len(labels), 32, replace=False))
        optimizer.zero_grad()
        logits = model({name: tensor[rows] for name, tensor in batch.items()})
        binary_cross_entropy_with_logits(logits, targets[rows]).backward()
        optimizer.step()
    return model.eval()


def encoded(model, movies):
    return model.encoder.encode(movies).batch(np.arange(len(movies)))


@pytest.fixture(scope="module")
def text_models():
    """One model per text family that has learned one decisive word per genre."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    movies = Movies.of_plots(PLOTS)
    found = {}
    for name, config in TEXTS.items():
        if isinstance(config, TfidfConfig):
            found[name] = config.fit(movies, LABELS).eval()
        else:
            model = config.build(movies)
            rate = 1e-2 if name == "transformer" else 5e-3
            found[name] = learn(model, encoded(model, movies), LABELS, 120, rate)
    return found


def logits_of(model, plot, title=None, image=None):
    with torch.inference_mode():
        return model(encoded(model, Movies([title], [plot], [image])))[0].double().numpy()


def scores_by_word(found, genre):
    """Scores for a genre, by word."""
    return {found.text[word.start : word.end]: word.scores[genre] for word in found.words}


# Words


def baseline_of(model, batch):
    """Inputs of a text with a padding token per word."""
    if "terms" in batch:
        return {"terms": batch["terms"] * 0}
    ids = batch["input_ids"]
    if not hasattr(model, "backbone"):
        return {"input_ids": torch.zeros_like(ids)}
    tokenizer = model.encoder.tokenizer
    ends = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id])
    return {"input_ids": torch.where(torch.isin(ids, ends), ids, tokenizer.pad_token_id)}


@pytest.mark.parametrize("name", TEXTS)
def test_the_decisive_word_scores_highest(text_models, name):
    found = explainer(TEXTS[name], text_models[name]).explain(
        None, "Night river winter, a ROBOT; letter bridge door.", None, [GENRES[3], GENRES[0]]
    )

    scores = scores_by_word(found, GENRES[3])
    assert scores["ROBOT"] == 1.0 == max(map(abs, scores.values()))
    assert all(abs(score) < 0.5 for word, score in scores.items() if word != "ROBOT")
    assert scores_by_word(found, GENRES[0])["ROBOT"] < 0.5


@pytest.mark.parametrize("name", ["tfidf with a graph", "bilstm", "transformer"])
def test_scores_add_up_to_the_joint_effect_of_the_words(text_models, name):
    """The difference to the baseline is computed independently here."""
    model = copy.deepcopy(text_models[name])
    model.freeze()
    plot = "Winter night: the ghost's kiss! Robots, a heist (river) and tears at the café door."
    batch = encoded(model, Movies.of_plots([plot]))
    with torch.inference_mode():
        changes = (model(batch) - model(batch | baseline_of(model, batch)))[0].numpy()

    names = {"terms", "input_ids", "attention_mask"} & set(batch)
    reading = TextInput(plot, {name: batch[name] for name in names}, model, COLUMNS)
    found = attribute_words(model, reading)

    assert np.abs(changes).max() > 1
    np.testing.assert_allclose(found.changes, changes, atol=1e-4)
    np.testing.assert_allclose(found.scores.sum(0), changes, atol=0.03 * np.abs(changes).max())
    assert found.relative_errors.max() < 0.03


def test_tfidf_scores_equal_its_weights_and_add_up_exactly(text_models):
    model = text_models["tfidf"]
    plot = "The ghost kiss, the ghost; letter"
    (terms,) = model.encoder.encode(Movies.of_plots([plot])).inputs
    weights, values = model.linear.weight.detach().double().numpy(), terms.matrix.toarray()[0].astype(float)
    share = {term: weights[:, column] * values[column] for column, term in enumerate(model.encoder.terms)}

    found = attribute_words(model, TextInput(plot, encoded(model, Movies.of_plots([plot])), model, COLUMNS))

    spelled = [plot[start:end] for start, end in found.spans]
    assert spelled == ["ghost", "kiss", "ghost", "letter"]
    pairs = {pair: share.get(pair, np.zeros(9)) / 2 for pair in ("ghost kiss", "kiss ghost", "ghost letter")}
    expected = [
        share["ghost"] / 2 + pairs["ghost kiss"],
        share["kiss"] + pairs["ghost kiss"] + pairs["kiss ghost"],
        share["ghost"] / 2 + pairs["kiss ghost"] + pairs["ghost letter"],
        share["letter"] + pairs["ghost letter"],
    ]
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    bias = model.linear.bias.detach().numpy()
    np.testing.assert_allclose(found.scores.sum(0), logits_of(model, plot) - bias, atol=1e-5)
    assert found.relative_errors.max() < 1e-5


STRANGE = {
    "emoji": "👩‍🚀🚀 a robot \U0001f9df met a ghost👻!",
    "accents": "L'été au Café: cafe\u0301, CAFÉ, ÉTÉ",
    "compounds": "\ufb01nal ghost \u0132sland ½ robot \u2167 \u212bngstrom Straße",
    "more letters when small": "\u0130stanbul ghost \u0130\u0130 robot",
    "right to left": "סיפור על robot وقصة ghost",
    "ideographs": "幽霊ghost電影 robot",
    "marks": "the ghost's, robot’s heist— “kiss”...door/bridge <b>night</b>",  # noqa: RUF001
    "spaces": " \t ghost\u00a0robot\u200bkiss \r\n\r\n door \x00 night ",
    "combining": "e" + "\u0301" * 50 + " ghost",
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("kind", STRANGE)
def test_word_spans_are_correct_in_any_script(text_models, name, kind):
    found = explainer(TEXTS[name], text_models[name]).explain(None, STRANGE[kind], None, [GENRES[2]])

    assert found.text == STRANGE[kind].strip()
    ends = [0, *(word.end for word in found.words)]
    assert all(end <= word.start < word.end <= len(found.text) for end, word in zip(ends, found.words, strict=False))
    words = [found.text[word.start : word.end] for word in found.words]
    assert not any(letter.isspace() for word in words for letter in word.replace("\x00", ""))
    lowered = [unicodedata.normalize("NFKD", word).casefold() for word in words]
    for word in ("ghost", "robot", "night"):
        if f" {word} " in f" {STRANGE[kind]} ":
            assert word in lowered
    assert found.relative_errors[GENRES[2]] < 0.05


@pytest.mark.parametrize("text", [*STRANGE.values(), *PLOTS[:3], "", "The Joke's end. The joke's", "\u0130's x"])
def test_encoder_spans_match_the_encoded_inputs(text_models, text):
    words = text_models["bilstm"].encoder.spans(text)
    terms = text_models["tfidf"].encoder.spans(text)

    assert len(words) == len(content_lemmas(text))
    (read,) = text_models["tfidf"].encoder.encode(Movies.of_plots([text])).inputs
    assert {column for column, _ in terms} == set(read.matrix.indices.tolist())
    pieces = text_models["transformer"].encoder.spans(text)
    (read,) = text_models["transformer"].encoder.encode(Movies.of_plots([text])).inputs
    assert len(pieces) == (len(read.ids) if text.strip() else 2)


def test_a_plot_that_is_too_long_is_explained_up_to_the_truncation(text_models):
    plot = "winter river door " * 100 + "ghost"
    found = explainer(TEXTS["transformer"], text_models["transformer"]).explain(None, plot, None, [GENRES[2]])

    assert found.text == plot
    assert 10 < len(found.words) <= 30
    assert found.words[-1].end < len(plot) / 10


def test_combining_marks_belong_to_their_word(text_models):
    plot = "\u0939\u093f\u0928\u094d\u0926\u0940 \u092b\u093c\u093f\u0932\u094d\u092e, (cafe\u0301s) night"
    found = explainer(TEXTS["transformer"], text_models["transformer"]).explain(None, plot, None, [GENRES[2]])

    assert [plot[word.start : word.end] for word in found.words] == [word.strip("(),") for word in plot.split()]


def test_the_title_is_explained_only_if_the_model_reads_it(text_models):
    with_title = explainer(TEXTS["transformer"], text_models["transformer"]).explain(
        "A Robot", "Night river.", None, [GENRES[3]]
    )
    without = explainer(TEXTS["bilstm"], text_models["bilstm"]).explain("A Robot", "Night river.", None, [GENRES[3]])

    assert with_title.text == "A Robot. Night river."
    assert scores_by_word(with_title, GENRES[3])["Robot"] == 1.0
    assert without.text == "Night river."


def test_random_weights_change_the_word_scores(text_models):
    """Source: Adebayo et al. 2018, arXiv:1810.03292."""
    for name in ("bilstm", "transformer"):
        torch.manual_seed(1)
        random = TEXTS[name].build(Movies.of_plots(PLOTS)).eval()
        likeness = []
        for row, plot in enumerate(PLOTS[:12]):
            genre = GENRES[row % len(GENRES)]
            both = [
                explainer(TEXTS[name], model).explain(None, plot, None, [genre])
                for model in (text_models[name], random)
            ]
            scores = [[word.scores[genre] for word in found.words] for found in both]
            likeness.append(spearmanr(*scores).statistic)
        assert np.mean(likeness) < 0.4


# Regions

HEIGHT, WIDTH, PATCH, WITH_PATCH, WITHOUT_PATCH = 128, 96, 32, "Horror", "Romance"
NARROW = [8, "M", 16, "M", 16, "M", 32, "M", 32, "M"]


def patched(number, *, has_patch):
    """A generated poster, with or without a patch, and the position of the patch."""
    rng = np.random.default_rng(number)
    content = draw(f"tt{number}", rng.choice(GENRES, 2, replace=False).tolist(), (WIDTH, HEIGHT))
    poster = Image.open(io.BytesIO(content))
    top, left = int(rng.integers(HEIGHT - PATCH)), int(rng.integers(WIDTH - PATCH))
    if has_patch:
        pen = ImageDraw.Draw(poster)
        for row in range(top, top + PATCH, 4):
            pen.rectangle((left, row, left + PATCH - 1, row + 1), (255, 0, 255))
            pen.rectangle((left, row + 2, left + PATCH - 1, row + 3), (0, 255, 0))
    return jpeg(poster), (slice(top, top + PATCH), slice(left, left + PATCH))


def jpeg(image):
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90)
    return content.getvalue()


def of_posters(images):
    return Movies([None] * len(images), [None] * len(images), images)


PATCH_CONFIGS = {
    "vgg": VggConfig(
        weights=None, augment=None, height=HEIGHT, width=WIDTH, head="light", hidden=16, dropout=0, frozen_blocks=0
    ),
    "clip": ClipConfig(
        pretrained=None,
        architecture=VISION["clip_vision_model"] | {"image_size": 64},
        augment=None,
        height=64,
        width=64,
        dropout=0,
        frozen=False,
    ),
}


@pytest.fixture(scope="module", params=PATCH_CONFIGS)
def patch_models(request):
    """A model trained to predict Horror for posters with a patch and Romance without, and an untrained one."""
    config = PATCH_CONFIGS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        # A VGG with few layers and channels.
        patch.setitem(cfgs, "D", NARROW)
        patch.setattr(vgg, "_CHANNELS", NARROW[-2])
        torch.set_num_threads(1)
        torch.manual_seed(1)
        labels = np.zeros((160, len(GENRES)), np.float32)
        labels[:, GENRES.index(WITH_PATCH)] = np.random.default_rng(0).random(160) < 0.5
        labels[:, GENRES.index(WITHOUT_PATCH)] = 1 - labels[:, GENRES.index(WITH_PATCH)]
        images = [patched(row, has_patch=bool(has[GENRES.index(WITH_PATCH)]))[0] for row, has in enumerate(labels)]
        random = config.build(of_posters([])).eval()
        model = copy.deepcopy(random)
        learn(model, encoded(model, of_posters(images)), labels, 80, 2e-3 if request.param == "vgg" else 3e-3)
    return config, model, random


def enlarged(heat):
    return np.asarray(Image.fromarray(heat).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def unseen():
    """Posters with a patch that were not trained on."""
    return [patched(row, has_patch=True) for row in range(1000, 1020)]


def shares(config, model, posters, genre=WITH_PATCH):
    """Share of each poster's heat that lies on the patch."""
    found = explainer(config, model)
    maps = [enlarged(found.explain(None, None, image, [genre]).heat[genre]) for image, _ in posters]
    return np.array([heat[place].sum() / max(heat.sum(), 1e-9) for heat, (_, place) in zip(maps, posters, strict=True)])


def test_the_decisive_patch_lights_up(patch_models, unseen):
    config, model, random = patch_models
    logits = predict_logits(model, model.encoder.encode(of_posters([image for image, _ in unseen])), CPU)
    is_seen = logits[:, GENRES.index(WITH_PATCH)] > 0
    assert is_seen.mean() > 0.8
    area = PATCH**2 / (HEIGHT * WIDTH)

    taught, untaught = shares(config, model, unseen)[is_seen], shares(config, random, unseen)
    assert taught.mean() > 3 * area
    assert np.median(taught) > 3 * area
    assert untaught.mean() < 1.7 * area
    # Evidence against a genre is not lit.
    assert np.median(shares(config, model, unseen, WITHOUT_PATCH)) < area


def test_random_weights_change_the_heat_map(patch_models, unseen):
    """Source: Adebayo et al. 2018, arXiv:1810.03292."""
    config, model, random = patch_models
    both = [explainer(config, one) for one in (model, random)]
    maps = [[one.explain(None, None, image, [WITH_PATCH]).heat[WITH_PATCH] for one in both] for image, _ in unseen]

    # A map may be all 0.
    likeness = [spearmanr(*pair, axis=None).statistic if all(map(np.ptp, pair)) else 0 for pair in maps]

    assert np.mean(likeness) < 0.4
    same = [both[0].explain(None, None, image, [WITH_PATCH]).heat[WITH_PATCH] for image, _ in unseen]
    assert all((first == again).all() for (first, _), again in zip(maps, same, strict=True))


@pytest.fixture(scope="module")
def poster_models():
    """One model per poster family with random weights; batch norm statistics come from a few posters."""
    torch.manual_seed(0)
    found = {name: config.build(of_posters([])) for name, config in POSTERS.items()}
    images = of_posters([patched(row, has_patch=False)[0] for row in range(8)])
    for model in found.values():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
                layer.train()
        with torch.no_grad():
            values = model.eval().preprocessing(encoded(model, images)["pixels"])
            for stage in model.stages:
                stage.train(any(isinstance(layer, torch.nn.BatchNorm2d) for layer in stage.modules()))
                values = stage(values)
        model.eval()
    return found


MAP_SHAPES = {"vgg": (4, 3), "vgg light": (4, 3), "efficientnet": (2, 2), "clip": (4, 4), "vit": (4, 4)}


@pytest.mark.parametrize("name", POSTERS)
def test_every_poster_family_has_heat_maps(poster_models, name, unseen):
    model, image = poster_models[name], unseen[0][0]
    before = logits_of(model, None, image=image)

    found = explainer(POSTERS[name], model).explain("A title", "A plot.", image, GENRES)

    assert found.text is None
    assert found.words == ()
    assert list(found.heat) == list(GENRES)
    for heat in found.heat.values():
        assert (heat.shape, heat.dtype) == (MAP_SHAPES[name], np.float32)
        assert heat.min() >= 0
        assert heat.max() in (0, pytest.approx(1))
    assert len({heat.tobytes() for heat in found.heat.values()}) > 3
    # Explaining several genres at once gives the same maps.
    alone = explainer(POSTERS[name], model).explain(None, None, image, [GENRES[4]])
    np.testing.assert_allclose(alone.heat[GENRES[4]], found.heat[GENRES[4]], atol=1e-3)
    assert (logits_of(model, None, image=image) == before).all()


# Both, and neither


@pytest.fixture(scope="module")
def fusions(text_models):
    """One fusion of each kind, with random weights in its head."""
    found = {}
    for name, config in FUSIONS.items():
        torch.manual_seed(0)
        text = "tfidf" if name == "late" else "transformer"
        settings = config.model_validate(
            {"text": {"model": TEXTS[text]}, "image": {"model": POSTERS["vgg light"], "frozen": name == "gated"}}
        )
        model = settings.join({"text": copy.deepcopy(text_models[text])}, Movies.of_plots(PLOTS))
        for value in model.head.parameters():
            torch.nn.init.normal_(value, std=0.3)
        getattr(model.head, "weighted", model.head).weights.data.abs_()
        found[name] = settings, model.eval()
    return found


@pytest.mark.parametrize("name", FUSIONS)
def test_each_input_of_a_fusion_is_explained_with_the_other_held_constant(fusions, unseen, name):
    config, model = fusions[name]
    explaining = explainer(config, model)
    image, plot = unseen[0][0], "Winter night, a ghost and a robot."

    both = explaining.explain("A title", plot, image, GENRES[:3])
    text_only = explaining.explain("A title", plot, None, GENRES[:3])
    image_only = explaining.explain(None, None, image, GENRES[:3])
    broken = explaining.explain("A title", plot, image[: len(image) // 2], GENRES[:3])

    assert {both.text, text_only.text, broken.text} == {plot if name == "late" else f"A title. {plot}"}
    assert image_only.text is None
    assert (image_only.words, image_only.relative_errors) == ((), {})
    assert text_only.heat == broken.heat == {}
    assert list(both.heat) == list(image_only.heat) == list(GENRES[:3])
    assert [word.scores for word in text_only.words] == [word.scores for word in broken.words]
    assert max(both.relative_errors.values()) < 0.1
    with_both, alone = ([word.scores[GENRES[2]] for word in found.words] for found in (both, text_only))
    # In a late fusion the words' effect does not depend on the poster; in the others it does.
    assert (np.abs(np.subtract(with_both, alone)).max() < 1e-4) == (name == "late")


@pytest.mark.parametrize("name", FUSIONS)
def test_word_scores_of_a_fusion_add_up_to_the_change_of_its_own_logits(fusions, unseen, name, monkeypatch):
    config, model = fusions[name]
    plot, image = "Winter night, a ghost and a robot.", unseen[0][0]
    seen = []
    monkeypatch.setattr(attribution, "attribute_words", lambda *given: seen.append(attribute_words(*given)) or seen[-1])

    explainer(config, model).explain(None, plot, image, GENRES)

    batch = encoded(model, Movies([None], [plot], [image]))
    with torch.inference_mode():
        changes = (model(batch) - model(batch | baseline_of(model.text, batch)))[0].numpy()
    (found,) = seen
    np.testing.assert_allclose(found.changes, changes, atol=1e-3)
    np.testing.assert_allclose(found.scores.sum(0), changes, atol=0.05 * np.abs(changes).max())


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("plot", [None, "", " \n "])
def test_without_a_plot_there_are_no_words(text_models, name, plot):
    found = explainer(TEXTS[name], text_models[name]).explain("A title", plot, b"not looked at", [GENRES[0]])

    assert (found.text, found.words, found.heat, found.relative_errors) == (None, (), {}, {})


@pytest.mark.parametrize("name", TEXTS)
def test_a_plot_of_punctuation_has_no_scored_words(text_models, name):
    found = explainer(TEXTS[name], text_models[name]).explain(None, "?! ... ?!", None, [GENRES[0]])

    assert found.text == "?! ... ?!"
    assert all(np.isfinite(list(word.scores.values())).all() for word in found.words)
    assert bool(found.words) == (name == "transformer")


@pytest.mark.parametrize("image", [None, b"", b"<html>", "half"])
def test_a_missing_or_broken_poster_has_no_heat_maps(poster_models, unseen, image):
    image = unseen[0][0][:400] if image == "half" else image
    found = explainer(POSTERS["vgg"], poster_models["vgg"]).explain(None, None, image, [GENRES[0]])

    assert (found.text, found.words, found.heat) == (None, (), {})


def test_unknown_and_missing_genres_are_rejected(text_models):
    explaining = explainer(TEXTS["tfidf"], text_models["tfidf"])

    with pytest.raises(ValueError, match="no genre to explain"):
        explaining.explain(None, "a", None, [])
    with pytest.raises(ValueError, match="Western: unknown genre; expected some of Action, "):
        explaining.explain(None, "a", None, ["Drama", "Western"])


def test_the_error_without_captum_names_the_package_to_install(text_models, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)

    with pytest.raises(
        InputError, match=r"^explanations need captum; install it with pip install 'mmgenre\[explain\]'$"
    ):
        explainer(TEXTS["tfidf"], text_models["tfidf"])


# Pictures


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_an_overlay_lights_hot_regions_and_dims_the_rest(kind):
    poster = jpeg(Image.new("RGB", (600, 900), (200, 120, 40)))
    heat = np.zeros((6, 4), np.float32)
    heat[4, 3] = 1

    picture = Image.open(io.BytesIO(overlay(poster, heat, max_side=300, kind=kind)))

    assert (picture.format, picture.size) == (kind.upper(), (200, 300))
    colours = np.asarray(picture, float)
    hot, cold = colours[225, 175], colours[50, 50]
    np.testing.assert_allclose(hot, (200, 120, 40), atol=12)
    assert np.ptp(cold) < 8
    assert cold.mean() < 60
    # The outline surrounds the hot region only.
    edge = np.argwhere(np.abs(colours - (255, 176, 0)).sum(2) < 60)
    assert len(edge) > 20
    assert edge.min(0).tolist() > [180, 120]


def test_an_overlay_without_heat_is_dark_and_small_posters_are_not_enlarged():
    poster = jpeg(Image.new("RGB", (60, 90), (200, 120, 40)))

    picture = Image.open(io.BytesIO(overlay(poster, np.zeros((6, 4), np.float32))))

    assert picture.size == (60, 90)
    assert np.asarray(picture).max() < 60
    with pytest.raises(OSError, match="cannot identify image file"):
        overlay(b"broken", np.zeros((6, 4), np.float32))
