"""What the report computes, on arrays made by hand and against scikit-learn."""

import numpy as np
import pytest
from predictions import one_genre, predictions
from sklearn.metrics import auc, average_precision_score, f1_score, precision_recall_curve

from mmgenre.labels import GENRES
from mmgenre.report.charts import short, slug
from mmgenre.report.confusion import confusion
from mmgenre.report.genre_intervals import genre_intervals
from mmgenre.report.mistakes import most_confident
from mmgenre.report.movie_counts import co_occurrence, conditional, genres_per_movie, length_bins
from mmgenre.report.movies import excerpt, thumbnail
from mmgenre.report.thresholds import Cutoffs
from mmgenre.scoring.curves import f1_by_cutoff, precision_recall, reliability, wilson
from mmgenre.scoring.metrics import Bootstrap, expected_calibration_error, intervals, resampled_scores
from mmgenre.tables.manifest import Manifest, Recipe

ACTION, ADVENTURE, COMEDY = range(3)


def labels_of(*movies):
    """Multi-hot rows of movies given as tuples of places."""
    labels = np.zeros((len(movies), 9), np.float32)
    for row, genres in enumerate(movies):
        labels[row, list(genres)] = 1
    return labels


def test_genres_of_a_movie_are_counted_from_none_on():
    assert genres_per_movie(labels_of((), (0,), (1, 2), (3, 4, 5), (0,))).tolist() == [1, 2, 1, 1]


def test_genres_that_go_together_are_counted_and_divided_by_the_rows_genre():
    counts = co_occurrence(labels_of((ACTION, COMEDY), (ACTION,), (ACTION, COMEDY), (COMEDY,), (ACTION,)))
    shares = conditional(counts)

    assert counts[:3, :3].tolist() == [[4, 0, 2], [0, 0, 0], [2, 0, 3]]
    assert shares[ACTION, COMEDY] == 2 / 4
    assert shares[COMEDY, ACTION] == 2 / 3
    assert np.isnan(shares[ADVENTURE]).all()
    assert shares[ACTION, ADVENTURE] == 0


def test_plots_are_counted_in_bins_that_each_of_them_lies_in():
    words = np.array([0, 1, 9, 10, 11, 99, 100, 1000, 8237])
    edges, counts = length_bins(words)

    assert counts.sum() == 8
    assert np.allclose(edges[1:] / edges[:-1], 10**0.125)
    found = np.histogram(words[words > 0], bins=edges * (1 - 1e-6))[0]
    assert counts.tolist() == found.tolist()
    assert all(len(part) == 0 for part in length_bins(np.zeros(3, int)))


def test_f1_at_a_cutoff_is_scikit_learns():
    chances, labels = predictions(300, levels=50)
    cutoffs = np.array([0.0, 0.1, 0.34, 0.5, 0.98, 1.0])
    found = f1_by_cutoff(chances, labels, cutoffs)

    for place, cutoff in enumerate(cutoffs):
        expected = f1_score(labels, chances >= cutoff, average=None, zero_division=0)
        assert found[place] == pytest.approx(expected)


def test_f1_of_a_genre_that_no_movie_has_is_zero():
    assert not f1_by_cutoff(np.full((4, 9), 0.5), np.zeros((4, 9)), np.array([0.2, 0.7])).any()


def test_precision_and_recall_are_scikit_learns_at_every_cutoff():
    chances, labels = predictions(120, levels=20)
    recall, precision = precision_recall(chances[:, 3], labels[:, 3])
    expected_precision, expected_recall, _ = precision_recall_curve(labels[:, 3], chances[:, 3])

    assert recall == pytest.approx(expected_recall[-2::-1])
    assert precision == pytest.approx(expected_precision[-2::-1])


def test_a_long_curve_becomes_a_short_one_of_the_same_shape():
    chances, labels = predictions(30_000)
    recall, precision = precision_recall(chances[:, 8], labels[:, 8], points=150)

    assert len(recall) <= 150
    assert (np.diff(recall) >= 0).all()
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(labels[:, 8].mean())
    area = auc(recall, precision)
    assert area == pytest.approx(average_precision_score(labels[:, 8], chances[:, 8]), abs=0.01)
    assert all(len(part) == 0 for part in precision_recall(chances[:, 8], np.zeros(30_000)))


