"""A checkpoint is what was trained, or it says that it is not; nothing in it is unpickled."""

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
    """For each family a saved model's folder, card and logits."""
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
    """A copy of a checkpoint, to be damaged."""
    return shutil.copytree(saved[0], tmp_path / "model")


def complaint(folder):
    """What loading says of a damaged folder, in one line."""
    with pytest.raises(InputError) as error:
        checkpoint.load(str(folder))
    message = str(error.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def rewrite(folder, **fields):
    content = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(content | fields))


def test_a_loaded_model_gives_the_same_logits_and_is_ready_to_predict(saved):
    folder, _, logits = saved

    _, model = checkpoint.load(str(folder))

    np.testing.assert_array_equal(logits_of(model), logits)
    assert not any(module.training for module in model.modules())


def test_the_card_says_all_that_was_known(saved):
    folder, card, _ = saved

    found, _ = checkpoint.load(str(folder))

    assert found == checkpoint.read_card(str(folder))
    assert found == card.model_copy(update={"weights_sha256": found.weights_sha256, "assets": found.assets})
    assert {*found.assets} == {path.name for path in (folder / "assets").iterdir()}
    assert (found.format, found.version, found.genres) == (FORMAT, mmgenre.__version__, GENRES)
    assert len(found.weights_sha256) == 64


def test_only_json_and_safetensors_are_in_the_folder(saved):
    files = [path for path in saved[0].rglob("*") if path.is_file()]

    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert {path.name for path in saved[0].iterdir()} == {CARD, WEIGHTS, "assets"}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())


def test_a_checkpoint_can_live_at_a_uri(saved):
    folder, card, logits = saved
    _, model = checkpoint.load(str(folder))

    checkpoint.save(model, card, f"memory:/{folder}")

    np.testing.assert_array_equal(logits_of(checkpoint.load(f"memory:/{folder}")[1]), logits)


def test_a_folder_can_be_moved(saved, tmp_path):
    folder, _, logits = saved
    shutil.copytree(folder, tmp_path / "moved")

    np.testing.assert_array_equal(logits_of(checkpoint.load(str(tmp_path / "moved"))[1]), logits)


def test_a_folder_without_a_card_is_no_checkpoint(damaged, tmp_path):
    (damaged / CARD).unlink()

    assert f"no {CARD} there; expected a folder made by jobs/train.py" in complaint(damaged)
    assert f"no {CARD} there" in complaint(tmp_path / "nowhere")


def test_a_file_is_no_checkpoint(damaged):
    assert "is a file; expected a folder" in complaint(damaged / WEIGHTS)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"text"', b"{}", b"\x80\x04", b'{"format": "x", "genres": []}', b'{"format": 1}']
)
def test_a_card_that_is_none_is_refused(damaged, content):
    (damaged / CARD).write_bytes(content)

    assert f"{CARD}: not the card of a checkpoint; train again" in complaint(damaged)


@pytest.mark.parametrize(
    ("number", "way_out"),
    [(FORMAT + 1, "install a newer mmgenre"), (FORMAT - 1, "train again")],
    ids=["newer", "older"],
)
def test_another_format_is_refused(damaged, number, way_out):
    rewrite(damaged, format=number, genres=["Western"], something="new")

    assert complaint(damaged) == f"{damaged}: format {number}, this mmgenre reads format {FORMAT}; {way_out}"


@pytest.mark.parametrize("genres", [[*GENRES, "Western"], GENRES[:8], GENRES[::-1]])
def test_a_model_of_other_genres_is_refused(damaged, genres):
    rewrite(damaged, genres=genres)

    message = complaint(damaged)
    assert f"trained for genres {tuple(genres)}, this mmgenre predicts {GENRES}; retrain it" in message


def test_wrong_fields_of_a_card_are_named(damaged):
    rewrite(damaged, temperature=0, model={"family": "unheard of"})

    assert f"{CARD}: damaged fields: model, temperature; train again" in complaint(damaged)


def flip_a_bit(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [None, flip_a_bit, lambda content: content[:-100], lambda content: b""])
def test_other_weights_than_the_cards_are_refused(damaged, damage):
    content = (damaged / WEIGHTS).read_bytes()
    (damaged / WEIGHTS).unlink()
    if damage is not None:
        (damaged / WEIGHTS).write_bytes(damage(content))

    assert f"{WEIGHTS}: missing or not the file the card describes; train again" in complaint(damaged)


def test_weights_of_another_shape_are_refused(damaged, trained):
    """Even where the card describes them."""
    other = next(folder for folder, *_ in trained.values() if (folder / WEIGHTS).read_bytes() != weights(damaged))
    shutil.copy(other / WEIGHTS, damaged / WEIGHTS)
    rewrite(damaged, weights_sha256=checkpoint.read_card(str(other)).weights_sha256)

    assert "damaged (" in complaint(damaged)


def weights(folder):
    return (folder / WEIGHTS).read_bytes()


def test_missing_assets_are_a_damage(damaged):
    shutil.rmtree(damaged / "assets")

    assert "missing or not the file the card describes" in complaint(damaged)


def test_other_assets_than_the_cards_are_refused(damaged):
    asset = sorted((damaged / "assets").iterdir())[0]
    asset.write_bytes(flip_a_bit(asset.read_bytes()))

    assert f"assets/{asset.name}: missing or not the file the card describes; train again" in complaint(damaged)


class Bomb:
    def __init__(self, crater):
        self.crater = crater

    def __reduce__(self):
        return (Path.touch, (self.crater,))


@pytest.mark.parametrize("name", ["weights.pth", "pytorch_model.bin", "assets/tokenizer.pkl"])
def test_a_pickle_is_refused_before_anything_is_read(damaged, tmp_path, name):
    (damaged / name).write_bytes(pickle.dumps(Bomb(tmp_path / "crater")))

    assert f"{name}: only JSON and safetensors are read here; take it away" in complaint(damaged)
    assert not (tmp_path / "crater").exists()


def test_a_pickle_in_the_place_of_the_weights_is_not_read(damaged, tmp_path):
    (damaged / WEIGHTS).write_bytes(pickle.dumps(Bomb(tmp_path / "crater")))
    rewrite(damaged, weights_sha256=hashlib.sha256(weights(damaged)).hexdigest())

    assert "damaged (" in complaint(damaged)
    assert not (tmp_path / "crater").exists()


def test_a_file_that_the_card_does_not_describe_is_refused(damaged):
    (damaged / "assets/added_tokens.json").write_text("{}")

    assert "assets/added_tokens.json: a file that the card does not describe; take it away" in complaint(damaged)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/hostname", "a/../../outside.json", "..\\outside.json", ""])
def test_a_path_that_leads_out_of_the_folder_is_refused(damaged, name):
    assets = checkpoint.read_card(str(damaged)).assets
    rewrite(damaged, assets=assets | {name: "0" * 64})

    assert "damaged fields: assets" in complaint(damaged)


@pytest.mark.parametrize("content", ["", "{"])
def test_each_spoiled_asset_is_a_damage_even_where_the_card_describes_it(damaged, content):
    described = checkpoint.read_card(str(damaged)).assets
    for asset in sorted((damaged / "assets").iterdir()):
        whole = asset.read_text()
        asset.write_text(content)
        rewrite(damaged, assets=described | {asset.name: hashlib.sha256(content.encode()).hexdigest()})
        assert "damaged (" in complaint(damaged), asset.name
        asset.write_text(whole)
    rewrite(damaged, assets=described)
    checkpoint.load(str(damaged))
