"""What a search may change, and how points are drawn of it."""

import numpy as np
import pytest

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.search.space import Space, grid, name_of, random_points, require_valid, training

PRESET = {"dataset": "movies", "output": "out", "model": {"family": "tfidf"}}


class Holder(Config):
    space: Space


def space(**distributions):
    values = {path.replace("__", "."): value for path, value in distributions.items()}
    return Holder.parse({"space": values}, "test").space


RATES = space(
    optimizer__lr_head={"kind": "loguniform", "low": 1e-5, "high": 1e-1},
    model__c={"kind": "uniform", "low": 1, "high": 2},
    epochs={"kind": "int", "low": 1, "high": 3},
    model__title={"kind": "choice", "values": [True, False]},
)


def test_every_value_lies_in_its_distribution():
    points = random_points(RATES, 500, seed=0)
    rates = np.array([point["optimizer.lr_head"] for point in points])

    assert all(1 <= point["model.c"] <= 2 for point in points)
    assert {point["epochs"] for point in points} == {1, 2, 3}
    assert {point["model.title"] for point in points} == {True, False}
    assert rates.min() >= 1e-5
    assert rates.max() <= 1e-1
    # As many below the middle of the orders of magnitude as above.
    assert np.mean(rates < 1e-3) == pytest.approx(0.5, abs=0.1)


def test_more_points_begin_with_the_same_ones():
    assert random_points(RATES, 8, seed=1)[:5] == random_points(RATES, 5, seed=1)
    assert random_points(RATES, 5, seed=1) != random_points(RATES, 5, seed=2)


def test_no_point_is_drawn_twice():
    few = space(epochs={"kind": "int", "low": 1, "high": 3}, model__title={"kind": "choice", "values": [True, False]})

    points = random_points(few, 100, seed=0)

    assert len(points) == len({name_of(point) for point in points}) == 6


def test_a_grid_holds_every_combination_once():
    points = grid(space(epochs={"kind": "int", "low": 1, "high": 2}, model__c={"kind": "choice", "values": [0.5, 5]}))

    assert points == [
        {"epochs": 1, "model.c": 0.5},
        {"epochs": 1, "model.c": 5},
        {"epochs": 2, "model.c": 0.5},
        {"epochs": 2, "model.c": 5},
    ]


def test_a_grid_of_any_number_is_refused():
    with pytest.raises(InputError, match=r"space.optimizer.lr_head: a grid needs kind choice or int, found loguniform"):
        grid(RATES)


def test_a_points_name_does_not_depend_on_the_order_of_its_paths():
    assert name_of({"a": 1, "b": 2}) == name_of({"b": 2, "a": 1}) != name_of({"a": 1, "b": 3})


def test_a_point_replaces_fields_of_the_preset_and_leaves_the_preset_alone():
    found = training(PRESET, {"model.c": 3.0, "optimizer.lr_head": 0.5, "epochs": 2}, "test")

    assert (found.model.c, found.optimizer.lr_head, found.epochs) == (3.0, 0.5, 2)
    assert PRESET["model"] == {"family": "tfidf"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model__max_ngrm": {"kind": "int", "low": 1, "high": 2}},
            "max_ngrm: unknown field; did you mean max_ngram",
        ),
        ({"model__max_ngram": {"kind": "int", "low": 1, "high": 9}}, "model.max_ngram: .*less than or equal to 5"),
        ({"model__c": {"kind": "uniform", "low": -1, "high": 9}}, "model.c: .*greater than 0"),
        ({"epochs": {"kind": "choice", "values": [3, "many"]}}, "epochs: .*found 'many'"),
        ({"epochs__more": {"kind": "choice", "values": [3]}}, "epochs"),
        (
            {"model": {"kind": "choice", "values": [{"family": "tfidf"}, {"family": "tf"}]}},
            "model.family: 'tf' is not one",
        ),
    ],
)
def test_a_path_or_a_value_that_no_training_has_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        require_valid(PRESET, space(**changes))


def test_a_valid_space_is_not_refused():
    require_valid(PRESET, RATES)


@pytest.mark.parametrize(
    ("distribution", "said"),
    [
        ({"kind": "uniform", "low": 2, "high": 1}, "low 2 is not below high 1"),
        ({"kind": "loguniform", "low": 0, "high": 1}, "low: .*greater than 0"),
        ({"kind": "normal"}, "'normal' is not one of"),
        ({"low": 1, "high": 2}, "space.epochs.kind: missing"),
        ({"kind": "choice", "values": []}, "values: .*at least 1"),
    ],
)
def test_a_distribution_that_makes_no_sense_is_refused(distribution, said):
    with pytest.raises(InputError, match=said):
        space(epochs=distribution)
