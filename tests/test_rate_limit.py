"""One pace for everybody: the bucket by itself, and as the clients of a cluster see it."""

import asyncio
import time

import numpy as np
import pytest

from mmgenre.rate_limit import ClusterPace, TokenBucket, Unhurried, rate_limiter


def test_leases_follow_each_other_at_the_rate():
    bucket = TokenBucket(requests_per_second=10)

    waits = [bucket.lease(4, now=100) for _ in range(3)]

    assert waits == pytest.approx([0, 0.4, 0.8])
    assert bucket.lease(1, now=100.5) == pytest.approx(0.7)


def test_no_second_holds_more_requests_than_the_rate_whoever_asks_when():
    bucket, random = TokenBucket(requests_per_second=40), np.random.default_rng(0)
    requests = []
    for now in np.cumsum(random.exponential(0.1, 300)):
        size = int(random.integers(1, 9))
        requests += [now + bucket.lease(size, now) + place * bucket.interval for place in range(size)]

    assert np.diff(requests).min() > 0.999 / 40


def test_an_idle_time_is_not_made_up_for():
    bucket = TokenBucket(requests_per_second=10)
    bucket.lease(1, now=0)

    assert bucket.lease(5, now=1000) == 0
    assert bucket.lease(1, now=1000) == pytest.approx(0.5)


def test_a_rate_below_one_request_a_second_is_kept():
    bucket = TokenBucket(requests_per_second=0.25)
    bucket.lease(1, now=0)

    assert bucket.lease(1, now=1) == pytest.approx(3)


def test_a_pause_holds_back_what_comes_next():
    bucket = TokenBucket(requests_per_second=10)

    bucket.pause(5, now=100)

    assert bucket.lease(2, now=101) == pytest.approx(4)
    assert bucket.lease(1, now=101) == pytest.approx(4.2)


def test_a_pause_never_brings_requests_forward():
    bucket = TokenBucket(requests_per_second=1)
    bucket.lease(10, now=0)

    bucket.pause(2, now=0)

    assert bucket.lease(1, now=0) == pytest.approx(10)


def test_a_single_request_does_not_wait():
    began = time.monotonic()

    asyncio.run(Unhurried().wait())

    assert time.monotonic() - began < 0.1


async def turns(pace, count):
    """When each of several requests that want to go out together may do so."""

    async def one():
        await pace.wait()
        return time.monotonic()

    return await asyncio.gather(*(one() for _ in range(count)))


def test_clients_of_one_limiter_share_its_rate(local_ray):
    limiter = rate_limiter("shared", requests_per_second=100)
    paces = [ClusterPace(limiter, lease_size=8), ClusterPace(rate_limiter("shared", 100), lease_size=8)]

    async def both():
        await turns(paces[0], 1)
        return await asyncio.gather(*(turns(pace, 30) for pace in paces))

    sent = np.sort(np.concatenate(asyncio.run(both())))

    assert len(sent) == 60
    assert sent[-1] - sent[0] > 0.5


def test_a_pause_that_one_client_was_asked_for_holds_all_of_them(local_ray):
    limiter = rate_limiter("paused", requests_per_second=1000)
    paces = [ClusterPace(limiter, lease_size=1) for _ in range(2)]

    async def pause_one():
        await asyncio.gather(*(pace.wait() for pace in paces))
        await paces[0].pause(0.5)
        began = time.monotonic()
        await paces[1].wait()
        return time.monotonic() - began

    assert asyncio.run(pause_one()) > 0.4
