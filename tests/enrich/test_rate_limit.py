"""The rate limit: the bucket alone, and as clients of a cluster see it."""

import asyncio
import time

import numpy as np
import pytest

from mmgenre.enrich.http import Unpaced
from mmgenre.enrich.rate_limit import MAX_DELAY_S, ClusterPacer, TokenBucket, get_rate_limiter


def wait(bucket, count, rate, now):
    return bucket.lease(count, rate, now)[0]


def test_consecutive_leases_keep_the_rate():
    bucket = TokenBucket()
    bucket.lease(1, 10, now=100)

    waits = [wait(bucket, 4, 10, now=100) for _ in range(3)]

    assert np.diff(waits) == pytest.approx([0.4, 0.4])
    assert bucket.lease(1, 10, now=100)[1] == pytest.approx(0.1)


def test_turns_are_never_closer_than_the_rate_allows():
    bucket, random = TokenBucket(), np.random.default_rng(0)
    turns = []
    for now in np.cumsum(random.exponential(0.1, 300)):
        size = int(random.integers(1, 9))
        delay, interval = bucket.lease(size, 40, now)
        turns += [now + delay + index * interval for index in range(size)]

    assert np.diff(turns).min() > 0.999 / 40


def test_only_a_moment_of_idle_time_is_made_up_for():
    bucket = TokenBucket()
    bucket.lease(1, 10, now=0)

    assert wait(bucket, 5, 10, now=1000) == pytest.approx(-MAX_DELAY_S / 2)
    assert wait(bucket, 1, 10, now=1000) == pytest.approx(0.5 - MAX_DELAY_S / 2)


def test_a_rate_below_one_request_a_second_is_kept():
    bucket = TokenBucket()
    bucket.lease(1, 0.25, now=100)

    assert wait(bucket, 1, 0.25, now=101) == pytest.approx(3 - MAX_DELAY_S / 2)


def test_jobs_with_different_limits_each_keep_their_own():
    bucket = TokenBucket()
    fast, slow = ([bucket.lease(1, rate, now=100)[0] for rate in rates] for rates in ([40] * 10, [20] * 10))

    assert np.diff(fast) == pytest.approx([1 / 40] * 9)
    assert np.diff(slow) == pytest.approx([1 / 20] * 9)


def test_a_retry_after_delays_the_next_requests():
    bucket = TokenBucket()

    bucket.back_off(5, now=100, jitter=1)

    assert wait(bucket, 2, 10, now=101) == pytest.approx(4)


def test_a_pause_never_moves_requests_forward():
    bucket = TokenBucket()
    bucket.lease(10, 1, now=100)

    bucket.back_off(2, now=100, jitter=1)

    assert wait(bucket, 1, 1, now=100) == pytest.approx(10 - MAX_DELAY_S / 2)


def test_pauses_without_retry_after_grow():
    bucket, now, pauses = TokenBucket(), 100.0, []
    for _ in range(8):
        bucket.back_off(None, now, jitter=1)
        pauses.append(wait(bucket, 0, 1000, now))
        now += pauses[-1] + 1

    assert pauses == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60])


def test_429s_of_requests_in_flight_count_as_one():
    bucket = TokenBucket()
    for _ in range(30):
        bucket.back_off(None, now=100, jitter=1)

    assert bucket.share(now=100) == 0.5
    assert wait(bucket, 0, 1000, now=100) == pytest.approx(2)


def test_a_429_halves_the_rate_which_then_recovers():
    bucket = TokenBucket()
    bucket.back_off(2, now=100, jitter=1)

    shares = [bucket.share(now) for now in (102, 117, 132, 1000)]

    assert shares == pytest.approx([0.5, 0.75, 1, 1])


def test_the_rate_has_a_lower_bound():
    bucket, now = TokenBucket(), 100.0
    for _ in range(50):
        bucket.back_off(1, now, jitter=1)
        now += 2

    assert bucket.share(now) >= 1 / 20


def test_a_single_request_does_not_wait():
    began = time.monotonic()

    asyncio.run(Unpaced().wait())

    assert time.monotonic() - began < 0.1


async def turns(pacer, count):
    """Times at which several concurrent requests may be sent."""

    async def turn():
        await pacer.wait()
        return time.monotonic()

    return await asyncio.gather(*(turn() for _ in range(count)))


def test_clients_of_one_limiter_share_its_rate(local_ray):
    pacers = [ClusterPacer(get_rate_limiter(), "shared.test", 100) for _ in range(2)]

    async def both():
        await turns(pacers[0], 1)
        return await asyncio.gather(*(turns(pacer, 50) for pacer in pacers))

    sent = np.sort(np.concatenate(asyncio.run(both())))

    assert len(sent) == 100
    assert 0.7 < sent[-1] - sent[0] < 3


def test_a_pause_of_one_client_holds_back_all(local_ray):
    pacers = [ClusterPacer(get_rate_limiter(), "paused.test", 1000) for _ in range(2)]

    async def pause_one():
        await asyncio.gather(*(pacer.wait() for pacer in pacers))
        await pacers[0].pause(0.5)
        began = time.monotonic()
        await pacers[1].wait()
        return time.monotonic() - began

    assert asyncio.run(pause_one()) > 0.4


def test_a_pause_returns_leased_turns(local_ray):
    pacer = ClusterPacer(get_rate_limiter(), "given-up.test", 20)

    async def pause_between():
        await pacer.wait()
        waiting = asyncio.create_task(turns(pacer, 10))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await pacer.pause(1)
        return [at - began for at in await waiting]

    after = [at for at in asyncio.run(pause_between()) if at > 0]
    assert after
    assert min(after) > 0.9
