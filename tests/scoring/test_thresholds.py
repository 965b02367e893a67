"""Cut-offs and calibration."""

import numpy as np
import pytest
from predictions import one_genre, predictions
from scipy.special import expit, logit
from sklearn.metrics import f1_score

from mmgenre.scoring.metrics import expected_calibration_error, held_out_scores
from mmgenre.scoring.thresholds import (
    HeldOutDecisions,
    Thresholds,
    best_global_threshold,
    best_thresholds,
    calibrate,
    decide,
    fit_temperature,
    fit_thresholds,
    probabilities,
)


def f1_at(cutoffs, chances, labels):
    """Each genre's F1."""
    decided = chances >= cutoffs
    hits = (decided * labels).sum(axis=0)
    return 2 * hits / np.maximum(decided.sum(axis=0) + labels.sum(axis=0), 1)


# Cut-offs


def test_global_cutoff_is_midway_between_the_scores_it_separates():
    assert best_global_threshold(one_genre([0.9, 0.7, 0.3, 0.2]), one_genre([1, 1, 0, 0])) == pytest.approx(0.5)


def test_global_cutoff_trades_a_false_positive_for_a_hit():
    # Down to 0.4: 2 of 3 right, all found, F1 0.8; down to 0.8: F1 2/3.
    assert best_global_threshold(one_genre([0.8, 0.6, 0.4, 0.2]), one_genre([1, 0, 1, 0])) == pytest.approx(0.3)


def test_movies_with_equal_scores_are_predicted_together():
    scores, labels = one_genre([0.6, 0.6, 0.6, 0.1]), one_genre([1, 0, 0, 1])

    assert best_global_threshold(scores, labels) == pytest.approx(0.05)


