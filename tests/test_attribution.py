"""Why a model gives a movie its genres: what decides lights up, and the words' scores add up to their effect."""

import copy
import io
import sys
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy.stats import spearmanr
from serving import TEXT
from test_image_models import VISION
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models.vgg import cfgs

from mmgenre.errors import InputError
from mmgenre.explain import attribution
from mmgenre.explain.attribution import Explainer, overlay
from mmgenre.explain.words import Reading, contributions
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
from mmgenre.models.words import clean
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
    """Taught in a loop of its own, so that it takes seconds; rows at random, labels smoothed against saturation."""
    wanted = torch.as_tensor(labels) * 0.9 + 0.05
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    for step in range(steps):
        rows = torch.from_numpy(np.random.default_rng(step).choice(len(labels), 32, replace=False))
        optimizer.zero_grad()
        found = model({name: tensor[rows] for name, tensor in batch.items()})
        binary_cross_entropy_with_logits(found, wanted[rows]).backward()
        optimizer.step()
    return model.eval()


def encoded(model, movies):
    return model.encoder.encode(movies).batch(np.arange(len(movies)))


@pytest.fixture(scope="module")
def readers():
    """Models that read genres off single words of plots, of each text family."""
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


def said(found, genre):
    """Words with their scores for a genre."""
    return {found.text[word.start : word.end]: word.scores[genre] for word in found.words}


# Words


def blank_of(model, batch):
    """What a model reads of a text that has a blank for each of its words."""
    if "terms" in batch:
        return {"terms": batch["terms"] * 0}
    ids = batch["input_ids"]
    if not hasattr(model, "backbone"):
        return {"input_ids": torch.zeros_like(ids)}
    tokenizer = model.encoder.tokenizer
    ends = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id])
    return {"input_ids": torch.where(torch.isin(ids, ends), ids, tokenizer.pad_token_id)}


@pytest.mark.parametrize("name", TEXTS)
def test_the_word_that_decides_the_genre_is_what_spoke_for_it(readers, name):
    found = explainer(TEXTS[name], readers[name]).explain(
        None, "Night river winter, a ROBOT; letter bridge door.", None, [GENRES[3], GENRES[0]]
    )

    scores = said(found, GENRES[3])
    assert scores["ROBOT"] == 1.0 == max(map(abs, scores.values()))
    assert all(abs(score) < 0.5 for word, score in scores.items() if word != "ROBOT")
    assert said(found, GENRES[0])["ROBOT"] < 0.5


@pytest.mark.parametrize("name", ["tfidf with a graph", "bilstm", "transformer"])
def test_scores_add_up_to_what_the_words_change(readers, name):
    """From a text of blanks to the text as it is, the change computed here by itself."""
    model = copy.deepcopy(readers[name])
    model.freeze()
    plot = "Winter night: the ghost's kiss! Robots, a heist (river) and tears at the café door."
    batch = encoded(model, Movies.of_plots([plot]))
    with torch.inference_mode():
        changes = (model(batch) - model(batch | blank_of(model, batch)))[0].numpy()

    names = {"terms", "input_ids", "attention_mask"} & set(batch)
    reading = Reading(plot, {name: batch[name] for name in names}, model, COLUMNS)
    found = contributions(model, reading)

    assert np.abs(changes).max() > 1
    np.testing.assert_allclose(found.changes, changes, atol=1e-4)
    np.testing.assert_allclose(found.scores.sum(0), changes, atol=0.03 * np.abs(changes).max())
    assert found.gaps.max() < 0.03


def test_scores_of_tfidf_are_its_weights_and_add_up_exactly(readers):
    model = readers["tfidf"]
    plot = "The ghost kiss, the ghost; letter"
    (terms,) = model.encoder.encode(Movies.of_plots([plot])).parts
    weights, values = model.linear.weight.detach().double().numpy(), terms.matrix.toarray()[0].astype(float)
    share = {term: weights[:, column] * values[column] for column, term in enumerate(model.encoder.terms)}

    found = contributions(model, Reading(plot, encoded(model, Movies.of_plots([plot])), model, COLUMNS))

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
    assert found.gaps.max() < 1e-5


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
def test_words_stand_where_they_stand_in_any_writing(readers, name, kind):
    found = explainer(TEXTS[name], readers[name]).explain(None, STRANGE[kind], None, [GENRES[2]])

    assert found.text == STRANGE[kind].strip()
    ends = [0, *(word.end for word in found.words)]
    assert all(end <= word.start < word.end <= len(found.text) for end, word in zip(ends, found.words, strict=False))
    words = [found.text[word.start : word.end] for word in found.words]
    assert not any(letter.isspace() for word in words for letter in word.replace("\x00", ""))
    lowered = [unicodedata.normalize("NFKD", word).casefold() for word in words]
    for word in ("ghost", "robot", "night"):
        if f" {word} " in f" {STRANGE[kind]} ":
            assert word in lowered
    assert found.gaps[GENRES[2]] < 0.05