def test_reliability_is_of_the_bins_of_the_calibration_error():
    chances = one_genre([0.1, 0.1, 0.1, 0.9, 1.0], rest=0.5)[:, :1]
    truths = np.array([[0], [1], [0], [1], [1]])
    found = reliability(chances, truths, bins=2)

    assert found.promised == pytest.approx([0.1, 0.95])
    assert found.came_true == pytest.approx([1 / 3, 1])
    assert found.counts.tolist() == [3, 2]
    assert found.error == pytest.approx((3 * (1 / 3 - 0.1) + 2 * 0.05) / 5)
    assert (found.low <= found.came_true).all()
    assert (found.came_true <= found.high).all()


def test_the_error_of_all_probabilities_is_the_one_that_evaluate_reports():
    chances, labels = predictions(500)

    assert reliability(chances, labels).error == pytest.approx(expected_calibration_error(chances, labels))


def test_wilsons_interval_is_the_published_one():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    low, high = wilson(np.array([81 / 263, 15 / 148, 0.0, 1 / 29]), np.array([263, 148, 20, 29]))

    assert low == pytest.approx([0.2553, 0.0624, 0.0, 0.0061], abs=5e-5)
    assert high == pytest.approx([0.3662, 0.1605, 0.1611, 0.1718], abs=5e-5)


def test_confusion_is_what_is_given_instead_over_what_is_given_to_all():
    # 20 movies of action, missed: 10 are given comedy wrongly, 5 have it. 40 others: 4 are given comedy wrongly.
    labels = labels_of(*[(ACTION,)] * 15, *[(ACTION, COMEDY)] * 5, *[(ADVENTURE,)] * 40)
    decided = labels_of(
        *[(COMEDY,)] * 10, *[()] * 5, *[(COMEDY,)] * 5, *[(ADVENTURE, COMEDY)] * 4, *[(ADVENTURE,)] * 36
    )
    found = confusion(decided, labels)

    assert found.missed[:3].tolist() == [20, 0, 0]
    assert found.instead[ACTION, COMEDY] == pytest.approx(10 / 15)
    assert found.usual[COMEDY] == pytest.approx(14 / 55)
    assert found.ratio[ACTION, COMEDY] == pytest.approx((10 / 15) / (14 / 55))
    assert found.is_sure[ACTION, COMEDY]
    assert found.largest == (ACTION, COMEDY)
    assert np.isnan(found.ratio[ACTION, ACTION])
    assert np.isnan(found.instead[ADVENTURE]).all()


def test_confusion_that_chance_may_have_made_is_not_called_confusion():
    # 1 of 12 missed movies is given comedy wrongly, and 2 of 100 others: 4 times as often, for one movie.
    labels = labels_of(*[(ACTION,)] * 12, *[(ADVENTURE,)] * 100)
    decided = labels_of((COMEDY,), *[()] * 11, *[(ADVENTURE, COMEDY)] * 2, *[(ADVENTURE,)] * 98)
    found = confusion(decided, labels)

    assert found.ratio[ACTION, COMEDY] > 3
    assert not found.is_sure.any()
    assert found.largest is None


def test_errors_that_know_nothing_of_each_other_are_hardly_ever_called_confusion():
    random, claims = np.random.default_rng(0), 0
    for _ in range(60):
        labels, wrong = (random.random((400, 9)) < share for share in (0.2, 0.1))
        claims += confusion(labels ^ wrong, labels).is_sure.any()

    assert claims <= 3


def test_a_genre_that_is_missed_in_few_movies_says_nothing():
    labels = labels_of(*[(ACTION,)] * 9, *[(ADVENTURE,)] * 30)
    found = confusion(labels_of(*[(COMEDY,)] * 9, *[(ADVENTURE,)] * 30), labels)

    assert found.missed[ACTION] == 9
    assert found.largest is None


