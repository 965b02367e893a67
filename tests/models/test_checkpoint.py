"""A checkpoint loads exactly what was saved, or fails with an InputError; nothing is unpickled."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mmgenre
from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models import checkpoint
from mmgenre.models.checkpoint import CARD, FORMAT, WEIGHTS, Card
from mmgenre.models.inference import predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.scoring.thresholds import fit_thresholds, probabilities

WORDS = ["chase", "kiss", "ghost", "robot", "heist", "joke", "tears", "island", "stalker", "night", "river", "door"]
RANDOM = np.random.default_rng(0)
PLOTS = [" ".join(RANDOM.choice(WORDS, 8)) for _ in range(60)]
LABELS = np.stack([[word in plot.split() for word in WORDS[:9]] for plot in PLOTS]).astype(np.float32)
FAMILIES = ("tfidf", "transformer")


def logits_of(model):
    return predict_logits(model, model.encoder.encode(Movies.of_plots(PLOTS)), torch.device("cpu"), "fp32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model):
    """Folder, card and logits of a saved model per family."""
    root, found = tmp_path_factory.mktemp("trained"), {}
    models = {
        "tfidf": TfidfConfig(c=3).fit(Movies.of_plots(PLOTS), LABELS).eval(),
        "transformer": tiny_model.build(Movies.of_plots(PLOTS)).eval(),
    }
    for family, config in (("tfidf", TfidfConfig(c=3)), ("transformer", tiny_model)):
        logits = logits_of(models[family])
        thresholds = fit_thresholds(probabilities(logits, 1.0), LABELS)
        card = Card(
            model=config,
            training={"epochs": 3, "optimizer": {"lr_head": 1e-3}},
            thresholds=thresholds,
            temperature=1.7,
            scores={"macro_f1": 0.5},
            dataset="f00d",
        )
        checkpoint.save(models[family], card, str(root / family))
        found[family] = (root / family, card, logits)
    return found


@pytest.fixture(params=FAMILIES)
def saved(request, trained):
    return trained[request.param]


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy of a checkpoint for a test to damage."""
    return shutil.copytree(saved[0], tmp_path / "model")


def complaint(folder):
    """The one-line error of loading a damaged folder."""
    with pytest.raises(InputError) as error:
        checkpoint.load(str(folder))
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def rewrite(folder, **fields):
    content = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(content | fields))


def test_a_loaded_model_gives_the_same_logits_in_evaluation_mode(saved):
    folder, _, logits = saved

    _, model = checkpoint.load(str(folder))

    np.testing.assert_array_equal(logits_of(model), logits)
    assert not any(module.training for module in model.modules())


def test_the_card_round_trips(saved):
    folder, card, _ = saved

    found, _ = checkpoint.load(str(folder))

    assert found == checkpoint.read_card(str(folder))
    assert found == card.model_copy(update={"weights_sha256": found.weights_sha256, "assets": found.assets})
    assert {*found.assets} == {path.name for path in (folder / "assets").iterdir()}
    assert (found.format, found.version, found.genres) == (FORMAT, mmgenre.__version__, GENRES)
    assert len(found.weights_sha256) == 64


def test_the_folder_holds_only_json_and_safetensors(saved):
    files = [path for path in saved[0].rglob("*") if path.is_file()]

    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert {path.name for path in saved[0].iterdir()} == {CARD, WEIGHTS, "assets"}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())


def test_a_checkpoint_can_be_saved_to_a_uri(saved):
    folder, card, logits = saved
    _, model = checkpoint.load(str(folder))

    checkpoint.save(model, card, f"memory:/{folder}")

    np.testing.assert_array_equal(logits_of(checkpoint.load(f"memory:/{folder}")[1]), logits)


def test_a_folder_can_be_moved(saved, tmp_path):
    folder, _, logits = saved
    shutil.copytree(folder, tmp_path / "moved")

    np.testing.assert_array_equal(logits_of(checkpoint.load(str(tmp_path / "moved"))[1]), logits)


def test_a_folder_without_a_card_is_rejected(damaged, tmp_path):
    (damaged / CARD).unlink()

    assert f"no {CARD} found; expected a folder written by jobs/train.py" in complaint(damaged)
    assert f"no {CARD} found" in complaint(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder_is_rejected(damaged):
    assert "is a file; expected a folder" in complaint(damaged / WEIGHTS)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"text"', b"{}", b"\x80\x04", b'{"format": "x", "genres": []}', b'{"format": 1}']
)
def test_a_malformed_card_is_rejected(damaged, content):
    (damaged / CARD).write_bytes(content)

    assert f"{CARD}: not a checkpoint's card; train again" in complaint(damaged)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(FORMAT + 1, "install a newer mmgenre"), (FORMAT - 1, "train again")],
    ids=["newer", "older"],
)
def test_another_format_is_rejected(damaged, number, remedy):
    rewrite(damaged, format=number, genres=["Western"], something="new")

    assert complaint(damaged) == f"{damaged}: format {number}, but this mmgenre reads format {FORMAT}; {remedy}"


