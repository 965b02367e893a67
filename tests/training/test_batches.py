"""Every movie once in each epoch, whoever computes it, and little padding on the way."""

import numpy as np
import pytest

from mmgenre.training.batches import BatchPlan

LENGTHS = np.random.default_rng(0).integers(5, 256, 5003)


def plan(batch_size=16, accumulate=1, num_workers=1, seed=0):
    return BatchPlan(batch_size, accumulate, num_workers, seed)


def steps(made, lengths=LENGTHS, epoch=0, present=None):
    """For each step the steps of every worker that is present."""
    present = present or made.num_workers
    return list(zip(*(made.steps(lengths, epoch, rank, present) for rank in range(present)), strict=True))


def rows(workers):
    """The rows of each micro-batch of a step, of all workers together."""
    return [
        sorted(np.concatenate(batches).tolist()) for batches in zip(*(step.batches for step in workers), strict=True)
    ]


def order(made, epoch=0):
    return [batch for step in steps(made, epoch=epoch) for batch in rows(step)]


@pytest.mark.parametrize("num_workers", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("num_rows", [0, 1, 15, 16, 17, 800, 801, 5003])
def test_every_row_is_in_one_step_of_one_worker(num_workers, accumulate, num_rows):
    made = plan(accumulate=accumulate, num_workers=num_workers)

    found = steps(made, LENGTHS[:num_rows])

    seen = [row for workers in found for batch in rows(workers) for row in batch]
    assert sorted(seen) == list(range(num_rows))
    assert len(found) == made.num_steps(num_rows)
    for workers in found:
        assert {step.num_rows for step in workers} == {sum(len(batch) for batch in rows(workers))}
        assert max(len(batch) for step in workers for batch in step.batches) <= made.batch_size
        for batches in zip(*(step.batches for step in workers), strict=True):
            assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_workers_have_equally_many_micro_batches_and_rows_but_for_the_last():
    *found, last = steps(plan(accumulate=3, num_workers=4))

    assert {len(batch) for workers in found for step in workers for batch in step.batches} == {16}
    assert {len(step.batches) for workers in found for step in workers} == {3}
    assert len({len(step.batches) for step in last}) == 1


@pytest.mark.parametrize(("num_workers", "batch_size"), [(2, 8), (4, 4)])
def test_several_workers_see_the_batches_of_one_with_larger_ones(num_workers, batch_size):
    many = plan(batch_size=batch_size, num_workers=num_workers, accumulate=2)
    one = plan(batch_size=16, num_workers=1, accumulate=2)

    assert [rows(workers) for workers in steps(many)] == [rows(workers) for workers in steps(one)]


@pytest.mark.parametrize("present", [1, 2, 3])
@pytest.mark.parametrize("num_rows", [1, 17, 801])
def test_fewer_workers_than_planned_take_the_same_steps_in_more_micro_batches(present, num_rows):
    made, lengths = plan(num_workers=4, accumulate=2), LENGTHS[:num_rows]

    few, all_there = steps(made, lengths, present=present), steps(made, lengths)

    assert [rows_of(workers) for workers in few] == [rows_of(workers) for workers in all_there]
    assert [workers[0].num_rows for workers in few] == [workers[0].num_rows for workers in all_there]
    for workers in few:
        assert len({len(step.batches) for step in workers}) == 1
        assert max(len(batch) for step in workers for batch in step.batches) <= made.batch_size


def rows_of(workers):
    return sorted(np.concatenate([batch for step in workers for batch in step.batches]).tolist())


def test_the_last_accumulation_is_kept_when_it_is_not_full():
    made = plan(batch_size=10, accumulate=4)

    found = [step for (step,) in steps(made, LENGTHS[:95])]

    assert [step.num_rows for step in found] == [40, 40, 15]
    assert [len(batch) for batch in found[-1].batches] == [10, 5]


def test_a_worker_without_rows_takes_part_in_the_step():
    first, second = steps(plan(batch_size=4, num_workers=2), LENGTHS[:1])[0]

    assert (len(first.batches[0]), len(second.batches[0])) == (1, 0)
    assert first.num_rows == second.num_rows == 1


def test_the_order_depends_on_epoch_and_seed_and_on_nothing_else():
    assert order(plan()) == order(plan())
    assert order(plan(), epoch=1) == order(plan(), epoch=1)
    assert order(plan()) != order(plan(), epoch=1)
    assert order(plan()) != order(plan(seed=1))
    assert sorted(order(plan())) != sorted(order(plan(), epoch=1))


def padding(batches):
    """Share of the tokens computed that are padding."""
    computed = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    return 1 - LENGTHS.sum() / computed


def test_rows_of_a_batch_are_of_similar_length():
    random = np.random.default_rng(1).permutation(len(LENGTHS))

    assert padding(np.array_split(random, len(LENGTHS) // 16)) > 0.4
    assert padding(order(plan())) < 0.05


def test_long_and_short_batches_take_turns():
    means = [LENGTHS[batch].mean() for batch in order(plan())]

    assert abs(np.corrcoef(means[:-1], np.arange(len(means) - 1))[0, 1]) < 0.2
