"""BERTopic finds planted topics, and a run writes the same rows and page every time."""

import re
from collections import Counter
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
from mmgenre.tables.schema import MOVIES, per_genre
from mmgenre.tables.table import Table
from mmgenre.topics.embeddings import text_family
from mmgenre.topics.job import TopicsConfig, describe, topics
from mmgenre.topics.model import NO_TOPIC, TopicModel, TopicModelConfig
from mmgenre.topics.rows import TOPICS

# The first fit compiles UMAP.
pytestmark = pytest.mark.slow
# The words of each kind of movie; the kind is its only genre.
WORDS = {
    "Horror": ["vampire", "coffin", "blood", "castle", "bat", "crypt", "fang"],
    "Sci-Fi": ["planet", "spaceship", "alien", "orbit", "galaxy", "astronaut", "crew"],
    "Romance": ["wedding", "bride", "groom", "honeymoon", "marriage", "kiss", "bouquet"],
}
KINDS = list(WORDS)
NUM_EACH, NO_PLOTS = 40, ("tt9000000", "tt9000001")
SMALL = {"min_topic_size": 10, "min_samples": 3, "neighbours": 10}


def make_plots(num_each, seed=0):
    """Plots of each kind, one kind after the other."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS[kind], 6)) for kind in KINDS for _ in range(num_each)]


def make_embeddings(num_each, seed=0):
    """One cluster of embeddings per kind, in the order of `make_plots`."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(len(KINDS), 16))
    return (np.repeat(centres, num_each, 0) + 0.1 * random.normal(size=(len(KINDS) * num_each, 16))).astype(np.float32)


def fit(num_each=NUM_EACH, **settings):
    return TopicModel(make_plots(num_each), make_embeddings(num_each), TopicModelConfig(**SMALL | settings))


def kinds_of(model, found):
    """The kind of each topic number, by the words of the topic."""
    names = [next(kind for kind in KINDS if words[0] in WORDS[kind]) for words in model.words()]
    return [None if number == NO_TOPIC else names[number] for number in found]


@pytest.fixture(scope="module")
def model():
    return fit()


def test_planted_topics_are_found_and_named_by_their_words(model):
    assert model.num_topics == len(KINDS)
    for words in model.words():
        (kind,) = {kind for kind in KINDS if set(words) & set(WORDS[kind])}
        assert set(words) <= set(WORDS[kind])
    right = np.array(kinds_of(model, model.fitted.topics)) == np.repeat(KINDS, NUM_EACH)
    assert right.mean() > 0.95


def test_movies_outside_the_sample_get_the_right_topics(model):
    others = make_embeddings(10, seed=1)

    predicted = model.predict(others)

    assert kinds_of(model, predicted.topics) == np.repeat(KINDS, 10).tolist()
    assert ((predicted.probabilities > 0) & (predicted.probabilities <= 1)).all()
    assert kinds_of(model, model.nearest(others)) == np.repeat(KINDS, 10).tolist()


def test_similar_topics_are_merged_down_to_the_given_number():
    merged = fit(topics=2)

    sizes = np.bincount(merged.fitted.topics[merged.fitted.topics != NO_TOPIC])
    assert len(sizes) == merged.num_topics == len(merged.words()) == 2
    assert sizes[0] > 1.8 * sizes[1]


def test_topics_above_the_maximum_share_are_split():
    split = fit(min_topic_size=5, max_topic_share=0.3)

    # Each kind is a third of the movies.
    assert split.num_topics > len(KINDS)
    assert np.bincount(split.fitted.topics[split.fitted.topics != NO_TOPIC]).max() <= 0.3 * len(KINDS) * NUM_EACH
    with pytest.raises(InputError, match=r"of at most max_topic_share=0\.01 of them; lower the one or raise the other"):
        fit(max_topic_share=0.01)


def test_too_few_plots_and_plots_without_common_words_are_refused():
    with pytest.raises(InputError, match=r"movies: 6 plots; expected at least 20 .* give more movies or lower these"):
        fit(num_each=2)
    plots = [f"word{number}" for number in range(len(KINDS) * NUM_EACH)]
    with pytest.raises(InputError, match=r"movies: 120 plots without a common word"):
        TopicModel(plots, make_embeddings(NUM_EACH), TopicModelConfig(**SMALL))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """Holds a checkpoint; even its random weights give plots with the same words similar embeddings."""
    folder = tmp_path_factory.mktemp("topics")
    config = tiny_model.model_copy(update={"vocab_size": 150})
    checkpoint.save(config.build(Movies.of_plots(make_plots(NUM_EACH))), Card(model=config), str(folder / "checkpoint"))
    return folder


def movies_table(write_table, directory):
    """A MOVIES table of all kinds, and two movies without a plot."""
    plots = [*make_plots(NUM_EACH), None, "  "]
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
    """Runs the job; all runs share their embeddings by default."""
    movies = movies_table(write_table, folder / "movies")

    def run(name, **settings):
        defaults = {"checkpoint": f"{folder}/checkpoint", "movies": movies, "output": f"{folder}/{name}"} | SMALL
        return folder / name, topics(TopicsConfig(**(defaults | {"embeddings": f"{folder}/kept"} | settings)))

    return run


