"""Titles from one service, or from two that complete each other: one row per title, whatever goes wrong."""

import asyncio

import pytest

from mmgenre.enrich import http
from mmgenre.enrich.client import SourceClient, TitleFetcher, fill_gaps
from mmgenre.enrich.http import HttpConfig, QuotaUsedUp, ServiceDown, ServiceUnavailable, Unpaced
from mmgenre.enrich.providers import OmdbConfig, TmdbConfig
from mmgenre.enrich.providers.source import Title
from mmgenre.errors import InputError
from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.sandbox.faults import FaultsConfig
from mmgenre.sandbox.server import Sandbox, ServerConfig

TOKEN = "a-token-nobody-may-read"  # noqa: S105


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of a generated catalogue, and the ids of its movies that have a plot."""
    root = tmp_path_factory.mktemp("world")
    generate(SandboxConfig(movies=20, other_titles=0), str(root))
    with Sandbox(ServerConfig(data=str(root)), TOKEN) as sandbox:
        known = [movie.imdb_id for movie in sandbox._service.by_imdb_id.values() if movie.plot]
    return str(root), known


def serving(world, **settings):
    return Sandbox(ServerConfig(data=world[0], **settings), TOKEN)


class NoPauses(Unpaced):
    async def pause(self, seconds):
        pass


def fetch(sandbox, *imdb_ids, config=TmdbConfig, token=TOKEN, **settings):
    source = config(base_url=sandbox.base_url).build({"TMDB_TOKEN": token, "OMDB_API_KEY": token})

    async def fetch_all():
        client = SourceClient(source, NoPauses(), HttpConfig(max_wait_s=0.01, **settings))
        try:
            return [await client.fetch(Title(imdb_id)) for imdb_id in imdb_ids]
        finally:
            await client.close()

    return asyncio.run(fetch_all())


@pytest.mark.parametrize("config", [TmdbConfig, OmdbConfig])
def test_both_services_return_the_same_plot(world, config):
    with serving(world) as sandbox:
        known, unknown = fetch(sandbox, world[1][0], "tt9999999", config=config)
        movie = sandbox._service.by_imdb_id[world[1][0]]

    assert (known["status"], known["plot"], known["language"]) == ("ok", movie.plot.strip(), movie.language)
    assert unknown == {"provider": config().kind, "status": "not_found"}


def test_a_title_is_requested_at_most_as_often_as_configured(world):
    with serving(world, faults=FaultsConfig(rate=1, attempts=3, kinds=("server_error",))) as sandbox:
        (first,) = fetch(sandbox, world[1][0], attempts=2)
        (second,) = fetch(sandbox, world[1][0], attempts=2)

    assert first == {"provider": "tmdb", "status": "unreachable", "detail": "HTTP 500"}
    assert second["status"] == "ok"


def test_a_request_that_hangs_times_out(world):
    with serving(world, faults=FaultsConfig(rate=1, attempts=9, kinds=("timeout",))) as sandbox:
        (row,) = fetch(sandbox, world[1][0], attempts=2, timeout_s=0.1)

    assert row == {"provider": "tmdb", "status": "unreachable", "detail": "TimeoutError"}


def test_a_service_that_is_down_stops_the_job_instead_of_failing_every_title(world):
    with (
        serving(world, faults=FaultsConfig(rate=1, attempts=9, kinds=("server_error",))) as sandbox,
        pytest.raises(ServiceDown, match=r"200 consecutive requests failed in 0 s \(HTTP 500\); resume later"),
    ):
        fetch(sandbox, *(f"tt{number:07}" for number in range(201)), attempts=1, max_outage_s=0)


def test_an_outage_is_waited_out_and_the_waiting_title_is_not_lost(world, monkeypatch):
    monkeypatch.setattr(http, "_MAX_FAILURES", 3)
    monkeypatch.setattr(http, "_OUTAGE_WAIT_S", 0.05)
    with serving(world, faults=FaultsConfig(rate=1, attempts=6, kinds=("server_error",))) as sandbox:
        rows = fetch(sandbox, *["tt9999991", "tt9999992", world[1][0]], attempts=1)

    assert [row["status"] for row in rows] == ["unreachable", "unreachable", "ok"]


def test_a_used_up_quota_of_the_fallback_leaves_the_first_service_going_on(world):
    first = {"provider": "tmdb", "status": "ok", "plot": None, "language": "en", "poster_url": None}
    asked = []

    class Quota:
        kind, num_requests = "omdb", 0

        async def fetch(self, title):
            asked.append(title.imdb_id)
            raise QuotaUsedUp("OMDb: the key's daily quota is used up; resume after 2026-01-02 00:00 UTC")

    class First(Quota):
        kind = "tmdb"

        async def fetch(self, title):
            return first

    fetcher = TitleFetcher([First(), Quota()])
    rows = [asyncio.run(fetcher.fetch({"imdb_id": name})) for name in ("tt1", "tt2")]

    # Both are asked for again in the next run, which needs the quota; until then only one request was spent.
    assert [(row["status"], row["language"]) for row in rows] == [("unreachable", "en")] * 2
    assert asked == ["tt1"]
    assert fetcher.notices == ("OMDb: the key's daily quota is used up; resume after 2026-01-02 00:00 UTC",)


def test_a_refused_key_stops_the_job(world):
    with serving(world) as sandbox, pytest.raises(ServiceUnavailable, match="refused the key"):
        fetch(sandbox, world[1][0], token="another")  # noqa: S106


def check(source, config):
    asyncio.run(SourceClient(source, Unpaced(), config).check())


def test_a_check_reports_problems_without_printing_the_key(world):
    with serving(world) as sandbox:
        good = TmdbConfig(base_url=sandbox.base_url)
        with pytest.raises(InputError, match="TMDB refused the key"):
            check(good.build({"TMDB_API_KEY": "another"}), HttpConfig())
        check(good.build({"TMDB_TOKEN": TOKEN}), HttpConfig())

    with pytest.raises(InputError) as error:
        check(good.build({"TMDB_API_KEY": TOKEN}), HttpConfig(attempts=2, max_wait_s=0.01))
    assert str(error.value).endswith(
        "/3/configuration: no response (ClientConnectorError); check base_url and the network connection"
    )


# Two services


def row(provider, status="ok", **columns):
    return {"provider": provider, "status": status} | columns


def test_the_fallback_fills_each_empty_column():
    first = row("tmdb", provider_id="278", plot=None, language="en", poster_url=None)
    fallback = row("omdb", provider_id="tt1", plot="A plot.", language="fr", poster_url=None)

    assert fill_gaps(first, fallback) == row(
        "tmdb+omdb", provider_id="278", plot="A plot.", language="en", poster_url=None, detail="plot from omdb"
    )


def test_a_title_that_only_the_fallback_knows_has_the_fallbacks_row():
    fallback = row("omdb", provider_id="tt1", plot="A plot.", language="fr", poster_url=None)

    assert fill_gaps(row("tmdb", "not_found"), fallback) == fallback


@pytest.mark.parametrize(
    "fallback", [row("omdb", "not_found"), row("omdb", provider_id="tt1", plot=None, language="fr", poster_url=None)]
)
def test_a_fallback_that_adds_nothing_changes_nothing(fallback):
    first = row("tmdb", provider_id="278", plot=None, language="en", poster_url=None)

    assert fill_gaps(first, fallback) == first
    assert fill_gaps(row("tmdb", "not_found"), row("omdb", "not_found")) == row("tmdb", "not_found")


def test_an_unreachable_fallback_leaves_the_title_to_the_next_run():
    first = row("tmdb", provider_id="278", plot="A plot.", language="en", poster_url=None)

    filled = fill_gaps(first, row("omdb", "unreachable", detail="HTTP 500"))

    assert filled == first | {"status": "unreachable", "detail": "omdb: HTTP 500"}
