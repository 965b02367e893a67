"""Numbers of the report, checked on arrays made by hand and against scikit-learn."""

import numpy as np
import pytest
from predictions import one_genre, predictions
from sklearn.metrics import auc, average_precision_score, f1_score, precision_recall_curve

from mmgenre.labels import GENRES
from mmgenre.report.charts import short, slug
from mmgenre.report.confusion import confusion
from mmgenre.report.mistakes import most_confident
from mmgenre.report.movies import excerpt, thumbnail
from mmgenre.report.movies_section import co_occurrence
from mmgenre.report.scored_model import genre_intervals
from mmgenre.report.thresholds import ThresholdsInUse
from mmgenre.scoring.curves import f1_by_cutoff, precision_recall, reliability, wilson_interval
from mmgenre.scoring.metrics import Bootstrap, confidence_intervals, expected_calibration_error, resampled_scores
from mmgenre.tables.manifest import Manifest, Recipe

ACTION, ADVENTURE, COMEDY = range(3)


def labels_of(*movies):
    """Multi-hot labels of movies given as tuples of genre columns."""
    labels = np.zeros((len(movies), 9), np.float32)
    for row, genres in enumerate(movies):
        labels[row, list(genres)] = 1
    return labels


def test_co_occurrence_counts_pairs_and_divides_by_the_rows_genre():
    counts, shares = co_occurrence(labels_of((ACTION, COMEDY), (ACTION,), (ACTION, COMEDY), (COMEDY,), (ACTION,)))

    assert counts[:3, :3].tolist() == [[4, 0, 2], [0, 0, 0], [2, 0, 3]]
    assert shares[ACTION, COMEDY] == 2 / 4
    assert shares[COMEDY, ACTION] == 2 / 3
    assert np.isnan(shares[ADVENTURE]).all()
    assert shares[ACTION, ADVENTURE] == 0


def test_f1_by_threshold_equals_scikit_learns():
    chances, labels = predictions(300, levels=50)
    cutoffs = np.array([0.0, 0.1, 0.34, 0.5, 0.98, 1.0])
    found = f1_by_cutoff(chances, labels, cutoffs)

    for place, cutoff in enumerate(cutoffs):
        expected = f1_score(labels, chances >= cutoff, average=None, zero_division=0)
        assert found[place] == pytest.approx(expected)


def test_f1_of_a_genre_without_movies_is_zero():
    assert not f1_by_cutoff(np.full((4, 9), 0.5), np.zeros((4, 9)), np.array([0.2, 0.7])).any()


def test_precision_and_recall_equal_scikit_learns_at_every_threshold():
    chances, labels = predictions(120, levels=20)
    recall, precision = precision_recall(chances[:, 3], labels[:, 3])
    expected_precision, expected_recall, _ = precision_recall_curve(labels[:, 3], chances[:, 3])

    assert recall == pytest.approx(expected_recall[-2::-1])
    assert precision == pytest.approx(expected_precision[-2::-1])


def test_a_long_precision_recall_curve_is_thinned_without_changing_its_area():
    chances, labels = predictions(30_000)
    recall, precision = precision_recall(chances[:, 8], labels[:, 8], points=150)

    assert len(recall) <= 150
    assert (np.diff(recall) >= 0).all()
    assert recall[-1] == 1
    assert precision[-1] == pytest.approx(labels[:, 8].mean())
    area = auc(recall, precision)
    assert area == pytest.approx(average_precision_score(labels[:, 8], chances[:, 8]), abs=0.01)
    assert all(len(part) == 0 for part in precision_recall(chances[:, 8], np.zeros(30_000)))


def test_reliability_bins_are_those_of_the_calibration_error():
    chances = one_genre([0.1, 0.1, 0.1, 0.9, 1.0], rest=0.5)[:, :1]
    truths = np.array([[0], [1], [0], [1], [1]])
    found = reliability(chances, truths, bins=2)

    assert found.mean_probability == pytest.approx([0.1, 0.95])
    assert found.positive_share == pytest.approx([1 / 3, 1])
    assert found.counts.tolist() == [3, 2]
    assert found.error == pytest.approx((3 * (1 / 3 - 0.1) + 2 * 0.05) / 5)
    assert (found.low <= found.positive_share).all()
    assert (found.positive_share <= found.high).all()


def test_calibration_error_equals_the_one_evaluate_reports():
    chances, labels = predictions(500)

    assert reliability(chances, labels).error == pytest.approx(expected_calibration_error(chances, labels))


def test_wilson_intervals_equal_published_ones():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    low, high = wilson_interval(np.array([81 / 263, 15 / 148, 0.0, 1 / 29]), np.array([263, 148, 20, 29]))

    assert low == pytest.approx([0.2553, 0.0624, 0.0, 0.0061], abs=5e-5)
    assert high == pytest.approx([0.3662, 0.1605, 0.1611, 0.1718], abs=5e-5)


