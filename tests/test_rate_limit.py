"""One pace for everybody: the bucket by itself, and as the clients of a cluster see it."""

import asyncio
import time

import numpy as np
import pytest

from mmgenre.enrich.http import Unhurried
from mmgenre.enrich.rate_limit import LATE_S, ClusterPace, TokenBucket, rate_limiter


def wait(bucket, count, rate, now):
    return bucket.lease(count, rate, now)[0]


def test_leases_follow_each_other_at_the_rate():
    bucket = TokenBucket()
    bucket.lease(1, 10, now=100)

    waits = [wait(bucket, 4, 10, now=100) for _ in range(3)]

    assert np.diff(waits) == pytest.approx([0.4, 0.4])
    assert bucket.lease(1, 10, now=100)[1] == pytest.approx(0.1)


def test_no_second_holds_more_turns_than_the_rate_whoever_asks_when():
    bucket, random = TokenBucket(), np.random.default_rng(0)
    turns = []
    for now in np.cumsum(random.exponential(0.1, 300)):
        size = int(random.integers(1, 9))
        delay, interval = bucket.lease(size, 40, now)
        turns += [now + delay + place * interval for place in range(size)]

    assert np.diff(turns).min() > 0.999 / 40


def test_of_an_idle_time_only_a_moment_is_made_up_for():
    bucket = TokenBucket()
    bucket.lease(1, 10, now=0)

    assert wait(bucket, 5, 10, now=1000) == pytest.approx(-LATE_S / 2)
    assert wait(bucket, 1, 10, now=1000) == pytest.approx(0.5 - LATE_S / 2)


def test_a_rate_below_one_request_a_second_is_kept():
    bucket = TokenBucket()
    bucket.lease(1, 0.25, now=100)

    assert wait(bucket, 1, 0.25, now=101) == pytest.approx(3 - LATE_S / 2)


def test_jobs_with_different_limits_keep_to_the_higher_one_together_and_each_to_its_own():
    bucket = TokenBucket()
    fast, slow = ([bucket.lease(1, rate, now=100)[0] for rate in rates] for rates in ([40] * 10, [20] * 10))

    assert np.diff(fast) == pytest.approx([1 / 40] * 9)
    assert np.diff(slow) == pytest.approx([1 / 20] * 9)


def test_a_pause_that_the_server_names_holds_back_what_comes_next():
    bucket = TokenBucket()

    bucket.refused(5, now=100, jitter=1)

    assert wait(bucket, 2, 10, now=101) == pytest.approx(4)


def test_a_pause_never_brings_requests_forward():
    bucket = TokenBucket()
    bucket.lease(10, 1, now=100)

    bucket.refused(2, now=100, jitter=1)

    assert wait(bucket, 1, 1, now=100) == pytest.approx(10 - LATE_S / 2)


def test_pauses_that_the_server_does_not_name_grow():
    bucket, now, pauses = TokenBucket(), 100.0, []
    for _ in range(8):
        bucket.refused(None, now, jitter=1)
        pauses.append(wait(bucket, 0, 1000, now))
        now += pauses[-1] + 1

    assert pauses == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60])


def test_refusals_of_requests_that_were_under_way_are_one_event():
    bucket = TokenBucket()
    for _ in range(30):
        bucket.refused(None, now=100, jitter=1)

    assert bucket.share(now=100) == 0.5
    assert wait(bucket, 0, 1000, now=100) == pytest.approx(2)


def test_after_a_refusal_the_rate_is_halved_and_recovers_gently():
    bucket = TokenBucket()
    bucket.refused(2, now=100, jitter=1)

    shares = [bucket.share(now) for now in (102, 117, 132, 1000)]

    assert shares == pytest.approx([0.5, 0.75, 1, 1])


def test_a_server_that_refuses_for_ever_is_still_asked_now_and_then():
    bucket, now = TokenBucket(), 100.0
    for _ in range(50):
        bucket.refused(1, now, jitter=1)
        now += 2

    assert bucket.share(now) >= 1 / 20


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
    paces = [ClusterPace(rate_limiter(), "shared.test", 100) for _ in range(2)]

    async def both():
        await turns(paces[0], 1)
        return await asyncio.gather(*(turns(pace, 50) for pace in paces))

    sent = np.sort(np.concatenate(asyncio.run(both())))

    assert len(sent) == 100
    assert 0.7 < sent[-1] - sent[0] < 3


def test_a_pause_that_one_client_was_asked_for_holds_all_of_them(local_ray):
    paces = [ClusterPace(rate_limiter(), "paused.test", 1000) for _ in range(2)]

    async def pause_one():
        await asyncio.gather(*(pace.wait() for pace in paces))
        await paces[0].pause(0.5)
        began = time.monotonic()
        await paces[1].wait()
        return time.monotonic() - began

    assert asyncio.run(pause_one()) > 0.4


def test_turns_in_hand_are_given_up_at_a_pause(local_ray):
    pace = ClusterPace(rate_limiter(), "given-up.test", 20)

    async def pause_between():
        await pace.wait()
        waiting = asyncio.create_task(turns(pace, 10))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await pace.pause(1)
        return [at - began for at in await waiting]

    after = [at for at in asyncio.run(pause_between()) if at > 0]
    assert after
    assert min(after) > 0.9