@pytest.mark.parametrize("text", [*STRANGE.values(), *PLOTS[:3], "", "The Joke's end. The joke's", "\u0130's x"])
def test_places_are_those_of_what_is_read(readers, text):
    words = readers["bilstm"].encoder.places(text)
    terms = readers["tfidf"].encoder.places(text)

    assert len(words) == len(clean(text))
    (read,) = readers["tfidf"].encoder.encode(Movies.of_plots([text])).parts
    assert {column for column, _ in terms} == set(read.matrix.indices.tolist())
    pieces = readers["transformer"].encoder.places(text)
    (read,) = readers["transformer"].encoder.encode(Movies.of_plots([text])).parts
    assert len(pieces) == (len(read.ids) if text.strip() else 2)


def test_a_plot_that_is_too_long_is_explained_as_far_as_it_is_read(readers):
    plot = "winter river door " * 100 + "ghost"
    found = explainer(TEXTS["transformer"], readers["transformer"]).explain(None, plot, None, [GENRES[2]])

    assert found.text == plot
    assert 10 < len(found.words) <= 30
    assert found.words[-1].end < len(plot) / 10


def test_vowel_signs_and_accents_of_their_own_are_part_of_their_word(readers):
    plot = "\u0939\u093f\u0928\u094d\u0926\u0940 \u092b\u093c\u093f\u0932\u094d\u092e, (cafe\u0301s) night"
    found = explainer(TEXTS["transformer"], readers["transformer"]).explain(None, plot, None, [GENRES[2]])

    assert [plot[word.start : word.end] for word in found.words] == [word.strip("(),") for word in plot.split()]


def test_the_title_counts_where_the_model_reads_it_and_nowhere_else(readers):
    with_title = explainer(TEXTS["transformer"], readers["transformer"]).explain(
        "A Robot", "Night river.", None, [GENRES[3]]
    )
    without = explainer(TEXTS["bilstm"], readers["bilstm"]).explain("A Robot", "Night river.", None, [GENRES[3]])

    assert with_title.text == "A Robot. Night river."
    assert said(with_title, GENRES[3])["Robot"] == 1.0
    assert without.text == "Night river."


def test_words_of_a_model_whose_weights_are_drawn_anew_score_otherwise(readers):
    """Source: Adebayo et al. 2018, arXiv:1810.03292."""
    for name in ("bilstm", "transformer"):
        torch.manual_seed(1)
        random = TEXTS[name].build(Movies.of_plots(PLOTS)).eval()
        likeness = []
        for row, plot in enumerate(PLOTS[:12]):
            genre = GENRES[row % len(GENRES)]
            both = [
                explainer(TEXTS[name], model).explain(None, plot, None, [genre]) for model in (readers[name], random)
            ]
            scores = [[word.scores[genre] for word in found.words] for found in both]
            likeness.append(spearmanr(*scores).statistic)
        assert np.mean(likeness) < 0.4


# Regions

HEIGHT, WIDTH, PATCH, SHOWN, HIDDEN = 128, 96, 32, "Horror", "Romance"
NARROW = [8, "M", 16, "M", 16, "M", 32, "M", 32, "M"]


def patched(number, *, has_patch):
    """A poster of the sandbox's, with a patch somewhere or without; and where the patch is, or would be."""
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