def test_a_genre_without_positive_labels_gets_a_cutoff_of_one_half():
    scores, labels = one_genre([0.9, 0.1], rest=0.7), one_genre([1, 0])

    assert best_thresholds(scores, labels)[1:].tolist() == [0.5] * 8
    assert best_global_threshold(scores, np.zeros((2, 9))) == 0.5


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_cutoff_between_adjacent_floats_separates_them(kind):
    first = kind(0.3)
    second = np.nextafter(first, kind(1))
    labels = one_genre([1, 0])

    # Two pairs, because the mean of one of them rounds down.
    for low, high in [(first, second), (second, np.nextafter(second, kind(1)))]:
        chances = one_genre([high, low]).astype(kind)
        assert decide(chances, best_global_threshold(chances, labels))[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("levels", [None, 10])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_global_cutoff_scores_higher_on_the_fitted_movies(seed, levels):
    chances, labels = predictions(60, seed, levels=levels)
    together = best_global_threshold(chances, labels)
    others = [f1_at(cutoff, chances, labels).mean() for cutoff in np.unique(np.append(chances, [0.5, 1.1]))]

    assert f1_at(together, chances, labels).mean() == pytest.approx(max(others))


def test_cutoff_of_calibrated_probabilities_is_half_of_the_best_f1():
    chances = np.random.default_rng(0).beta(1, 3, (20_000, 9))
    labels = np.random.default_rng(1).random(chances.shape) < chances
    best = max(f1_at(cutoff, chances, labels).mean() for cutoff in np.linspace(0.1, 0.5, 41))

    assert best_thresholds(chances, labels) == pytest.approx(np.full(9, best / 2), abs=0.01)


@pytest.mark.parametrize(("slope", "shift"), [(0.5, 0.0), (3.0, -1.0), (1.0, 1.0)])
def test_cutoffs_follow_the_scale_of_the_probabilities(slope, shift):
    chances, labels = predictions(2000)
    moved = expit(slope * logit(chances) + shift)

    decided = decide(moved, best_thresholds(moved, labels))

    assert (decided == decide(chances, best_thresholds(chances, labels))).mean() > 0.98


def test_cutoffs_from_few_movies_generalize_better_than_the_empirical_optimum():
    chances, labels = predictions(10_000, knowledge=1)
    ours, optimum = [], []
    for few in np.split(np.arange(1000), 10):
        candidates = np.unique(chances[few])
        f1 = np.stack([f1_at(cutoff, chances[few], labels[few]) for cutoff in candidates])
        optimum.append(f1_at(candidates[f1.argmax(axis=0)], chances[1000:], labels[1000:]).mean())
        ours.append(f1_at(best_thresholds(chances[few], labels[few]), chances[1000:], labels[1000:]).mean())

    assert np.mean(ours) > np.mean(optimum) + 0.01


def test_genres_with_different_scales_get_cutoffs_of_their_own():
    labels = predictions(400)[1]
    chances = labels * 0.05 + np.linspace(0.1, 0.9, 9) + np.random.default_rng(0).normal(0, 0.005, labels.shape)

    fitted = fit_thresholds(chances, labels)

    assert fitted.kind == "per_genre"
    assert fitted.cutoffs().tolist() == list(fitted.per_genre)


def test_the_kind_is_chosen_by_macro_f1_on_held_out_movies():
    used = []
    for seed in range(4):
        chances, labels = predictions(40, seed, frequencies=0.3)
        held_out = HeldOutDecisions.of(chances, labels)
        per_genre, together = (
            f1_score(labels, decided, average="macro") for decided in (held_out.per_genre, held_out.with_global)
        )
        used.append(fit_thresholds(chances, labels).kind)
        assert used[-1] == ("per_genre" if per_genre > together else "global")

    assert set(used) == {"per_genre", "global"}


def test_held_out_decisions_do_not_depend_on_the_held_out_labels():
    chances, labels = predictions(30, knowledge=0)
    fold = np.random.default_rng(0).permutation(np.arange(30) % 5) == 0

    other = np.where(fold[:, None], 1 - labels, labels)

    assert (
        HeldOutDecisions.of(chances, other).per_genre[fold] == HeldOutDecisions.of(chances, labels).per_genre[fold]
    ).all()


def test_movies_of_one_group_are_held_out_together():
    """Movies with equal plots have equal probabilities; a copy among the others would tell their labels."""
    chances, labels = predictions(30, knowledge=0)
    groups = np.random.default_rng(1).permutation(np.arange(30) % 11)
    fold = np.random.default_rng(0).permutation(np.arange(11) % 5)
    first = {group: number for number, group in enumerate(dict.fromkeys(groups.tolist()))}
    out = np.array([fold[first[group]] == 2 for group in groups.tolist()])
    assert 0 < out.sum() < 30

    other = np.where(out[:, None], 1 - labels, labels)

    held_out, changed = (HeldOutDecisions.of(chances, values, groups=groups) for values in (labels, other))
    assert (held_out.per_genre[out] == changed.per_genre[out]).all()
    assert (held_out.with_global[out] == changed.with_global[out]).all()


def test_groups_of_one_movie_and_their_numbers_change_nothing():
    chances, labels = predictions(40)
    alone = HeldOutDecisions.of(chances, labels, seed=2)

    numbered = HeldOutDecisions.of(chances, labels, groups=np.random.default_rng(0).permutation(40), seed=2)

    assert (alone.per_genre == numbered.per_genre).all()
    assert calibrate(chances, labels) == calibrate(chances, labels, groups=np.arange(40) * 7)


def test_another_seed_draws_other_folds():
    chances, labels = predictions(60, knowledge=1)

    assert held_out_scores(chances, labels, seed=0) == held_out_scores(chances, labels)
    assert len({held_out_scores(chances, labels, seed=seed)["macro_f1"] for seed in range(4)}) > 1


def test_fitting_is_deterministic():
    chances, labels = predictions(100)

    assert fit_thresholds(chances, labels, seed=3) == fit_thresholds(chances, labels, seed=3)


@pytest.mark.parametrize("num_movies", [1, 2])
def test_one_or_two_movies_are_enough_to_fit_thresholds(num_movies):
    chances, labels = predictions(num_movies)

    assert fit_thresholds(chances, labels).kind == "global"


def test_thresholds_round_trip_through_json():
    fitted = fit_thresholds(*predictions(50))

    assert Thresholds.model_validate_json(fitted.model_dump_json()) == fitted


def test_thresholds_are_nine_numbers_between_0_and_1():
    with pytest.raises(ValueError, match="at least 9"):
        Thresholds(per_genre=(0.5,) * 8, global_threshold=0.5, kind="global")
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Thresholds(per_genre=(0.5,) * 9, global_threshold=1.5, kind="global")


def test_a_probability_equal_to_its_cutoff_is_predicted():
    assert decide(np.full((1, 9), 0.5, np.float32), 0.5).all()


@pytest.mark.parametrize("fit", [best_thresholds, best_global_threshold, fit_thresholds, fit_temperature])
def test_mismatched_arrays_are_rejected(fit):
    values, labels = predictions(4)

    with pytest.raises(ValueError, match=r"values have shape \(4, 9\), labels \(3, 9\)"):
        fit(values, labels[:3])
    with pytest.raises(ValueError, match=r"expected \(N, 9\)"):
        fit(values[:, :8], labels[:, :8])
    with pytest.raises(ValueError, match="1 values are not finite"):
        fit(np.where(np.arange(36).reshape(4, 9) == 5, np.nan, values), labels)


@pytest.mark.parametrize("fit", [fit_thresholds, fit_temperature])
def test_fitting_on_no_movies_is_rejected(fit):
    with pytest.raises(ValueError, match="no movies"):
        fit(np.zeros((0, 9)), np.zeros((0, 9)))


# Calibration


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fit_recovers_the_temperature_applied_to_calibrated_logits(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (5000, 9))
    labels = rng.random(logits.shape) < probabilities(logits, 1.0)

    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


def test_calibration_lowers_the_calibration_error_and_preserves_the_order():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2000, 9))
    labels = rng.random(logits.shape) < probabilities(logits, 1.0)
    overconfident = (logits * 4).astype(np.float32)

    before = probabilities(overconfident, 1.0)
    after = probabilities(overconfident, fit_temperature(overconfident, labels))

    assert expected_calibration_error(before, labels) > 0.1
    assert expected_calibration_error(after, labels) < 0.02
    assert after.dtype == np.float64
    assert (np.argsort(after[:, 0]) == np.argsort(overconfident[:, 0])).all()


def test_huge_logits_do_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        found = probabilities(np.array([[-1e4, 0, 1e4] * 3], np.float32), 1.0)

    assert found[0, :3].tolist() == [0.0, 0.5, 1.0]
