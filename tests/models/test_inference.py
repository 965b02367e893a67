"""Batches for prediction: rows of similar length together."""

import numpy as np
import pytest

from mmgenre.models.inference import batches_by_length

LENGTHS = np.random.default_rng(0).integers(5, 256, 5003)


def padding(batches):
    """Share of the computed tokens that are padding."""
    computed = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    return 1 - LENGTHS.sum() / computed


@pytest.mark.parametrize("max_tokens", [1, 100, 256, 1000, 16_384, 10**9])
def test_batches_hold_each_row_once_and_at_most_max_tokens(max_tokens):
    batches = list(batches_by_length(LENGTHS, max_tokens))

    assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))
    assert all(len(batch) == 1 or len(batch) * LENGTHS[batch].max() <= max_tokens for batch in batches)
    longest = [LENGTHS[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_batches_are_few_and_hardly_padded():
    batches = list(batches_by_length(LENGTHS, 16_384))

    assert len(batches) < 1.2 * LENGTHS.sum() / 16_384 + 1
    assert padding(batches) < 0.05


def test_few_rows_of_very_different_length_are_hardly_padded():
    few = LENGTHS[:32] ** 2 // 256
    batches = list(batches_by_length(few, 16_384))

    assert 32 * few.max() > 2.5 * few.sum()
    assert sum(len(batch) * few[batch].max() for batch in batches) < 1.2 * few.sum()
    assert len(batches) < 12


def test_rows_without_tokens_are_included():
    assert [batch.tolist() for batch in batches_by_length(np.zeros(3, int), 2)] == [[0, 1], [2]]
    assert list(batches_by_length(np.zeros(0, int), 2)) == []
