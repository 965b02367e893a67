"""Plots with words and embeddings of their own are found again as topics, the same ones every time."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models import Movies, checkpoint
from mmgenre.models.checkpoint import Card
from mmgenre.tables.schema import CATALOG, MOVIES, PREDICTIONS, per_genre
from mmgenre.tables.table import Table
from mmgenre.topics.embeddings import Plots, text_family
from mmgenre.topics.job import TopicsConfig, describe, topics
from mmgenre.topics.model import NO_TOPIC, TopicModel, TopicModelConfig
from mmgenre.topics.page import pictures, to_markdown, to_page
from mmgenre.topics.rows import TOPICS
from mmgenre.topics.summary import Summary, Topic, genre_shares, labels_of, strongest, to_csv
from mmgenre.topics.words import Terms, best_words, coherence, distinct, diversity, names_of

# What the movies of each kind are about, and their one genre.
WORDS = {
    "Horror": ["vampire", "coffin", "blood", "castle", "bat", "crypt", "fang"],
    "Sci-Fi": ["planet", "spaceship", "alien", "orbit", "galaxy", "astronaut", "crew"],
    "Romance": ["wedding", "bride", "groom", "honeymoon", "marriage", "kiss", "bouquet"],
}
KINDS = list(WORDS)
NUM_EACH, NO_PLOTS = 40, ("tt9000000", "tt9000001")
SMALL = {"min_topic_size": 10, "min_samples": 3, "neighbours": 10}


def plots_of(num_each, seed=0):
    """Some plots of each kind."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS[kind], 6)) for kind in KINDS for _ in range(num_each)]