WATCHING = {
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


@pytest.fixture(scope="module", params=WATCHING)
def watcher(request):
    """A model taught from nothing that a patch makes a movie Horror and none Romance, and one that is untaught."""
    config = WATCHING[request.param]
    with pytest.MonkeyPatch.context() as patch:
        # A VGG of few layers and channels.
        patch.setitem(cfgs, "D", NARROW)
        patch.setattr(vgg, "_CHANNELS", NARROW[-2])
        torch.set_num_threads(1)
        torch.manual_seed(1)
        labels = np.zeros((160, len(GENRES)), np.float32)
        labels[:, GENRES.index(SHOWN)] = np.random.default_rng(0).random(160) < 0.5
        labels[:, GENRES.index(HIDDEN)] = 1 - labels[:, GENRES.index(SHOWN)]
        images = [patched(row, has_patch=bool(has[GENRES.index(SHOWN)]))[0] for row, has in enumerate(labels)]
        random = config.build(of_posters([])).eval()
        model = copy.deepcopy(random)
        learn(model, encoded(model, of_posters(images)), labels, 80, 2e-3 if request.param == "vgg" else 3e-3)
    return config, model, random


def enlarged(heat):
    return np.asarray(Image.fromarray(heat).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def unseen():
    """Posters with a patch that no model was taught with."""
    return [patched(row, has_patch=True) for row in range(1000, 1020)]


def shares(config, model, posters, genre=SHOWN):
    """Of each poster's heat, how much lies on the patch."""
    found = explainer(config, model)
    maps = [enlarged(found.explain(None, None, image, [genre]).heat[genre]) for image, _ in posters]
    return np.array([heat[place].sum() / max(heat.sum(), 1e-9) for heat, (_, place) in zip(maps, posters, strict=True)])


def test_a_patch_that_decides_the_genre_is_what_lights_up(watcher, unseen):
    config, model, random = watcher
    logits = predict_logits(model, model.encoder.encode(of_posters([image for image, _ in unseen])), CPU)
    is_seen = logits[:, GENRES.index(SHOWN)] > 0
    assert is_seen.mean() > 0.8
    area = PATCH**2 / (HEIGHT * WIDTH)

    taught, untaught = shares(config, model, unseen)[is_seen], shares(config, random, unseen)
    assert taught.mean() > 3 * area
    assert np.median(taught) > 3 * area
    assert untaught.mean() < 1.7 * area
    # What speaks against a genre is not lit for it.
    assert np.median(shares(config, model, unseen, HIDDEN)) < area


def test_a_heat_map_of_a_model_whose_weights_are_drawn_anew_is_another(watcher, unseen):
    """Source: Adebayo et al. 2018, arXiv:1810.03292."""
    config, model, random = watcher
    both = [explainer(config, one) for one in (model, random)]
    maps = [[one.explain(None, None, image, [SHOWN]).heat[SHOWN] for one in both] for image, _ in unseen]

    # A map may be empty: nothing speaks for the genre.
    likeness = [spearmanr(*pair, axis=None).statistic if all(map(np.ptp, pair)) else 0 for pair in maps]

    assert np.mean(likeness) < 0.4
    same = [both[0].explain(None, None, image, [SHOWN]).heat[SHOWN] for image, _ in unseen]
    assert all((first == again).all() for (first, _), again in zip(maps, same, strict=True))


@pytest.fixture(scope="module")
def seers():
    """Models of each family that reads posters, of random weights; what they normalise by is of some posters."""
    torch.manual_seed(0)
    found = {name: config.build(of_posters([])) for name, config in POSTERS.items()}
    images = of_posters([patched(row, has_patch=False)[0] for row in range(8)])
    for model in found.values():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None
                layer.train()
        with torch.no_grad():
            values = model.eval().preparation(encoded(model, images)["pixels"])
            for stage in model.stages:
                stage.train(any(isinstance(layer, torch.nn.BatchNorm2d) for layer in stage.modules()))
                values = stage(values)
        model.eval()
    return found


PLACES = {"vgg": (4, 3), "vgg light": (4, 3), "efficientnet": (2, 2), "clip": (4, 4), "vit": (4, 4)}


@pytest.mark.parametrize("name", POSTERS)
def test_every_family_that_reads_posters_says_where(seers, name, unseen):
    model, image = seers[name], unseen[0][0]
    before = logits_of(model, None, image=image)

    found = explainer(POSTERS[name], model).explain("A title", "A plot.", image, GENRES)

    assert found.text is None
    assert found.words == ()
    assert list(found.heat) == list(GENRES)
    for heat in found.heat.values():
        assert (heat.shape, heat.dtype) == (PLACES[name], np.float32)
        assert heat.min() >= 0
        assert heat.max() in (0, pytest.approx(1))
    assert len({heat.tobytes() for heat in found.heat.values()}) > 3
    # Genres that are asked for together are explained as they are alone.
    alone = explainer(POSTERS[name], model).explain(None, None, image, [GENRES[4]])
    np.testing.assert_allclose(alone.heat[GENRES[4]], found.heat[GENRES[4]], atol=1e-3)
    assert (logits_of(model, None, image=image) == before).all()


# Both, and neither


@pytest.fixture(scope="module")
def fusions(readers):
    """Two towers joined in each way; what joins them as if it had learned."""
    found = {}
    for name, config in FUSIONS.items():
        torch.manual_seed(0)
        text = "tfidf" if name == "late" else "transformer"
        settings = config.model_validate(
            {"text": {"model": TEXTS[text]}, "image": {"model": POSTERS["vgg light"], "frozen": name == "gated"}}
        )
        model = settings.join({"text": copy.deepcopy(readers[text])}, Movies.of_plots(PLOTS))
        for value in model.head.parameters():
            torch.nn.init.normal_(value, std=0.3)
        getattr(model.head, "weighted", model.head).weights.data.abs_()
        found[name] = settings, model.eval()
    return found


@pytest.mark.parametrize("name", FUSIONS)
def test_both_inputs_of_a_fusion_are_explained_each_beside_the_other(fusions, unseen, name):
    config, model = fusions[name]
    explaining = explainer(config, model)
    image, plot = unseen[0][0], "Winter night, a ghost and a robot."

    both = explaining.explain("A title", plot, image, GENRES[:3])
    text_only = explaining.explain("A title", plot, None, GENRES[:3])
    image_only = explaining.explain(None, None, image, GENRES[:3])
    broken = explaining.explain("A title", plot, image[: len(image) // 2], GENRES[:3])

    assert {both.text, text_only.text, broken.text} == {plot if name == "late" else f"A title. {plot}"}
    assert image_only.text is None
    assert (image_only.words, image_only.gaps) == ((), {})
    assert text_only.heat == broken.heat == {}
    assert list(both.heat) == list(image_only.heat) == list(GENRES[:3])
    assert [word.scores for word in text_only.words] == [word.scores for word in broken.words]
    assert max(both.gaps.values()) < 0.1
    with_both, alone = ([word.scores[GENRES[2]] for word in found.words] for found in (both, text_only))
    # A late fusion only weighs what the plot says; the others read it otherwise beside a poster.
    assert (np.abs(np.subtract(with_both, alone)).max() < 1e-4) == (name == "late")


@pytest.mark.parametrize("name", FUSIONS)
def test_scores_of_a_fusions_words_add_up_to_what_its_own_logits_change(fusions, unseen, name, monkeypatch):
    config, model = fusions[name]
    plot, image = "Winter night, a ghost and a robot.", unseen[0][0]
    seen = []
    monkeypatch.setattr(attribution, "contributions", lambda *given: seen.append(contributions(*given)) or seen[-1])

    explainer(config, model).explain(None, plot, image, GENRES)

    batch = encoded(model, Movies([None], [plot], [image]))
    with torch.inference_mode():
        changes = (model(batch) - model(batch | blank_of(model.text, batch)))[0].numpy()
    (found,) = seen
    np.testing.assert_allclose(found.changes, changes, atol=1e-3)
    np.testing.assert_allclose(found.scores.sum(0), changes, atol=0.05 * np.abs(changes).max())


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("plot", [None, "", " \n "])
def test_no_plot_is_nothing_to_explain(readers, name, plot):
    found = explainer(TEXTS[name], readers[name]).explain("A title", plot, b"not looked at", [GENRES[0]])

    assert (found.text, found.words, found.heat, found.gaps) == (None, (), {}, {})


@pytest.mark.parametrize("name", TEXTS)
def test_a_plot_of_which_nothing_is_read_has_no_words_that_speak(readers, name):
    found = explainer(TEXTS[name], readers[name]).explain(None, "?! ... ?!", None, [GENRES[0]])

    assert found.text == "?! ... ?!"
    assert all(np.isfinite(list(word.scores.values())).all() for word in found.words)
    assert bool(found.words) == (name == "transformer")


@pytest.mark.parametrize("image", [None, b"", b"<html>", "half"])
def test_no_poster_that_can_be_seen_is_nothing_to_explain(seers, unseen, image):
    image = unseen[0][0][:400] if image == "half" else image
    found = explainer(POSTERS["vgg"], seers["vgg"]).explain(None, None, image, [GENRES[0]])

    assert (found.text, found.words, found.heat) == (None, (), {})


def test_unknown_genres_and_none_are_mistakes(readers):
    explaining = explainer(TEXTS["tfidf"], readers["tfidf"])

    with pytest.raises(ValueError, match="no genre to explain"):
        explaining.explain(None, "a", None, [])
    with pytest.raises(ValueError, match="Western: no genre; expected some of Action, "):
        explaining.explain(None, "a", None, ["Drama", "Western"])


def test_without_captum_one_line_says_what_to_install(readers, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)

    with pytest.raises(
        InputError, match=r"^explanations need captum; install it with pip install 'mmgenre\[explain\]'$"
    ):
        explainer(TEXTS["tfidf"], readers["tfidf"])


# Pictures


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_what_spoke_for_a_genre_is_lit_and_the_rest_is_dark(kind):
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
    # The outline, around the hot place and nowhere else.
    edge = np.argwhere(np.abs(colours - (255, 176, 0)).sum(2) < 60)
    assert len(edge) > 20
    assert edge.min(0).tolist() > [180, 120]


def test_a_poster_that_nothing_in_spoke_for_is_dark_and_a_small_one_stays_small():
    poster = jpeg(Image.new("RGB", (60, 90), (200, 120, 40)))

    picture = Image.open(io.BytesIO(overlay(poster, np.zeros((6, 4), np.float32))))

    assert picture.size == (60, 90)
    assert np.asarray(picture).max() < 60
    with pytest.raises(OSError, match="cannot identify image file"):
        overlay(b"broken", np.zeros((6, 4), np.float32))