def test_confusion_divides_the_false_positive_rate_by_the_rate_among_all_movies():
    # 20 missed action movies: 10 are falsely predicted as comedy, 5 are comedies. 40 others: 4 false comedies.
    labels = labels_of(*[(ACTION,)] * 15, *[(ACTION, COMEDY)] * 5, *[(ADVENTURE,)] * 40)
    decided = labels_of(
        *[(COMEDY,)] * 10, *[()] * 5, *[(COMEDY,)] * 5, *[(ADVENTURE, COMEDY)] * 4, *[(ADVENTURE,)] * 36
    )
    found = confusion(decided, labels)

    assert found.missed[:3].tolist() == [20, 0, 0]
    assert found.rate[ACTION, COMEDY] == pytest.approx(10 / 15)
    assert found.base_rate[COMEDY] == pytest.approx(14 / 55)
    assert found.ratio[ACTION, COMEDY] == pytest.approx((10 / 15) / (14 / 55))
    assert found.is_significant[ACTION, COMEDY]
    assert found.largest == (ACTION, COMEDY)
    assert np.isnan(found.ratio[ACTION, ACTION])
    assert np.isnan(found.rate[ADVENTURE]).all()


def test_a_ratio_that_chance_explains_is_not_significant():
    # 1 of 12 missed movies is a false comedy, and 2 of 100 others: 4 times the rate, by a single movie.
    labels = labels_of(*[(ACTION,)] * 12, *[(ADVENTURE,)] * 100)
    decided = labels_of((COMEDY,), *[()] * 11, *[(ADVENTURE, COMEDY)] * 2, *[(ADVENTURE,)] * 98)
    found = confusion(decided, labels)

    assert found.ratio[ACTION, COMEDY] > 3
    assert not found.is_significant.any()
    assert found.largest is None


def test_independent_errors_are_rarely_significant():
    random, claims = np.random.default_rng(0), 0
    for _ in range(60):
        labels, wrong = (random.random((400, 9)) < share for share in (0.2, 0.1))
        claims += confusion(labels ^ wrong, labels).is_significant.any()

    assert claims <= 3


def test_a_genre_missed_in_few_movies_has_no_confusions():
    labels = labels_of(*[(ACTION,)] * 9, *[(ADVENTURE,)] * 30)
    found = confusion(labels_of(*[(COMEDY,)] * 9, *[(ADVENTURE,)] * 30), labels)

    assert found.missed[ACTION] == 9
    assert found.largest is None


def test_most_confident_mistakes_come_first_and_once_per_movie():
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


def test_genre_intervals_use_the_resamples_of_evaluate():
    chances, labels = predictions(200)
    decided, bootstrap = chances >= 0.4, Bootstrap(resamples=60, seed=3)
    by_score = genre_intervals(decided, labels, bootstrap)
    expected = confidence_intervals(resampled_scores(chances, decided, labels, 0.4, bootstrap))

    for column, genre in enumerate(GENRES):
        assert by_score["f1"][column] == pytest.approx(expected[genre])
    precision = (decided & (labels != 0)).sum(axis=0) / decided.sum(axis=0)
    assert (by_score["precision"][:, 0] < precision).all()
    assert (precision < by_score["precision"][:, 1]).all()
    assert (by_score["recall"][:, 0] < by_score["recall"][:, 1]).all()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (1234, "1.2k"), (9960, "10k"), (34_400, "34k"), (2e6, "2M")],
)
def test_short_counts_have_two_digits(count, text):
    assert short(count) == text


def test_slugs_are_safe_parts_of_file_names():
    assert [slug(name) for name in ("MiniLM v2/../x", "Sci-Fi", "глаз")] == ["minilm-v2-x", "sci-fi", "model"]


def test_an_excerpt_is_one_line_that_ends_in_dots_where_it_is_cut():
    assert excerpt("One\n two\tthree four", 3) == "One two three …"
    assert excerpt("One two three", 3) == "One two three"
    assert excerpt("One", 0) is excerpt(None, 3) is None
    assert excerpt("\u6620\u753b" * 1000, 3) == "\u6620\u753b" * 18 + " …"


def manifest(cutoffs, **settings):
    recipe = Recipe(job="tag", settings={}, inputs={}, finish=settings)
    return Manifest.model_construct(notes={} if cutoffs is None else {"cutoffs": cutoffs}, recipe=recipe)


def test_a_threshold_is_in_use_only_if_it_decided_for_all_movies():
    low, high = [0.3] * 9, [0.6] * 9
    same, different = {"text_only": low, "poster_only": low}, {"text_only": low, "poster_only": high}

    for recorded, settings, statuses, expected, origin in (
        (same, {}, ["text_only", "poster_only", "missing"], low, "fitted on the validation split"),
        (same, {"thresholds": "global"}, ["text_only"], low, "fitted"),
        (same, {"thresholds": 0.3}, ["text_only"], low, "given to jobs/tag.py"),
        (same, {"min_probability": 0.2}, ["text_only"], low, "given to jobs/tag.py"),
        (different, {}, ["poster_only", "error"], high, "fitted"),
        (different, {}, ["text_only", "poster_only"], None, "thresholds of their own"),
        (same, {"top_k": 2}, ["text_only"], None, "only the top 2 genres"),
        (same, {}, ["no_input"], None, "thresholds of their own"),
        (None, {}, ["text_only"], None, "No thresholds are recorded"),
    ):
        in_use = ThresholdsInUse.of(manifest(recorded, **settings), statuses)
        assert (None if in_use.values is None else in_use.values.tolist()) == expected
        assert origin in in_use.origin


def test_a_poster_that_cannot_be_decoded_has_no_thumbnail():
    assert thumbnail(b"\xff\xd8\xffbroken", 100) is thumbnail(None, 100) is None