def planted(num_each, seed=0):
    """Plots of each kind, their embeddings near each other and far from the others'."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(len(KINDS), 16))
    values = np.repeat(centres, num_each, 0) + 0.1 * random.normal(size=(len(KINDS) * num_each, 16))
    ids = [f"tt{seed}{number:06}" for number in range(len(values))]
    return Plots(ids, [None] * len(ids), plots_of(num_each, seed), values.astype(np.float32))


def kinds_of(model, found):
    """Which kind each topic number stands for, by the words of the topic."""
    names = [next(kind for kind in KINDS if words[0] in WORDS[kind]) for words in model.words()]
    return [None if number == NO_TOPIC else names[number] for number in found]


@pytest.fixture(scope="module")
def model():
    return TopicModel(planted(NUM_EACH), TopicModelConfig(**SMALL))


def test_planted_topics_are_found_and_named_by_their_words(model):
    assert model.num_topics == len(KINDS)
    for words in model.words():
        (kind,) = {kind for kind in KINDS if set(words) & set(WORDS[kind])}
        assert set(words) <= set(WORDS[kind])
    right = np.array(kinds_of(model, model.assigned.topics)) == np.repeat(KINDS, NUM_EACH)
    assert right.mean() > 0.95


def test_movies_that_topics_were_not_found_in_fall_where_they_belong(model):
    others = planted(10, seed=1)

    found = model.assign(others.values)

    assert kinds_of(model, found.topics) == np.repeat(KINDS, 10).tolist()
    assert ((found.probabilities > 0) & (found.probabilities <= 1)).all()
    assert kinds_of(model, model.nearest(others.values)) == np.repeat(KINDS, 10).tolist()


def test_similar_topics_are_joined_until_there_are_as_many_as_wanted():
    joined = TopicModel(planted(NUM_EACH), TopicModelConfig(**SMALL, topics=2))

    sizes = np.bincount(joined.assigned.topics[joined.assigned.topics != NO_TOPIC])
    assert len(sizes) == joined.num_topics == len(joined.words()) == 2
    assert sizes[0] > 1.8 * sizes[1]


def test_what_holds_too_large_a_share_of_the_movies_is_taken_apart():
    apart = TopicModel(planted(NUM_EACH), TopicModelConfig(**SMALL | {"min_topic_size": 5}, max_topic_share=0.3))

    # The kinds are a third each.
    assert apart.num_topics > len(KINDS)
    assert np.bincount(apart.assigned.topics[apart.assigned.topics != NO_TOPIC]).max() <= 0.3 * len(KINDS) * NUM_EACH
    with pytest.raises(InputError, match=r"no more than max_topic_share=0\.01 of them, are alike; lower the one"):
        TopicModel(planted(NUM_EACH), TopicModelConfig(**SMALL, max_topic_share=0.01))


def test_too_few_plots_and_plots_without_common_words_are_one_line():
    with pytest.raises(InputError, match=r"movies: 6 plots; expected at least 20 .* give more movies, or lower these"):
        TopicModel(planted(2), TopicModelConfig(**SMALL))
    strange = planted(NUM_EACH)
    silent = Plots(strange.ids, strange.titles, [f"word{one}" for one in strange.ids], strange.values)
    with pytest.raises(InputError, match=r"movies: 120 plots without a word in common"):
        TopicModel(silent, TopicModelConfig(**SMALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """Holds a checkpoint: of random weights, under which plots of the same words are alike, too."""
    folder = tmp_path_factory.mktemp("topics")
    config = tiny_model.model_copy(update={"vocab_size": 150})
    checkpoint.save(config.build(Movies.of_plots(plots_of(NUM_EACH))), Card(model=config), str(folder / "checkpoint"))
    return folder


def movies_table(write_table, directory):
    """A MOVIES table of all kinds, and two movies without a plot."""
    plots = [*plots_of(NUM_EACH), None, "  "]
    labels = np.zeros((len(plots), len(GENRES)), np.float32)
    for row in range(len(plots) - 2):
        labels[row, GENRES.index(KINDS[row // NUM_EACH])] = 1
    columns = {
        "imdb_id": [*(f"tt{number:07}" for number in range(len(plots) - 2)), *NO_PLOTS],
        "split": ["train"] * len(plots),
        "title": [f"Title <{row}>" for row in range(len(plots))],
        "plot": plots,
        "labels": per_genre(labels),
    }
    return write_table(directory, MOVIES, columns)


@pytest.fixture(scope="module")
def run(local_ray, folder, write_table):
    """Finds the topics of the movies; each embedding is computed once for all calls."""
    movies = movies_table(write_table, folder / "movies")

    def found(name, **settings):
        values = {"checkpoint": f"{folder}/checkpoint", "movies": movies, "output": f"{folder}/{name}"} | SMALL
        return folder / name, topics(TopicsConfig(**(values | {"embeddings": f"{folder}/kept"} | settings)))

    return found


def rows_of(output):
    return Table(str(output), TOPICS).read().to_pylist()


def files_of(output):
    """What people look at, by name."""
    return {path.name: path.read_bytes() for path in sorted(Path(output, "_page").iterdir())}


def test_every_movie_is_one_row_and_the_files_tell_of_the_same(run):
    output, manifest = run("first")

    rows = rows_of(output)
    assert pd.read_parquet(output)["imdb_id"].tolist() == [row["imdb_id"] for row in rows]
    assert [row["imdb_id"] for row in rows] == sorted(row["imdb_id"] for row in rows)
    assert manifest.rows == manifest.rows_in == len(rows) == 3 * NUM_EACH + 2
    assert manifest.statuses["no_plot"] == 2
    without = [row for row in rows if row["imdb_id"] in NO_PLOTS]
    assert {(row["status"], row["topic"], row["name"], row["probability"]) for row in without} == {
        ("no_plot", None, None, None)
    }
    lines = [line.split(",") for line in files_of(output)["topics.csv"].decode().splitlines()]
    assert [lines[0][0], lines[-1][0], len(lines)] == ["topic", "-1", manifest.notes["topics"] + 2]
    assert {row["name"] for row in rows if row["topic"] == NO_TOPIC} <= {"no topic"}
    # A topic's movies are of one kind, and the topic is called by words of it.
    for number in range(manifest.notes["topics"]):
        mine = [row for row in rows if row["topic"] == number]
        kinds = {KINDS[int(row["imdb_id"][2:]) // NUM_EACH] for row in mine}
        assert len(kinds) == 1
        assert set(mine[0]["name"].split(", ")) <= set(WORDS[kinds.pop()])
    assert re.search(rf"\d+ topics in 120 plots.*{output}/_page/topics.html", describe(manifest, str(output)))
    assert sorted(files_of(output)) == [
        "topics.csv", "topics.html", "topics.md", "topics_by_genre.png", "topics_by_genre.svg"
    ]  # fmt: skip


def test_the_same_movies_in_another_order_and_another_kind_of_file_give_the_same_bytes(run, folder):
    output, _ = run("first")
    rows = Table(f"{folder}/movies").read(["imdb_id", "title", "plot"])
    order = np.random.default_rng(3).permutation(len(rows))
    pacsv.write_csv(rows.take(pa.array(order)), folder / "shuffled.csv")

    other, _ = run("shuffled", movies=f"{folder}/shuffled.csv", genres=f"{folder}/movies", embeddings=None)

    assert rows_of(other) == rows_of(output)
    assert files_of(other) == files_of(output)


def test_mistakes_are_found_before_anything_is_embedded(run, folder, monkeypatch):
    """Which takes hours where movies are many."""
    pacsv.write_csv(Table(f"{folder}/movies").read(["imdb_id", "plot"]).slice(0, 6), folder / "few.csv")
    few = {"movies": f"{folder}/few.csv", "embeddings": f"{folder}/none"}

    with pytest.raises(InputError, match="first: no genres; expected a MOVIES, CATALOG or PREDICTIONS folder"):
        run("mistaken", **few, genres=run("first")[0].as_posix())
    with pytest.raises(InputError, match="6 plots; expected at least 20"):
        run("mistaken", **few)
    monkeypatch.setattr("mmgenre.topics.model._PACKAGES", ("umap", "no_such_package"))
    with pytest.raises(InputError, match=r"needs no_such_package; pip install 'mmgenre\[topics\]'"):
        run("mistaken")
    assert not list((folder / "none").rglob("unit-*"))


def test_what_is_done_is_not_done_again_and_other_settings_do_not_replace_it(run, folder):
    _, manifest = run("first")
    units = {path: path.stat().st_mtime_ns for path in (folder / "kept").rglob("unit-*")}

    assert run("first")[1] == manifest
    with pytest.raises(InputError, match=r"min_samples: 2, not 3.*overwrite=true"):
        run("first", min_samples=2)
    _, replaced = run("replaced", min_samples=2)
    assert replaced.fingerprint != manifest.fingerprint
    assert units
    assert units == {path: path.stat().st_mtime_ns for path in (folder / "kept").rglob("unit-*")}


def test_topics_found_in_a_sample_are_given_to_all_and_none_is_left_without(run):
    output, manifest = run("sample", sample=60, reduce_outliers=True)

    rows = rows_of(output)
    assert manifest.notes["fitted_on"] == 60
    assert manifest.notes["share_without_topic"] == 0
    assert set(manifest.statuses) <= {"topic", "nearest", "no_plot"}
    assert all((row["probability"] is None) == (row["status"] != "topic") for row in rows)
    kinds = [(row["topic"], KINDS[int(row["imdb_id"][2:]) // NUM_EACH]) for row in rows if row["topic"] is not None]
    most = {topic: Counter(kind for other, kind in kinds if other == topic).most_common(1)[0][1] for topic, _ in kinds}
    assert len(most) == manifest.notes["topics"] >= 3
    assert sum(most.values()) > 0.9 * len(kinds)


@pytest.mark.parametrize(
    ("family", "what"),
    [({"family": "tfidf"}, "tfidf model counts words"), ({"family": "vgg"}, "vgg model reads posters")],
)
def test_models_without_embeddings_of_plots_are_refused_in_one_line(family, what):
    card = Card.model_validate({"model": family})

    with pytest.raises(InputError, match=f"DIR: its {what}, .*give the checkpoint of a transformer") as refusal:
        text_family(card, "DIR")
    assert "\n" not in str(refusal.value)


def test_the_text_tower_of_a_fusion_is_what_is_taken():
    def fusion(text):
        towers = {"text": {"model": {"family": text}}, "image": {"model": {"family": "vgg"}}}
        return Card.model_validate({"model": {"family": "late_fusion"} | towers})

    assert text_family(fusion("bilstm"), "DIR").columns == ("plot",)
    with pytest.raises(InputError, match="counts words"):
        text_family(fusion("tfidf"), "DIR")


def test_shares_and_lift_are_those_counted_by_hand():
    labels = np.zeros((6, 9), np.float32)
    labels[[0, 1, 2], GENRES.index("Horror")] = 1
    labels[[1, 4], GENRES.index("Crime")] = 1
    labels[5] = np.nan

    found = genre_shares(np.array([0, 0, 1, 1, NO_TOPIC, 1]), labels, 3)

    horror, crime, drama = (GENRES.index(genre) for genre in ("Horror", "Crime", "Drama"))
    assert found.shares[:2, horror].tolist() == [1.0, 0.5]
    assert found.shares[:2, crime].tolist() == [0.5, 0.0]
    assert found.overall[[horror, crime, drama]] == pytest.approx([3 / 5, 2 / 5, 0])
    assert found.lift[:2, horror] == pytest.approx([5 / 3, 5 / 6])
    assert np.isnan(found.lift[0, drama])
    assert np.isnan(found.shares[2]).all()
    assert genre_shares(np.array([0]), np.full((1, 9), np.nan), 1) is None


def test_genres_are_found_by_the_movies_ids(tmp_path, write_table):
    columns = {"imdb_id": ["tt2", "tt1"], "genres": [["Drama"], []]}
    # An empty list is a dump's way to say that it does not know, and a model's that there are none.
    catalogue = write_table(tmp_path / "catalog", CATALOG, columns | {"title": ["B", "A"]})
    tags = {"status": ["text_only"] * 2, "probabilities": per_genre(np.full((2, 9), 0.5))}
    predicted = write_table(tmp_path / "tags", PREDICTIONS, columns | tags)

    for place, of_first in ((catalogue, np.nan), (predicted, 0)):
        labels = labels_of(["tt1", "tt2", "tt3"], place)
        assert labels[:, GENRES.index("Drama")] == pytest.approx([of_first, 1, np.nan], nan_ok=True)
        assert np.isnan(labels[2]).all()


def test_words_that_say_the_same_are_said_once():
    counts = {"hong": 20, "hong_kong": 19, "fu": 9, "vampire": 30, "vampire_hunter": 5, "kung_fu": 9, "kung": 9}
    ranked = ["vampire", "vampire_hunter", "hong", "hong_kong", "kung", "fu", "kung_fu"]

    assert distinct(ranked, counts, 9) == ["vampire", "hong_kong", "kung_fu"]
    assert distinct(ranked, counts, 1) == ["vampire"]


def test_a_topic_has_the_best_words_that_a_tenth_of_its_movies_have():
    plots = [f"castle vampire name{number // 2}" for number in range(40)]
    terms = Terms.of([*plots, "castle planet", "castle planet"], 2)
    weights = {"vampire": 2.0, "castle": 1.0, "planet": 0.5} | {f"name{number}": 3.0 for number in range(20)}
    of_terms = np.array([weights.get(name, 0.0) for name in terms.names])

    found = best_words(of_terms, terms, np.arange(42) < 40, 9)

    # Each name is in two movies of it, and would come first; no movie of it has a planet.
    assert found == ["vampire", "castle"]
    assert best_words(of_terms, terms, np.arange(42) < 40, 1) == ["vampire"]


def test_terms_are_spelled_as_plots_do_and_counted_once_a_plot():
    terms = Terms.of(["Planets, planets and Mars!", "The planets don't", "A planet of Mars's own serial killers"], 2)

    assert terms.names == ["mar", "planet", "planet_mar"]
    assert list(terms.spelled.values()) == ["mars", "planets", "planet mars"]
    assert terms.counts.toarray().tolist() == [[1, 1, 1], [0, 1, 0], [1, 1, 1]]
    assert terms.documents()[1] == "planet"
    assert "serial_killer" in Terms.of(["serial killers", "a serial killer"], 2).names


def test_names_are_short_and_all_different():
    assert names_of([["a", "b", "c", "d"], ["a", "b", "c", "e"], ["f"], []]) == [
        "a, b, c",
        "a, b, c (2)",
        "f",
        "no words",
    ]


def test_coherence_is_one_for_words_always_together_and_minus_one_for_words_never():
    terms = Terms.of(["castle vampire", "castle vampire", "planet", "castle planet"], 1)
    apart = Terms.of(["castle", "vampire"], 1)
    independent = Terms.of(["castle vampire", "castle", "vampire", "planet"], 1)

    assert coherence(["castle", "vampire"], apart) == -1
    assert coherence(["castle", "vampire"], independent) == pytest.approx(0)
    # p = 1/2 together, 3/4 and 1/2 alone.
    assert coherence(["castle", "vampire"], terms) == pytest.approx(np.log(0.5 / (0.75 * 0.5)) / -np.log(0.5))
    assert coherence(["castle"], terms) == 0
    assert diversity([["a", "b"], ["b", "c"]]) == 0.75


@pytest.fixture(scope="module")
def summary():
    labels = np.zeros((4, 9), np.float32)
    labels[[0, 1, 3], GENRES.index("Horror")] = 1
    labels[2, GENRES.index("Drama")] = 1
    numbers = np.array([0, 0, 1, NO_TOPIC])
    found = [
        Topic(0, "vampire, blood", ("vampire", "blood"), 2, 0.5, 0.4, ("Dracula & <sons>",)),
        Topic(1, "wedding", ("wedding",), 1, 0.25, 0.0, ()),
    ]
    return Summary(found, genre_shares(numbers, labels, 2), without=1, plots=4, fitted_on=4, diversity=1.0)


def test_the_page_fetches_nothing_and_escapes_titles(summary):
    page = to_page(summary, pictures(summary, 40), 40)

    assert "data:image/png;base64," in page
    assert not re.search(r"(?:src|href|url\()\s*=?\s*[\"'(]?\s*(?:https?:)?//", page)
    assert "Dracula &amp; &lt;sons&gt;" in page
    assert 'alt="Heat-map of topics and genres. vampire, blood: ' not in page  # lift 1.3 is not far above
    assert "no topic" in page
    assert "wedding: Drama 100%" in page


def test_without_known_genres_there_is_no_heat_map(summary):
    unknown = replace(summary, genres=None)

    page = to_page(unknown, pictures(unknown, 40), 40)
    assert pictures(unknown, 40) == {}
    assert "<img" not in page + to_markdown(unknown, {})
    assert "Genres far above" not in page
    assert "share_Drama" not in to_csv(unknown)


def test_markdown_and_csv_have_the_figures_and_no_title(summary):
    text, table = to_markdown(summary, {}), to_csv(summary)

    assert "| 1 | wedding | Drama 100% (×4.0) | 1 | 25.0% | 0.00 |" in text  # noqa: RUF001
    assert "25% of the movies are of no topic" in text
    assert "Dracula" not in text + table
    lines = table.splitlines()
    assert lines[1].startswith('0,"vampire, blood",2,0.5000,0.400,vampire|blood,')
    assert lines[-1].startswith("-1,no topic,1,0.2500,")
    assert {line.count(",") for line in lines} - {lines[0].count(",") + 1} == {lines[0].count(",")}
    assert strongest(summary, 1) == [("Drama", 1.0, 4.0)]