def test_the_most_confident_mistakes_come_first_and_once_for_a_movie():
    chances = np.full((5, 9), 0.5)
    chances[0, :2] = 0.9, 0.95
    chances[1, ACTION] = 0.99
    chances[2, COMEDY], chances[3, COMEDY] = 0.01, 0.2
    chances[4, ACTION], chances[4, COMEDY] = np.nan, 1.0
    labels = labels_of((), (ACTION,), (COMEDY,), (COMEDY,), ())
    decided = labels_of((ACTION, ADVENTURE), (ACTION,), (), (), (COMEDY,))
    false, missed = most_confident(chances, decided, labels, 5)

    assert false == [(0, ADVENTURE)]
    assert missed == [(2, COMEDY), (3, COMEDY)]
    assert most_confident(chances, decided, labels, 1)[1] == [(2, COMEDY)]


def test_a_genres_intervals_come_from_the_movies_that_evaluate_draws():
    chances, labels = predictions(200)
    decided, bootstrap = chances >= 0.4, Bootstrap(resamples=60, seed=3)
    found = genre_intervals(decided, labels, bootstrap)
    expected = intervals(resampled_scores(chances, decided, labels, 0.4, bootstrap))

    for place, genre in enumerate(GENRES):
        assert found.f1[place] == pytest.approx(expected[genre])
    precision = (decided & (labels != 0)).sum(axis=0) / decided.sum(axis=0)
    assert (found.precision[:, 0] < precision).all()
    assert (precision < found.precision[:, 1]).all()
    assert (found.recall[:, 0] < found.recall[:, 1]).all()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1234, "1.2k"), (9960, "10k"), (34_400, "34k"), (2e6, "2M")],
)
def test_counts_are_said_in_a_few_letters(count, text):
    assert short(count) == text


def test_names_become_parts_of_file_names():
    assert [slug(name) for name in ("MiniLM v2/../x", "Sci-Fi", "глаз")] == ["minilm-v2-x", "sci-fi", "model"]


def test_an_excerpt_is_one_line_that_says_where_it_was_cut():
    assert excerpt("One\n two\tthree four", 3) == "One two three …"
    assert excerpt("One two three", 3) == "One two three"
    assert excerpt("One", 0) is excerpt(None, 3) is None
    assert excerpt("\u6620\u753b" * 1000, 3) == "\u6620\u753b" * 18 + " …"


def manifest(cutoffs, **asked):
    recipe = Recipe(job="tag", settings={}, inputs={}, finish=asked)
    known = {"notes": {} if cutoffs is None else {"cutoffs": cutoffs}, "recipe": recipe}
    return Manifest.model_construct(**known)


def test_a_cutoff_is_in_use_where_it_alone_decides():
    low, high = [0.3] * 9, [0.6] * 9
    same, other = {"text_only": low, "poster_only": low}, {"text_only": low, "poster_only": high}

    for recorded, asked, statuses, expected, said in (
        (same, {}, ["text_only", "poster_only", "missing"], low, "fitted on the validation split"),
        (same, {"thresholds": "global"}, ["text_only"], low, "fitted"),
        (same, {"thresholds": 0.3}, ["text_only"], low, "which jobs/tag.py was given"),
        (same, {"min_probability": 0.2}, ["text_only"], low, "which jobs/tag.py was given"),
        (other, {}, ["poster_only", "error"], high, "fitted"),
        (other, {}, ["text_only", "poster_only"], None, "other cut-offs decide"),
        (same, {"top_k": 2}, ["text_only"], None, "at most the 2 most probable"),
        (same, {}, ["no_input"], None, "other cut-offs decide"),
        (None, {}, ["text_only"], None, "no cut-offs recorded"),
    ):
        found = Cutoffs.of(manifest(recorded, **asked), statuses)
        assert (None if found.values is None else found.values.tolist()) == expected
        assert said in found.says


def test_a_poster_that_cannot_be_decoded_is_not_shown():
    assert thumbnail(b"\xff\xd8\xffbroken", 100) is thumbnail(None, 100) is None
