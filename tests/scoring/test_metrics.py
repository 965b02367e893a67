"""Scores and their confidence intervals."""

import time
import tracemalloc

import numpy as np
import pytest
from predictions import one_genre, predictions
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from mmgenre.labels import GENRES
from mmgenre.scoring.metrics import (
    Bootstrap,
    confidence_intervals,
    expected_calibration_error,
    resampled_scores,
    scores,
)
from mmgenre.scoring.thresholds import decide


def test_calibration_error_is_the_distance_between_probability_and_frequency():
    labels = np.zeros((10, 9))
    labels[:3] = 1

    assert expected_calibration_error(np.full((10, 9), 0.3), labels) == pytest.approx(0)
    assert expected_calibration_error(np.full((10, 9), 0.5), labels) == pytest.approx(0.2)
    assert expected_calibration_error(np.ones((10, 9)), labels) == pytest.approx(0.7)


# Scores


def test_scores_match_a_calculation_by_hand():
    # Movie 1 has Action and Comedy, predicted Action and Crime; movie 2 has Comedy, predicted Comedy.
    labels, decided = np.zeros((2, 9)), np.zeros((2, 9))
    labels[0, [0, 2]] = labels[1, 2] = 1
    decided[0, [0, 3]] = decided[1, 2] = 1
    chances = decided * 0.8 + 0.1

    found = scores(chances, decided, labels, 0.5)

    assert found.micro.f1 == pytest.approx(2 / 3)
    assert found.macro.f1 == pytest.approx((1 + 2 / 3) / 9)
    assert found.weighted.f1 == pytest.approx((1 + 2 * 2 / 3) / 3)
    assert found.samples.f1 == pytest.approx((0.5 + 1) / 2)
    precision, recall = 2 / 9, 1.5 / 9
    assert found.f1_of_averages == pytest.approx(2 * precision * recall / (precision + recall))
    assert found.mean_average_precision == pytest.approx(1.0)
    assert found.hamming_loss == pytest.approx(2 / 18)
    assert found.subset_accuracy == 0.5
    comedy = found.genres[2]
    assert (comedy.genre, comedy.precision, comedy.recall, comedy.support, comedy.predicted) == ("Comedy", 1, 0.5, 2, 1)


def test_f1_of_averages_uses_the_global_threshold_instead_of_the_decisions():
    chances, labels = predictions(200)
    at = [scores(chances, decide(chances, cutoff), labels, 0.3) for cutoff in (0.1, 0.9)]
    precision, recall, f1, _ = precision_recall_fscore_support(labels, chances >= 0.3, average="macro")

    assert at[0].macro.f1 != at[1].macro.f1
    assert at[0].f1_of_averages == at[1].f1_of_averages == pytest.approx(2 * precision * recall / (precision + recall))
    assert at[0].f1_of_averages > f1


def test_a_genre_without_movies_counts_in_macro_f1_but_not_in_map():
    chances, labels = one_genre([0.9, 0.1]), one_genre([1, 0])

    found = scores(chances, decide(chances, 0.5), labels, 0.5)

    assert found.genres[1].average_precision is None
    assert (found.macro.f1, found.mean_average_precision) == (pytest.approx(1 / 9), 1.0)


def test_scores_round_trip_through_json():
    chances, labels = one_genre([0.9, 0.1]), one_genre([1, 0])
    found = scores(chances, decide(chances, 0.5), labels, 0.5)

    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_scoring_rejects_no_movies_and_mismatched_decisions():
    nothing, (chances, labels) = np.zeros((0, 9)), predictions(4)

    with pytest.raises(ValueError, match="no movies to score"):
        scores(nothing, nothing, nothing, 0.5)
    with pytest.raises(ValueError, match=r"decisions have shape \(3, 9\)"):
        scores(chances, labels[:3], labels, 0.5)


# Intervals


def bootstrap_intervals(chances, decided, labels, threshold, bootstrap=None):
    return confidence_intervals(resampled_scores(chances, decided, labels, threshold, bootstrap or Bootstrap()))


@pytest.mark.parametrize("levels", [None, 5])
def test_a_bootstrap_sample_scores_like_its_rows_in_scikit_learn(levels):
    chances, labels = predictions(120, levels=levels)
    labels[:, 4] = 0
    decided = decide(chances, np.linspace(0.2, 0.6, 9))
    found = bootstrap_intervals(chances, decided, labels, 0.4, Bootstrap(resamples=1, seed=5))

    rows = np.random.default_rng(5).integers(120, size=(1, 120))[0]
    expected = scores(chances[rows], decided[rows], labels[rows], 0.4)

    for name in ("micro", "macro", "weighted", "samples"):
        assert found[f"{name}_f1"] == pytest.approx([getattr(expected, name).f1] * 2)
    for name in ("mean_average_precision", "f1_of_averages"):
        assert found[name] == pytest.approx([getattr(expected, name)] * 2)
    for column, genre in enumerate(GENRES):
        assert found[genre] == pytest.approx([expected.genres[column].f1] * 2)


def test_bootstrap_samples_of_a_single_movie_are_that_movie():
    chances, labels = predictions(1, seed=2)
    labels[0, :4] = 1
    found = bootstrap_intervals(chances, labels, labels, 0.5)

    low, high = found["mean_average_precision"]
    assert low == high == average_precision_score(labels[0, :1], chances[0, :1])
    assert found["samples_f1"] == (1, 1)


def test_intervals_contain_the_score_and_narrow_with_more_movies():
    widths = []
    for num_movies in (200, 3200):
        chances, labels = predictions(num_movies)
        decided = decide(chances, 0.4)
        found = scores(chances, decided, labels, 0.4)
        low, high = bootstrap_intervals(chances, decided, labels, 0.4, Bootstrap(resamples=200))["macro_f1"]
        assert low < found.macro.f1 < high
        widths.append(high - low)

    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)


def test_intervals_depend_only_on_the_seed():
    chances, labels = predictions(50)
    first, again, other = (
        bootstrap_intervals(chances, labels, labels, 0.5, Bootstrap(resamples=20, seed=seed)) for seed in (1, 1, 2)
    )

    assert first == again != other


def test_intervals_are_fast_for_a_test_split_and_need_little_memory_for_a_catalogue():
    chances, labels = predictions(1300)
    began = time.thread_time()
    bootstrap_intervals(chances, chances > 0.4, labels, 0.4)
    assert time.thread_time() - began < 3

    chances, labels = predictions(100_000)
    tracemalloc.start()
    bootstrap_intervals(chances, chances > 0.4, labels, 0.4, Bootstrap(resamples=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500e6
