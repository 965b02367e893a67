"""Requests to servers that are busy, rude or gone."""

import asyncio
from datetime import UTC, datetime

import pytest
from aiohttp import web

from mmgenre.enrich.http import (
    HttpConfig,
    Request,
    Stopped,
    TooLong,
    TryAgain,
    Unhurried,
    Web,
    body,
    patiently,
    retry_after,
)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("-1", 0),
        (None, None),
        ("soon", None),
        ("nan", None),
        ("1e999", None),
        ("Wed, 01 Jan 2025 00:00:07 GMT", 7),
        ("Tue, 31 Dec 2024 00:00:00 GMT", 0),
    ],
)
def test_a_pause_is_asked_for_in_seconds_or_until_a_date(header, seconds):
    assert retry_after(header, datetime(2025, 1, 1, tzinfo=UTC)) == seconds


class NotedPace(Unhurried):
    """Lets every request go at once, and remembers the pauses it was told to make."""

    def __init__(self):
        self.pauses = []

    async def pause(self, seconds):
        self.pauses.append(seconds)


def talk(handler, conversation, pace=None, **settings):
    """What a conversation with a server returns, whose every answer comes from a handler."""

    async def live():
        application = web.Application()
        application.router.add_get("/{name}", handler)
        runner = web.AppRunner(application, shutdown_timeout=0.05, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        config = HttpConfig(max_wait_s=0.01, **settings)
        client = Web(pace or NotedPace(), config)
        client.config = config
        try:
            return await conversation(client, f"http://{host}:{port}/a")
        finally:
            await client.close()
            await runner.cleanup()

    return asyncio.run(live())


async def read_all(response):
    return response.status, await body(response, 1000)


async def ask(client, url):
    return await patiently(client.config, client.get, Request(url), read_all)


def test_an_answer_of_any_status_is_the_callers_to_read():
    async def teapot(request):
        return web.Response(status=418, text="short and stout")

    assert talk(teapot, ask) == (418, b"short and stout")


def test_a_redirect_is_not_followed():
    async def elsewhere(request):
        raise web.HTTPFound("http://127.0.0.1:1/secret")

    assert talk(elsewhere, ask)[0] == 302


def test_a_429_is_waited_out_and_no_attempt():
    pace, statuses = NotedPace(), iter([429] * 8 + [200])

    async def busy(request):
        return web.Response(status=next(statuses), headers={"Retry-After": "3"})

    assert talk(busy, ask, pace, attempts=1)[0] == 200
    assert pace.pauses == [3] * 8


def test_a_429_without_a_time_leaves_the_pause_to_the_pace():
    pace, statuses = NotedPace(), iter([429, 200])

    async def busy(request):
        return web.Response(status=next(statuses))

    assert talk(busy, ask, pace)[0] == 200
    assert pace.pauses == [None]


def test_a_server_that_only_says_429_stops_the_job():
    async def busy(request):
        await asyncio.sleep(0.05)
        return web.Response(status=429)

    with pytest.raises(Stopped, match="answers 429 and wants no request for"):
        talk(busy, ask, max_pause_s=0.2)


def test_a_pause_of_hours_stops_the_job():
    async def closed(request):
        return web.Response(status=429, headers={"Retry-After": "7200"})

    with pytest.raises(Stopped, match=r"127\.0\.0\.1:\d+: answers 429 and wants no request for 7,200 s"):
        talk(closed, ask)


def test_attempts_are_bounded():
    asked = []

    async def drop(request):
        asked.append(1)
        request.transport.abort()
        return web.Response()

    with pytest.raises(TryAgain, match="Error"):
        talk(drop, ask, attempts=3)
    assert len(asked) == 3


def test_a_server_that_drips_is_given_up_after_the_timeout():
    async def drip(request):
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        for _ in range(100):
            await response.write(b".")
            await asyncio.sleep(0.1)
        return response

    with pytest.raises(TryAgain, match="TimeoutError"):
        talk(drip, ask, attempts=1, timeout_s=0.3)


@pytest.mark.parametrize("says_so", [True, False])
def test_a_body_longer_than_wanted_is_not_read_to_its_end(says_so):
    sent = []

    async def endless(request):
        response = web.StreamResponse(headers={"Content-Length": "100000000"} if says_so else {})
        await response.prepare(request)
        for _ in range(1000):
            sent.append(1)
            await response.write(b"." * 100_000)
        return response

    with pytest.raises(TooLong):
        talk(endless, ask)
    assert len(sent) < 500


def test_packed_content_is_not_unpacked():
    async def bomb(request):
        return web.Response(body=b"packed", headers={"Content-Encoding": "gzip"})

    assert talk(bomb, ask) == (200, b"packed")


def test_no_more_requests_are_under_way_than_allowed():
    under_way, most = [], []

    async def slow(request):
        under_way.append(1)
        most.append(len(under_way))
        await asyncio.sleep(0.05)
        under_way.pop()
        return web.Response()

    async def many(client, url):
        await asyncio.gather(*(ask(client, url) for _ in range(20)))

    talk(slow, many, in_flight=4)
    assert max(most) == 4
    assert len(most) == 20