def rows_of(output):
    return Table(str(output), TOPICS).read().to_pylist()


def page_files(output):
    """The content of each file of the page."""
    return {path.name: path.read_bytes() for path in sorted(Path(output, "_page").iterdir())}


def unit_times(folder):
    """Modification times of the shared embeddings."""
    return {path: path.stat().st_mtime_ns for path in (folder / "kept").rglob("unit-*")}


def test_every_movie_has_one_row_and_the_page_agrees(run):
    output, manifest = run("first")

    rows = rows_of(output)
    assert pd.read_parquet(output)["imdb_id"].tolist() == [row["imdb_id"] for row in rows]
    assert [row["imdb_id"] for row in rows] == sorted(row["imdb_id"] for row in rows)
    assert manifest.rows == manifest.rows_in == len(rows) == 3 * NUM_EACH + 2
    assert manifest.statuses["no_plot"] == 2
    without_plot = [row for row in rows if row["imdb_id"] in NO_PLOTS]
    assert {(row["status"], row["topic"], row["name"], row["probability"]) for row in without_plot} == {
        ("no_plot", None, None, None)
    }
    lines = [line.split(",") for line in page_files(output)["topics.csv"].decode().splitlines()]
    assert [lines[0][0], lines[-1][0], len(lines)] == ["topic", "-1", manifest.notes["topics"] + 2]
    assert {row["name"] for row in rows if row["topic"] == NO_TOPIC} <= {"no topic"}
    # The movies of a topic are of one kind, and its name has words of this kind.
    for number in range(manifest.notes["topics"]):
        in_topic = [row for row in rows if row["topic"] == number]
        (kind,) = {KINDS[int(row["imdb_id"][2:]) // NUM_EACH] for row in in_topic}
        assert set(in_topic[0]["name"].split(", ")) <= set(WORDS[kind])
    assert re.search(rf"\d+ topics in 120 plots.*{output}/_page/topics.html", describe(manifest, str(output)))
    assert sorted(page_files(output)) == [
        "topics.csv", "topics.html", "topics.md", "topics_by_genre.png", "topics_by_genre.svg"
    ]  # fmt: skip


def test_order_and_file_format_of_the_movies_do_not_change_a_byte(run, folder):
    output, _ = run("first")
    rows = Table(f"{folder}/movies").read(["imdb_id", "title", "plot"])
    order = np.random.default_rng(3).permutation(len(rows))
    pacsv.write_csv(rows.take(pa.array(order)), folder / "shuffled.csv")

    other, _ = run("shuffled", movies=f"{folder}/shuffled.csv", genres=f"{folder}/movies", embeddings=None)

    assert rows_of(other) == rows_of(output)
    assert page_files(other) == page_files(output)


def test_mistakes_are_found_before_embedding(run, folder, monkeypatch):
    """Embedding many movies takes hours."""
    pacsv.write_csv(Table(f"{folder}/movies").read(["imdb_id", "plot"]).slice(0, 6), folder / "few.csv")
    few = {"movies": f"{folder}/few.csv", "embeddings": f"{folder}/none"}

    with pytest.raises(InputError, match="first: no genres; expected a MOVIES, CATALOG or PREDICTIONS folder"):
        run("mistaken", **few, genres=run("first")[0].as_posix())
    with pytest.raises(InputError, match="6 plots; expected at least 20"):
        run("mistaken", **few)
    monkeypatch.setattr("mmgenre.topics.model.PACKAGES", ("umap", "no_such_package"))
    with pytest.raises(InputError, match=r"needs no_such_package; pip install 'mmgenre\[topics\]'"):
        run("mistaken")
    assert not list((folder / "none").rglob("unit-*"))


def test_a_finished_output_is_kept_and_other_settings_are_refused(run, folder):
    _, manifest = run("first")
    before = unit_times(folder)

    assert run("first")[1] == manifest
    with pytest.raises(InputError, match=r"min_samples: 2, not 3.*overwrite=true"):
        run("first", min_samples=2)
    assert unit_times(folder) == before


def test_topics_of_a_sample_are_assigned_to_all_movies_without_outliers(run, folder):
    _, first = run("first")
    before = unit_times(folder)

    output, manifest = run("sample", sample=60, reduce_outliers=True)

    assert manifest.fingerprint != first.fingerprint
    # Embeddings are shared between runs with different settings.
    assert before
    assert unit_times(folder) == before
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
    ("family", "reason"),
    [({"family": "tfidf"}, "tfidf model counts words"), ({"family": "vgg"}, "vgg model reads posters")],
)
def test_models_without_plot_embeddings_are_refused(family, reason):
    card = Card.model_validate({"model": family})

    with pytest.raises(InputError, match=f"DIR: .*{reason}; choose the checkpoint of a transformer") as refusal:
        text_family(card, "DIR")
    assert "\n" not in str(refusal.value)


def test_a_fusion_embeds_plots_with_its_text_tower():
    def fusion(text):
        towers = {"text": {"model": {"family": text}}, "image": {"model": {"family": "vgg"}}}
        return Card.model_validate({"model": {"family": "late_fusion"} | towers})

    assert text_family(fusion("bilstm"), "DIR").columns == ("plot",)
    with pytest.raises(InputError, match="counts words"):
        text_family(fusion("tfidf"), "DIR")