@pytest.mark.parametrize("genres", [[*GENRES, "Western"], GENRES[:8], GENRES[::-1]])
def test_a_model_of_other_genres_is_rejected(damaged, genres):
    rewrite(damaged, genres=genres)

    message = complaint(damaged)
    assert f"trained for genres {tuple(genres)}, but this mmgenre predicts {GENRES}; train it again" in message


def test_invalid_fields_of_a_card_are_listed(damaged):
    rewrite(damaged, temperature=0, model={"family": "unheard of"})

    assert f"{CARD}: invalid fields: model, temperature; train again" in complaint(damaged)


def flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [None, flip_a_bit, lambda content: content[:-100], lambda content: b""])
def test_weights_that_do_not_match_the_card_are_rejected(damaged, damage):
    content = (damaged / WEIGHTS).read_bytes()
    (damaged / WEIGHTS).unlink()
    if damage is not None:
        (damaged / WEIGHTS).write_bytes(damage(content))

    assert f"{WEIGHTS}: missing, or not the file that the card describes; train again" in complaint(damaged)


def test_weights_of_another_model_are_rejected(damaged, trained):
    """Even if their hash is in the card."""
    other = next(folder for folder, *_ in trained.values() if (folder / WEIGHTS).read_bytes() != weights(damaged))
    shutil.copy(other / WEIGHTS, damaged / WEIGHTS)
    rewrite(damaged, weights_sha256=checkpoint.read_card(str(other)).weights_sha256)

    assert "damaged (" in complaint(damaged)


def weights(folder):
    return (folder / WEIGHTS).read_bytes()


def test_missing_assets_are_rejected(damaged):
    shutil.rmtree(damaged / "assets")

    assert "missing, or not the file that the card describes" in complaint(damaged)


def test_assets_that_do_not_match_the_card_are_rejected(damaged):
    asset = sorted((damaged / "assets").iterdir())[0]
    asset.write_bytes(flip_a_bit(asset.read_bytes()))

    assert f"assets/{asset.name}: missing, or not the file that the card describes; train again" in complaint(damaged)


class Bomb:
    def __init__(self, crater):
        self.crater = crater

    def __reduce__(self):
        return (Path.touch, (self.crater,))


@pytest.mark.parametrize("name", ["weights.pth", "pytorch_model.bin", "assets/tokenizer.pkl"])
def test_a_pickle_is_rejected_before_anything_is_read(damaged, tmp_path, name):
    (damaged / name).write_bytes(pickle.dumps(Bomb(tmp_path / "crater")))

    assert f"{name}: only JSON and safetensors files are read here; remove it" in complaint(damaged)
    assert not (tmp_path / "crater").exists()


def test_a_pickle_in_place_of_the_weights_is_not_executed(damaged, tmp_path):
    (damaged / WEIGHTS).write_bytes(pickle.dumps(Bomb(tmp_path / "crater")))
    rewrite(damaged, weights_sha256=hashlib.sha256(weights(damaged)).hexdigest())

    assert "damaged (" in complaint(damaged)
    assert not (tmp_path / "crater").exists()


def test_an_asset_not_listed_in_the_card_is_rejected(damaged):
    (damaged / "assets/added_tokens.json").write_text("{}")

    assert "assets/added_tokens.json: not listed in the card; remove it" in complaint(damaged)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/hostname", "a/../../outside.json", "..\\outside.json", ""])
def test_a_path_outside_the_folder_is_rejected(damaged, name):
    assets = checkpoint.read_card(str(damaged)).assets
    rewrite(damaged, assets=assets | {name: "0" * 64})

    assert "invalid fields: assets" in complaint(damaged)


@pytest.mark.parametrize("content", ["", "{"])
def test_each_corrupt_asset_is_reported_even_if_the_card_lists_its_hash(damaged, content):
    described = checkpoint.read_card(str(damaged)).assets
    for asset in sorted((damaged / "assets").iterdir()):
        whole = asset.read_text()
        asset.write_text(content)
        rewrite(damaged, assets=described | {asset.name: hashlib.sha256(content.encode()).hexdigest()})
        assert "damaged (" in complaint(damaged), asset.name
        asset.write_text(whole)
    rewrite(damaged, assets=described)
    checkpoint.load(str(damaged))
