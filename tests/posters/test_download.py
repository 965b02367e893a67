"""Single downloads from a broken or hostile host: every fault leads to its status; without Ray."""

import asyncio
import re
from types import SimpleNamespace

import pytest

from mmgenre.enrich.http import Unpaced
from mmgenre.posters import download
from mmgenre.posters.download import ByteBudget, PosterFetcher
from mmgenre.posters.job import PostersConfig
from mmgenre.sandbox import responses
from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.sandbox.image_faults import ImageFaultsConfig
from mmgenre.sandbox.server import Sandbox, ServerConfig


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A generated catalogue and the file names of its posters."""
    root = tmp_path_factory.mktemp("world")
    generate(SandboxConfig(movies=12, other_titles=0), str(root))
    posters = [movie.poster for movie in responses.load_movies(str(root)) if movie.poster]
    return SimpleNamespace(data=str(root), posters=posters)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    monkeypatch.setattr(download, "get_rate_limiter", lambda: None)
    monkeypatch.setattr(download, "ClusterPacer", lambda *_: Unpaced())
    monkeypatch.setattr(download.ray_session, "assigned_cpus", lambda: 1)


def serving(world, kind=None):
    """A server all of whose posters have one fault, or none."""
    faults = ImageFaultsConfig(rate=1, attempts=9, kinds=(kind,)) if kind else ImageFaultsConfig()
    return Sandbox(ServerConfig(data=world.data, image_faults=faults), "token")


def fetch(sandbox, posters, timeout_s=30, **settings):
    """Status and detail of each poster."""
    host = sandbox.base_url.removeprefix("http://")
    values = {"enriched": "unused", "output": "unused", "allowed_hosts": [host], "allow_private": True}
    values["http"] = {"attempts": 2, "max_wait_s": 0.05, "timeout_s": timeout_s}
    config = PostersConfig.parse(values | settings, "test")
    movies = [{"imdb_id": poster, "poster_url": f"{sandbox.image_url}/{poster}"} for poster in posters]

    async def fetch_all():
        fetcher = PosterFetcher(config)
        try:
            return await asyncio.gather(*map(fetcher.fetch, movies))
        finally:
            await asyncio.gather(*(client.close() for client in fetcher._clients.values()))

    return [(row["status"], row.get("detail")) for row in asyncio.run(fetch_all())]


def test_a_poster_that_trickles_in_times_out(world):
    with serving(world, "drip") as sandbox:
        assert set(fetch(sandbox, world.posters, timeout_s=0.3)) == {("unreachable", "TimeoutError")}


def test_a_download_that_is_too_long_is_aborted(world):
    with serving(world) as sandbox:
        rows = fetch(sandbox, world.posters, max_bytes=1000)

    assert set(rows) == {("too_large", "more than 1,000 bytes")}


@pytest.mark.parametrize("kind", ["gzip", "gzip_unnamed", "no_end"])
def test_a_poster_that_a_host_compressed_or_did_not_end_is_used(world, kind):
    with serving(world, kind) as sandbox:
        assert set(fetch(sandbox, world.posters)) == {("ok", None)}


def test_a_poster_that_expands_beyond_the_limit_is_too_large(world):
    with serving(world, "gzip_bomb") as sandbox:
        rows = fetch(sandbox, world.posters)
        assert sandbox.stats()["max_asked_per_id"] == {"image": 1}

    assert set(rows) == {("too_large", "more than 5,000,000 bytes")}


def test_a_host_that_is_not_allowed_is_not_contacted(world):
    with serving(world) as sandbox:
        rows = fetch(sandbox, world.posters, allowed_hosts=["image.tmdb.org"])
        assert sandbox.stats()["requests"] == {}

    assert set(rows) == {("forbidden", "127.0.0.1 is not an allowed host")}


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("redirect_elsewhere", "redirect: example.org is not an allowed host"),
        ("redirect_loopback", r"redirect: port \d+ of 127.0.0.1 is not allowed"),
    ],
)
def test_a_redirect_to_a_forbidden_url_is_not_followed(world, kind, detail):
    with serving(world, kind) as sandbox:
        [(status, found)] = fetch(sandbox, world.posters[:1])
        assert sandbox.stats()["requests"] == {"image": 1}

    assert status == "forbidden_target"
    assert re.fullmatch(detail, found)


def test_a_host_name_with_a_private_address_is_not_contacted(world):
    with serving(world) as sandbox:
        port = sandbox.port
        local = SimpleNamespace(base_url=f"https://localhost:{port}", image_url=f"https://localhost:{port}/t/p/w342")
        rows = fetch(local, world.posters[:1], allowed_hosts=[f"localhost:{port}"], allow_private=False)
        assert sandbox.stats()["requests"] == {}

    assert rows == [("forbidden_target", "resolves to no public address")]


def test_bytes_in_flight_are_bounded_and_released():
    held, most = [], []

    async def hold(budget, num_bytes):
        async with budget.hold(num_bytes):
            held.append(num_bytes)
            most.append(sum(held))
            await asyncio.sleep(0.01)
            held.remove(num_bytes)

    async def many():
        budget = ByteBudget(10)
        await asyncio.gather(*(hold(budget, num_bytes) for num_bytes in (4, 4, 4, 10, 1, 7, 10)))

    asyncio.run(many())
    assert max(most) == 10
    assert len(most) == 7


def test_a_download_larger_than_the_budget_gets_all_of_it():
    async def hold_twice():
        budget = ByteBudget(10)
        for _ in range(2):
            async with budget.hold(1000):
                pass

    asyncio.run(asyncio.wait_for(hold_twice(), 1))
