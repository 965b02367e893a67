"""Titles asked of one service, or of two that complete each other: one row each, whatever goes wrong."""

import asyncio

import pytest

from mmgenre.enrich.client import Client, check, fill
from mmgenre.enrich.http import HttpConfig, Stopped, Unhurried
from mmgenre.enrich.providers import OmdbConfig, TmdbConfig
from mmgenre.errors import InputError
from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.sandbox.faults import FaultsConfig
from mmgenre.sandbox.server import Sandbox, ServerConfig

TOKEN = "a-token-nobody-may-read"  # noqa: S105


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A generated catalogue's folder, and the id of one of its movies."""
    root = tmp_path_factory.mktemp("world")
    generate(SandboxConfig(movies=20, other_titles=0), str(root))
    with Sandbox(ServerConfig(data=str(root)), TOKEN) as sandbox:
        known = [movie.imdb_id for movie in sandbox._service.by_imdb_id.values() if movie.plot]
    return str(root), known


def serving(world, **settings):
    return Sandbox(ServerConfig(data=world[0], **settings), TOKEN)


class Impatient(Unhurried):
    async def pause(self, seconds):
        pass


def fetch(sandbox, *imdb_ids, config=TmdbConfig, token=TOKEN, **settings):
    source = config(base_url=sandbox.base_url).build({"TMDB_TOKEN": token, "OMDB_API_KEY": token})

    async def fetch_all():
        client = Client(source, Impatient(), HttpConfig(max_wait_s=0.01, **settings))
        try:
            return [await client.fetch(imdb_id) for imdb_id in imdb_ids]
        finally:
            await client.close()

    return asyncio.run(fetch_all())


@pytest.mark.parametrize("config", [TmdbConfig, OmdbConfig])
def test_both_services_know_the_same_plot(world, config):
    with serving(world) as sandbox:
        known, unknown = fetch(sandbox, world[1][0], "tt9999999", config=config)
        movie = sandbox._service.by_imdb_id[world[1][0]]

    assert (known["status"], known["plot"], known["language"]) == ("ok", movie.plot.strip(), movie.language)
    assert unknown == {"provider": config().kind, "status": "not_found"}


def test_a_title_is_asked_for_as_often_as_allowed_and_no_more(world):
    with serving(world, faults=FaultsConfig(rate=1, attempts=3, kinds=("server_error",))) as sandbox:
        (given_up,) = fetch(sandbox, world[1][0], attempts=2)
        (late,) = fetch(sandbox, world[1][0], attempts=2)

    assert given_up == {"provider": "tmdb", "status": "unreachable", "detail": "HTTP 500"}
    assert late["status"] == "ok"


def test_a_service_that_hangs_is_given_up_after_the_timeout(world):
    with serving(world, faults=FaultsConfig(rate=1, attempts=9, kinds=("timeout",))) as sandbox:
        (row,) = fetch(sandbox, world[1][0], attempts=2, timeout_s=0.1)

    assert row == {"provider": "tmdb", "status": "unreachable", "detail": "TimeoutError"}


def test_a_service_that_is_down_stops_the_job_instead_of_failing_every_title(world):
    with (
        serving(world, faults=FaultsConfig(rate=1, attempts=9, kinds=("server_error",))) as sandbox,
        pytest.raises(Stopped, match=r"200 requests in a row failed \(HTTP 500\)"),
    ):
        fetch(sandbox, *(f"tt{number:07}" for number in range(201)), attempts=1)


def test_a_refused_key_stops_the_job(world):
    with serving(world) as sandbox, pytest.raises(Stopped, match="refused the key"):
        fetch(sandbox, world[1][0], token="another")  # noqa: S106


def test_a_check_says_what_is_wrong_without_the_key(world):
    with serving(world) as sandbox:
        good = TmdbConfig(base_url=sandbox.base_url)
        with pytest.raises(InputError, match="TMDB refused the key"):
            asyncio.run(check(good.build({"TMDB_API_KEY": "another"}), HttpConfig()))
        asyncio.run(check(good.build({"TMDB_TOKEN": TOKEN}), HttpConfig()))

    with pytest.raises(InputError) as error:
        asyncio.run(check(good.build({"TMDB_API_KEY": TOKEN}), HttpConfig(attempts=2, max_wait_s=0.01)))
    assert str(error.value).endswith(
        "/3/configuration: no answer (ClientConnectorError); check base_url and the network"
    )


# Two services


def row(provider, status="ok", **columns):
    return {"provider": provider, "status": status} | columns


def test_the_second_service_fills_what_the_first_lacks_column_by_column():
    first = row("tmdb", provider_id="278", plot=None, language="en", poster_url=None)
    other = row("omdb", provider_id="tt1", plot="A plot.", language="fr", poster_url=None)

    assert fill(first, other) == row(
        "tmdb+omdb", provider_id="278", plot="A plot.", language="en", poster_url=None, detail="plot from omdb"
    )


def test_a_title_that_only_the_second_service_knows_is_its_own():
    other = row("omdb", provider_id="tt1", plot="A plot.", language="fr", poster_url=None)

    assert fill(row("tmdb", "not_found"), other) == other


@pytest.mark.parametrize(
    "other", [row("omdb", "not_found"), row("omdb", provider_id="tt1", plot=None, language="fr", poster_url=None)]
)
def test_a_second_service_that_adds_nothing_changes_nothing(other):
    first = row("tmdb", provider_id="278", plot=None, language="en", poster_url=None)

    assert fill(first, other) == first
    assert fill(row("tmdb", "not_found"), row("omdb", "not_found")) == row("tmdb", "not_found")


def test_a_second_service_that_is_out_of_reach_leaves_the_title_to_the_next_run():
    first = row("tmdb", provider_id="278", plot="A plot.", language="en", poster_url=None)

    filled = fill(first, row("omdb", "unreachable", detail="HTTP 500"))

    assert filled == first | {"status": "unreachable", "detail": "omdb: HTTP 500"}
