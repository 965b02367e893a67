"""Words, figures and pages of topics, without a model and without Ray."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mmgenre.labels import GENRES
from mmgenre.tables.schema import CATALOG, PREDICTIONS, per_genre
from mmgenre.topics.model import NO_TOPIC
from mmgenre.topics.page import heat_maps, to_markdown, to_page
from mmgenre.topics.summary import Summary, Topic, genre_shares, movie_labels, to_csv
from mmgenre.topics.words import PlotTerms, best_words, coherence, distinct_terms, diversity, topic_names


def test_genre_shares_and_lift_match_hand_counts():
    labels = np.zeros((6, 9), np.float32)
    labels[[0, 1, 2], GENRES.index("Horror")] = 1
    labels[[1, 4], GENRES.index("Crime")] = 1
    labels[5] = np.nan

    genres = genre_shares(np.array([0, 0, 1, 1, NO_TOPIC, 1]), labels, 3)

    horror, crime, drama = (GENRES.index(genre) for genre in ("Horror", "Crime", "Drama"))
    assert genres.shares[:2, horror].tolist() == [1.0, 0.5]
    assert genres.shares[:2, crime].tolist() == [0.5, 0.0]
    assert genres.overall[[horror, crime, drama]] == pytest.approx([3 / 5, 2 / 5, 0])
    assert genres.lift[:2, horror] == pytest.approx([5 / 3, 5 / 6])
    assert np.isnan(genres.lift[0, drama])
    assert np.isnan(genres.shares[2]).all()
    assert genre_shares(np.array([0]), np.full((1, 9), np.nan), 1) is None


def test_labels_are_looked_up_by_id(tmp_path, write_table):
    columns = {"imdb_id": ["tt2", "tt1"], "genres": [["Drama"], []]}
    # An empty list means unknown in a catalogue, and no genre in predictions.
    catalog = write_table(tmp_path / "catalog", CATALOG, columns | {"title": ["B", "A"]})
    tags = {"status": ["text_only"] * 2, "probabilities": per_genre(np.full((2, 9), 0.5))}
    predictions = write_table(tmp_path / "tags", PREDICTIONS, columns | tags)

    for directory, first in ((catalog, np.nan), (predictions, 0)):
        labels = movie_labels(["tt1", "tt2", "tt3"], directory)
        assert labels[:, GENRES.index("Drama")] == pytest.approx([first, 1, np.nan], nan_ok=True)
        assert np.isnan(labels[2]).all()


def test_terms_that_share_a_word_are_listed_once():
    counts = {"hong": 20, "hong_kong": 19, "fu": 9, "vampire": 30, "vampire_hunter": 5, "kung_fu": 9, "kung": 9}
    ranked = ["vampire", "vampire_hunter", "hong", "hong_kong", "kung", "fu", "kung_fu"]

    assert distinct_terms(ranked, counts, 9) == ["vampire", "hong_kong", "kung_fu"]
    assert distinct_terms(ranked, counts, 1) == ["vampire"]


def test_words_of_a_topic_occur_in_a_tenth_of_its_movies():
    plots = [f"castle vampire name{number // 2}" for number in range(40)]
    terms = PlotTerms.of([*plots, "castle planet", "castle planet"], 2)
    weights = {"vampire": 2.0, "castle": 1.0, "planet": 0.5} | {f"name{number}": 3.0 for number in range(20)}
    term_weights = np.array([weights.get(name, 0.0) for name in terms.names])
    in_topic = np.arange(42) < 40

    # Each name has the highest weight and two movies; planets are in other movies.
    assert best_words(term_weights, terms, in_topic, 9) == ["vampire", "castle"]
    assert best_words(term_weights, terms, in_topic, 1) == ["vampire"]


def test_terms_count_once_per_plot_and_keep_their_spelling():
    terms = PlotTerms.of(
        ["Planets, planets and Mars!", "The planets don't", "A planet of Mars's own serial killers"], 2
    )

    assert terms.names == ["mar", "planet", "planet_mar"]
    assert list(terms.spelling.values()) == ["mars", "planets", "planet mars"]
    assert terms.counts.toarray().tolist() == [[1, 1, 1], [0, 1, 0], [1, 1, 1]]
    assert terms.documents()[1] == "planet"
    assert "serial_killer" in PlotTerms.of(["serial killers", "a serial killer"], 2).names


def test_topic_names_are_short_and_unique():
    assert topic_names([["a", "b", "c", "d"], ["a", "b", "c", "e"], ["f"], []]) == [
        "a, b, c",
        "a, b, c (2)",
        "f",
        "no words",
    ]


def test_coherence_is_npmi_and_minus_one_for_words_that_share_no_plot():
    terms = PlotTerms.of(["castle vampire", "castle vampire", "planet", "castle planet"], 1)
    disjoint = PlotTerms.of(["castle", "vampire"], 1)
    independent = PlotTerms.of(["castle vampire", "castle", "vampire", "planet"], 1)

    assert coherence(["castle", "vampire"], disjoint) == -1
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
    topics = [
        Topic(0, "vampire, blood", ("vampire", "blood"), 2, 0.5, 0.4, ("Dracula & <sons>",)),
        Topic(1, "wedding", ("wedding",), 1, 0.25, 0.0, ()),
    ]
    genres = genre_shares(np.array([0, 0, 1, NO_TOPIC]), labels, 2)
    return Summary(topics, genres, num_outliers=1, num_plots=4, num_fitted=4, diversity=1.0)


def test_page_is_self_contained_and_escapes_titles(summary):
    page = to_page(summary, heat_maps(summary, 40), 40)

    assert "data:image/png;base64," in page
    assert not re.search(r"(?:src|href|url\()\s*=?\s*[\"'(]?\s*(?:https?:)?//", page)
    assert "Dracula &amp; &lt;sons&gt;" in page
    assert 'alt="Heat-map of topics and genres. vampire, blood: ' not in page  # its lift is only 1.3
    assert "no topic" in page
    assert "wedding: Drama 100%" in page


def test_without_known_genres_there_is_no_heat_map(summary):
    unknown = replace(summary, genres=None)

    page = to_page(unknown, heat_maps(unknown, 40), 40)
    assert heat_maps(unknown, 40) == {}
    assert "<img" not in page + to_markdown(unknown, has_heat_map=False)
    assert "Over-represented genres" not in page
    assert "share_Drama" not in to_csv(unknown)


def test_markdown_and_csv_have_all_figures_and_no_titles(summary):
    text, table = to_markdown(summary, has_heat_map=False), to_csv(summary)

    assert "| 1 | wedding | Drama 100% (×4.0) | 1 | 25.0% | 0.00 |" in text  # noqa: RUF001
    assert "25% of the movies belong to no topic" in text
    assert "Dracula" not in text + table
    lines = table.splitlines()
    assert lines[1].startswith('0,"vampire, blood",2,0.5000,0.400,vampire|blood,')
    assert lines[-1].startswith("-1,no topic,1,0.2500,")
    assert {line.count(",") for line in lines} - {lines[0].count(",") + 1} == {lines[0].count(",")}
    assert summary.top_genres(1) == [("Drama", 1.0, 4.0)]
