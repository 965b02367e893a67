"""What frozen layers make of posters is computed once, and again when anything that it rests on changes."""

import io
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmgenre.errors import InputError
from mmgenre.models import checkpoint, inference
from mmgenre.models.movies import Movies
from mmgenre.models.vgg import VggConfig
from mmgenre.tables.schema import MOVIES, PREDICTIONS, per_genre
from mmgenre.tables.table import Table
from mmgenre.tagging.job import TagConfig, tag
from mmgenre.training.config import TrainConfig
from mmgenre.training.encoding import FrozenFeatures
from mmgenre.training.features import FeatureOptions, compute, frozen_parts, recipe
from mmgenre.training.job import train

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 255, (9, 3))
SPLITS = ["train"] * 60 + ["val"] * 30 + ["test"] * 10
GENRE = RANDOM.integers(0, 9, len(SPLITS))
BROKEN, WITHOUT = (3, 65, 95), (7, 70, 96)
POSTER_MODEL = {"family": "vgg", "head": "light", "height": 32, "width": 32, "augment": None, "dropout": 0.0}


def poster(row):
    """An image in the colour of the movie's genre, or broken, or none."""
    values = np.clip(COLOURS[GENRE[row]] + RANDOM.integers(-9, 9, (45, 30, 3)), 0, 255)
    content = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(content, "JPEG")
    return None if row in WITHOUT else content.getvalue()[:200] if row in BROKEN else content.getvalue()


@pytest.fixture(scope="module")
def movies(tmp_path_factory, write_table):
    rows = range(len(SPLITS))
    labels = np.eye(9, dtype=np.float32)[GENRE]
    columns = [[f"tt{row:07}" for row in rows], SPLITS, ["A title"] * len(SPLITS), [None] * len(SPLITS)]
    columns += [[poster(row) for row in rows], per_genre(labels)]
    return write_table(
        tmp_path_factory.mktemp("movies") / "movies", MOVIES, dict(zip(MOVIES.names, columns, strict=True))
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random ones, the same for every training."""
    file = tmp_path_factory.mktemp("weights") / "vgg.safetensors"
    unknown = Movies([], [], [])
    save_file(VggConfig(weights=None).build(unknown).torchvision_layers().state_dict(), file)
    return str(file)


@pytest.fixture(scope="module")
def trained(local_ray, movies, weights, tmp_path_factory):
    """Trains a model on posters; what its frozen layers make of them is kept in one folder."""
    root = tmp_path_factory.mktemp("trained")

    def run(name, features=root / "features", model=(), **settings):
        values = {"dataset": movies, "output": str(root / name), "features": str(features), "precision": "fp32"}
        values |= {"model": POSTER_MODEL | {"weights": weights} | dict(model), "epochs": 3, "batch_size": 8}
        manifest = train(TrainConfig.parse(values | settings, "test"))
        return root / name, manifest

    return run


def test_features_are_computed_once_and_give_the_scores_of_computing_them_anew(trained, movies):
    first, manifest = trained("first")
    anew, _ = trained("anew", "none")

    kept, computed = (json.loads((folder / "history.json").read_text())["history"] for folder in (first, anew))
    # Told apart by fp16 alone. One that moves a movie over a threshold moves F1 by a step, the loss by as little.
    for name in ("loss", "val_loss", "mean_average_precision"):
        assert [one[name] for one in kept] == pytest.approx([one[name] for one in computed], abs=1e-3)
    assert kept[-1]["mean_average_precision"] > 0.5
    # Broken posters cannot be learned from, movies without one are none of this model's.
    assert manifest.statuses == {"train": 58, "val": 28}

    features = first.parent / "features"
    before = sorted(features.rglob("*"))
    card, model = checkpoint.load(str(first))
    plan = FeatureOptions(str(features), "auto", "fp32", seed=5)
    (part,) = frozen_parts(model, card.model)
    table = compute(part, Table(movies), str(first), plan)
    assert sorted(features.rglob("*")) == before
    assert Counter(table.read(["status"])["status"].to_pylist()) == {"ok": 86, "unreadable": 2}


def test_features_of_another_precision_do_not_pass_for_this_machines(movies, weights, monkeypatch):
    """`auto` is bf16 on a GPU and fp32 on most CPUs."""
    model = VggConfig.model_validate(POSTER_MODEL | {"weights": weights}).build(Movies([], [], []))

    def digest(precision, *, has_bf16):
        monkeypatch.setattr(inference, "_has_bf16_units", lambda device: has_bf16)
        return recipe(model, Table(movies), FeatureOptions("anywhere", "auto", precision, 0)).model_dump_json()

    fp32, bf16 = digest("auto", has_bf16=False), digest("auto", has_bf16=True)

    assert fp32 != bf16
    assert (fp32, bf16) == (digest("fp32", has_bf16=True), digest("bf16", has_bf16=False))


def test_features_are_shared_until_weights_or_what_is_seen_change(movies, weights, tmp_path):
    changed = str(tmp_path / "changed.safetensors")
    tensors = load_file(weights)
    save_file(tensors | {"features.28.bias": tensors["features.28.bias"] + 1e-3}, changed)

    def digest(**settings):
        model = VggConfig.model_validate(POSTER_MODEL | {"weights": weights} | settings).build(Movies([], [], []))
        return recipe(model, Table(movies), FeatureOptions("anywhere", "auto", "fp32", 0)).model_dump_json()

    views = {"views": 2}
    same = [digest(), digest(dropout=0.5), digest(hidden=7)]
    others = [
        digest(weights=changed),
        digest(height=64),
        digest(frozen_blocks=4),
        digest(head="published"),
        digest(augment=views),
        digest(augment=views | {"crop": 0.5}),
        digest(augment={"views": 3}),
    ]

    assert len(set(same)) == 1
    assert len({*same, *others}) == 1 + len(others)


def test_a_movie_stands_for_itself_or_for_any_of_its_views():
    values = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    places = np.array([1, -1, 0])

    seen = {
        tuple(FrozenFeatures("frozen", values, places).batch(np.array([0]))["frozen"][0].tolist()) for _ in range(60)
    }
    alone = FrozenFeatures("other", values[:, :1], places).take(np.array([2, 1])).batch(np.array([1, 0]))["other"]

    assert seen == {tuple(view) for view in values[1].tolist()}
    assert alone.tolist() == [[0, 0, 0, 0], values[0, 0].tolist()]
    assert alone.dtype == torch.float32


def test_a_poster_model_tags_what_it_can_see_and_says_why_not(trained, movies, tmp_path):
    checkpoint_folder, _ = trained("first")

    tag(TagConfig(checkpoint=str(checkpoint_folder), movies=movies, output=str(tmp_path / "tags")))

    rows = Table(str(tmp_path / "tags"), PREDICTIONS).read().sort_by("imdb_id").to_pylist()
    statuses = [row["status"] for row in rows]
    assert statuses == [
        "error" if row in BROKEN else "no_input" if row in WITHOUT else "poster_only" for row in range(len(SPLITS))
    ]
    assert {row["detail"] for row in rows} == {None, "the poster is not an image that can be decoded"}
    assert [row["genres"] is None for row in rows] == [status != "poster_only" for status in statuses]


def test_views_of_what_is_not_frozen_are_a_mistake(trained):
    with pytest.raises(InputError, match=r"augment\.views: needs frozen stages"):
        trained("mistake", model={"augment": {"views": 2}, "frozen_blocks": 0})
    with pytest.raises(InputError, match=r"features=none: model\.augment\.views are stored in the feature cache"):
        trained("mistake", "none", model={"augment": {"views": 2}})
