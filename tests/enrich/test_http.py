"""Requests to servers that are busy, misbehave or are down."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections import Counter
from datetime import UTC, datetime

import pytest
from aiohttp import web

from mmgenre.enrich import http
from mmgenre.enrich.body import Body, read_body
from mmgenre.enrich.client import SourceClient
from mmgenre.enrich.http import (
    HttpClient,
    HttpConfig,
    Request,
    ResponseTooLarge,
    RetryableError,
    ServiceUnavailable,
    Unpaced,
    parse_retry_after,
    with_retries,
)
from mmgenre.enrich.providers import OmdbConfig, TmdbConfig
from mmgenre.enrich.providers.source import Title
from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.sandbox.faults import FaultsConfig
from mmgenre.sandbox.responses import load_movies
from mmgenre.sandbox.server import Sandbox, ServerConfig


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
def test_retry_after_is_parsed_as_seconds_or_a_date(header, seconds):
    assert parse_retry_after(header, datetime(2025, 1, 1, tzinfo=UTC)) == seconds


class RecordingPacer(Unpaced):
    """Sends every request at once and records pauses instead of making them."""

    def __init__(self):
        self.pauses = []

    async def pause(self, seconds):
        self.pauses.append(seconds)


def run_with_server(handler, use_client, pacer=None, **settings):
    """Start a server with one handler and return the result of `use_client(client, url)`."""

    async def run():
        application = web.Application()
        application.router.add_get("/{name}", handler)
        runner = web.AppRunner(application, shutdown_timeout=0.05, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        config = HttpConfig(max_wait_s=0.01, **settings)
        client = HttpClient(pacer or RecordingPacer(), config)
        client.config = config
        try:
            return await use_client(client, f"http://{host}:{port}/a")
        finally:
            await client.close()
            await runner.cleanup()

    return asyncio.run(run())


async def read_all(response):
    return response.status, await read_body(response, 1000)


async def get(client, url):
    return await with_retries(client.config, client.get, Request(url), read_all)


def test_the_caller_reads_responses_of_any_status():
    async def teapot(request):
        return web.Response(status=418, text="short and stout")

    assert run_with_server(teapot, get) == (418, b"short and stout")


def test_a_redirect_is_not_followed():
    async def elsewhere(request):
        raise web.HTTPFound("http://127.0.0.1:1/secret")

    assert run_with_server(elsewhere, get)[0] == 302


def test_a_429_is_waited_out_and_does_not_count_as_an_attempt():
    pacer, statuses = RecordingPacer(), iter([429] * 8 + [200])

    async def busy(request):
        return web.Response(status=next(statuses), headers={"Retry-After": "3"})

    assert run_with_server(busy, get, pacer, attempts=1)[0] == 200
    assert pacer.pauses == [3] * 8


def test_a_429_without_retry_after_leaves_the_pause_to_the_pacer():
    pacer, statuses = RecordingPacer(), iter([429, 200])

    async def busy(request):
        return web.Response(status=next(statuses))

    assert run_with_server(busy, get, pacer)[0] == 200
    assert pacer.pauses == [None]


def test_one_request_that_is_always_refused_is_given_up_while_others_are_served():
    requests = Counter()

    async def picky(request):
        requests[request.path] += 1
        return web.Response(status=429 if request.path == "/refused" else 200)

    async def run(client, url):
        async def others():
            while True:
                await get(client, url)

        serving = asyncio.create_task(others())
        try:
            with pytest.raises(RetryableError, match="HTTP 429"):
                await get(client, f"{url[:-1]}refused")
        finally:
            serving.cancel()

    run_with_server(picky, run, attempts=5)

    assert http._MAX_REFUSALS <= requests["/refused"] < 3 * http._MAX_REFUSALS


def test_a_server_that_keeps_answering_429_stops_the_job():
    async def busy(request):
        await asyncio.sleep(0.05)
        return web.Response(status=429)

    with pytest.raises(ServiceUnavailable, match="answers 429 and asks to wait"):
        run_with_server(busy, get, max_pause_s=0.2)


def test_a_pause_of_hours_stops_the_job():
    async def closed(request):
        return web.Response(status=429, headers={"Retry-After": "7200"})

    with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1:\d+: answers 429 and asks to wait 7,200 s"):
        run_with_server(closed, get)


def test_attempts_are_bounded():
    requests = []

    async def drop(request):
        requests.append(1)
        request.transport.abort()
        return web.Response()

    with pytest.raises(RetryableError, match="Error"):
        run_with_server(drop, get, attempts=3)
    assert len(requests) == 3


def test_a_response_that_trickles_in_times_out():
    async def drip(request):
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        for _ in range(100):
            await response.write(b".")
            await asyncio.sleep(0.1)
        return response

    with pytest.raises(RetryableError, match="TimeoutError"):
        run_with_server(drip, get, attempts=1, timeout_s=0.3)


@pytest.mark.parametrize("has_content_length", [True, False])
def test_a_body_that_is_too_large_is_not_read_to_its_end(has_content_length):
    sent = []

    async def endless(request):
        response = web.StreamResponse(headers={"Content-Length": "100000000"} if has_content_length else {})
        await response.prepare(request)
        for _ in range(1000):
            sent.append(1)
            await response.write(b"." * 100_000)
        return response

    with pytest.raises(ResponseTooLarge):
        run_with_server(endless, get)
    assert len(sent) < 500


TEXT = b'{"overview": "A plot."}' * 10
PACKED = gzip.compress(TEXT, mtime=0)
RAW_DEFLATE = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        *[(PACKED, encoding) for encoding in ("gzip", "GZIP ", "x-gzip", "", "identity", "utf-8")],
        (gzip.compress(PACKED, mtime=0), "gzip"),
        (PACKED + b"\0" * 8, "gzip"),
        (zlib.compress(TEXT), "deflate"),
        (RAW_DEFLATE.compress(TEXT) + RAW_DEFLATE.flush(), "deflate"),
        # A header alone does not make a body compressed.
        *[(TEXT, encoding) for encoding in ("gzip", "", "identity", "none")],
    ],
)
def test_a_body_that_was_compressed_unasked_is_unpacked(content, encoding):
    async def answer(request):
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=content, headers={"Content-Encoding": encoding} if encoding else {})

    assert run_with_server(answer, get) == (200, TEXT)


@pytest.mark.parametrize("service", [TmdbConfig, OmdbConfig])
@pytest.mark.parametrize("kind", ["gzip", "gzip_unnamed", "gzip_bomb"])
def test_the_answers_of_a_service_behind_a_cdn_that_compresses_are_read(tmp_path, service, kind):
    generate(SandboxConfig(movies=5, other_titles=0), str(tmp_path))
    faults = FaultsConfig(rate=1, attempts=9, kinds=(kind,))
    with Sandbox(ServerConfig(data=str(tmp_path), faults=faults), "token") as sandbox:
        source = service(base_url=sandbox.base_url).build({"TMDB_TOKEN": "token", "OMDB_API_KEY": "token"})

        async def fetch():
            client = SourceClient(source, Unpaced(), HttpConfig(attempts=2, max_wait_s=0.01))
            try:
                return [await client.fetch(Title(movie.imdb_id)) for movie in load_movies(str(tmp_path))]
            finally:
                await client.close()

        rows = asyncio.run(fetch())

    assert {row["status"] for row in rows} == {"unreachable" if kind == "gzip_bomb" else "ok"}
    assert {row.get("detail") for row in rows} == {
        "response of more than 2,000,000 bytes" if kind == "gzip_bomb" else None
    }


@pytest.mark.parametrize("layers", [1, 2])
def test_a_bomb_is_unpacked_no_further_than_the_limit(layers):
    content = b"\0" * 50_000_000
    for _ in range(layers):
        content = gzip.compress(content)

    tracemalloc.start()
    with pytest.raises(ResponseTooLarge, match="more than 100,000 bytes"):
        Body(content).unpacked(100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1_000_000


def test_a_body_of_exactly_the_limit_is_unpacked():
    content = PACKED

    assert Body(content).unpacked(len(TEXT)) == TEXT
    with pytest.raises(ResponseTooLarge):
        Body(content).unpacked(len(TEXT) - 1)


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (PACKED[:-9], "gzip", "the response is compressed and incomplete"),
        (PACKED * 2, "gzip", "the response is compressed and incomplete"),
        (PACKED[:2] + b"\xff" * 40, "", "the response is compressed and damaged"),
        (TEXT, "deflate", "the response is compressed and damaged"),
        (b"\x1b" + TEXT, "br", r"the response is compressed \(br\) although identity was requested"),
        (b"\x28\xb5\x2f\xfd" + TEXT, "zstd", r"the response is compressed \(zstd\) although"),
    ],
)
def test_a_compressed_body_that_cannot_be_unpacked_is_named(content, encoding, message):
    with pytest.raises(RetryableError, match=message):
        Body(content, encoding).unpacked(10_000)


def test_concurrent_requests_are_bounded():
    in_flight, counts = [], []

    async def slow(request):
        in_flight.append(1)
        counts.append(len(in_flight))
        await asyncio.sleep(0.05)
        in_flight.pop()
        return web.Response()

    async def many(client, url):
        await asyncio.gather(*(get(client, url) for _ in range(20)))

    run_with_server(slow, many, in_flight=4)
    assert max(counts) == 4
    assert len(counts) == 20
