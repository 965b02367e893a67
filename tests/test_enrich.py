"""Plots from a service that is slow, rude or wrong: one row for each title, each title asked for once, no key told."""

import asyncio
import gzip
import json
import shutil
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from mmgenre.catalog import CatalogConfig, catalog
from mmgenre.enrich import EnrichConfig, enrich
from mmgenre.errors import InputError
from mmgenre.manifest import MANIFEST, STARTED
from mmgenre.providers.http import Client, HttpConfig, retry_after
from mmgenre.providers.tmdb import TmdbConfig, TmdbKey
from mmgenre.sandbox.catalogue import DUMP, SandboxConfig, generate
from mmgenre.sandbox.faults import FaultsConfig
from mmgenre.sandbox.server import Sandbox, ServerConfig
from mmgenre.schema import CATALOG, ENRICHED
from mmgenre.tables import Table

TOKEN = "a-token-nobody-may-read"  # noqa: S105
FAULTS = FaultsConfig(
    rate=0.3, permanent=0.05, kinds=("server_error", "html", "truncated", "wrong_shape", "reset"), seed=1
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A generated catalogue, and an older one with two thirds of its titles."""
    root = tmp_path_factory.mktemp("world")
    generate(SandboxConfig(movies=640, other_titles=60), str(root))
    header, *lines = gzip.decompress((root / DUMP).read_bytes()).splitlines(keepends=True)
    (root / "older.tsv").write_bytes(b"".join([header, *lines[: len(lines) * 2 // 3]]))
    for dump, name in ((root / DUMP, "catalog"), (root / "older.tsv", "older")):
        catalog(CatalogConfig(input=str(dump), output=str(root / name), keep_unlabelled=True))
    known = {row["tconst"]: row for row in pq.read_table(root / "movies.parquet").to_pylist()}
    return SimpleNamespace(
        root=root, catalog=str(root / "catalog"), older=str(root / "older"), known=known, data=str(root)
    )


@pytest.fixture(scope="module")
def serving(world):
    """Starts a sandbox that serves the catalogue."""
    return lambda **settings: Sandbox(ServerConfig(data=world.data, **settings), TOKEN)


def ask(sandbox, catalog_folder, output, key=TOKEN, **settings):
    provider = {"kind": "tmdb", "base_url": sandbox.base_url, "image_url": sandbox.image_url}
    values = {"catalog": catalog_folder, "output": str(output), "provider": provider, "requests_per_second": 1000}
    return enrich(EnrichConfig.parse(values | settings, "test"), None if key is None else TmdbKey.from_token(key))


def ids(folder, schema=CATALOG):
    return sorted(Table(str(folder), schema).read(["imdb_id"])["imdb_id"].to_pylist())


def rows_of(folder):
    return {row["imdb_id"]: row for row in Table(str(folder), ENRICHED).read().to_pylist()}


@pytest.fixture(scope="module")
def first(local_ray, world, serving):
    """The older catalogue, enriched by two actors from a service with a limit."""
    with serving(requests_per_second=150) as sandbox:
        output = world.root / "enriched"
        manifest = ask(sandbox, world.older, output, requests_per_second=120, actors=2)
        asked = sandbox.stats()
        again = ask(sandbox, world.older, output, requests_per_second=120, actors=2)
        return SimpleNamespace(
            output=output,
            manifest=manifest,
            rows=rows_of(output),
            stats=asked,
            again=again,
            stats_again=sandbox.stats(),
            image_url=sandbox.image_url,
            poster=urllib.request.urlopen(a_poster(output), timeout=10).read(),  # noqa: S310
        )


def a_poster(output):
    return next(row["poster_url"] for row in rows_of(output).values() if row["poster_url"])


# What the answers say


def test_every_title_has_one_row_with_what_the_service_knows(world, first):
    assert sorted(first.rows) == ids(world.older)
    for imdb_id, row in first.rows.items():
        movie = world.known.get(imdb_id)
        found = [row[name] for name in ("provider", "status", "provider_id", "plot", "language", "detail")]
        if movie is None:
            assert found == ["tmdb", "not_found", None, None, None, None]
        else:
            plot = (movie["plot"] or "").strip() or None
            assert found == ["tmdb", "ok", str(movie["tmdb_id"]), plot, movie["original_language"], None]
        assert (row["poster_url"] is not None) == (movie is not None and movie["has_poster"])
    statuses = first.manifest.statuses
    assert set(statuses) == {"ok", "not_found"}
    assert first.manifest.rows == first.manifest.rows_in == sum(statuses.values())


def test_a_poster_url_leads_to_the_poster(first):
    assert a_poster(first.output).startswith(f"{first.image_url}/")
    assert first.poster.startswith(b"\xff\xd8")


def test_a_second_run_asks_nothing(first):
    assert first.again == first.manifest
    assert first.stats_again["requests"] == first.stats["requests"]


def test_each_title_is_asked_for_once_and_the_limit_is_kept(first):
    assert first.stats["rate_limited"] == 0
    assert first.stats["max_finds_per_id"] == 1
    # One more: the question whether the service answers at all.
    assert first.stats["requests"] == {"find": len(first.rows) + 1}
    assert max(first.stats["requests_per_second"].values()) <= 150


def test_a_grown_catalogue_asks_only_for_its_new_titles(world, first, serving, tmp_path):
    shutil.copytree(first.output, tmp_path / "enriched")

    with serving() as sandbox:
        manifest = ask(sandbox, world.catalog, tmp_path / "enriched")
        asked = sandbox.stats()["requests"]["find"] - 1

    rows = rows_of(tmp_path / "enriched")
    assert sorted(rows) == ids(world.catalog)
    assert asked == len(rows) - len(first.rows) > 100
    assert manifest.rows == manifest.rows_in == len(rows)
    assert {imdb_id: rows[imdb_id] for imdb_id in first.rows} == first.rows


def test_a_killed_run_asks_only_for_what_it_had_not_written(world, first, serving, tmp_path):
    output = Path(shutil.copytree(first.output, tmp_path / "enriched"))
    recipe = json.loads((output / MANIFEST).read_text())["recipe"]
    (output / STARTED).write_text(json.dumps(recipe))
    (output / MANIFEST).unlink()
    part, kept = sorted(output.glob("part-*.parquet"))
    lost = pq.read_table(part)["imdb_id"].to_pylist()
    part.unlink()

    with serving() as sandbox:
        ask(sandbox, world.older, output)
        asked = sandbox.stats()["requests"]["find"] - 1

    assert asked == len(lost)
    assert kept.exists()
    assert without_places(rows_of(output)) == without_places(first.rows)


def without_places(rows):
    """What does not depend on when and where the service was asked."""
    return {name: row | {"fetched_at": None, "poster_url": None} for name, row in rows.items()}


def test_faults_end_as_rows_and_the_key_is_told_to_nobody(local_ray, world, serving, tmp_path, capfd):
    with serving(faults=FAULTS) as sandbox:
        http = {"attempts": 4, "max_wait_s": 0.05, "timeout_s": 5}
        manifest = ask(sandbox, world.catalog, tmp_path / "enriched", http=http)
        faults = sandbox.stats()["faults"]

    rows = rows_of(tmp_path / "enriched")
    hopeless = {name for name in rows if all(FAULTS.draw(f"find {name}", attempt) for attempt in range(1, 5))}
    assert sorted(rows) == ids(world.catalog)
    assert {name for name, row in rows.items() if row["status"] == "unreachable"} == hopeless
    assert {name for name, row in rows.items() if row["status"] == "ok"} == (rows.keys() & world.known) - hopeless
    assert set(faults) == set(FAULTS.kinds)
    assert all(rows[name]["detail"] and rows[name]["plot"] is None for name in hopeless)
    assert manifest.statuses["unreachable"] == len(hopeless) > 10
    assert not places_of_the_token(tmp_path, capfd)


def places_of_the_token(folder, capfd):
    """Where the token can be read: files of the run, the terminal, the logs of the Ray session."""
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    printed = capfd.readouterr()
    files = [path for root in (folder, session / "logs") for path in root.rglob("*") if path.is_file()]
    assert len(files) > 10
    found = [str(path) for path in files if TOKEN.encode() in path.read_bytes()]
    return found + [text for text in (printed.out, printed.err) if TOKEN in text]


def test_a_service_that_wants_quiet_is_obeyed_and_loses_no_title(local_ray, world, serving, tmp_path):
    with serving(requests_per_second=100) as sandbox:
        manifest = ask(sandbox, world.older, tmp_path / "enriched", requests_per_second=200)
        stats = sandbox.stats()

    assert stats["rate_limited"] > 0
    assert "unreachable" not in manifest.statuses
    assert stats["rate_limited"] < manifest.rows


class NotedPace:
    """Lets every request go at once, and remembers the pauses it was told to make."""

    def __init__(self):
        self.pauses = []

    async def wait(self):
        pass

    async def pause(self, seconds):
        self.pauses.append(seconds)


def fetch(sandbox, pace, *imdb_ids, **settings):
    async def fetch_all():
        provider = TmdbConfig(base_url=sandbox.base_url, image_url=sandbox.image_url)
        client = Client(provider.build(TmdbKey.from_token(TOKEN)), pace, HttpConfig(max_wait_s=0.01, **settings))
        try:
            return [await client.fetch(imdb_id) for imdb_id in imdb_ids]
        finally:
            await client.close()

    return asyncio.run(fetch_all())


def test_retry_after_is_passed_on_to_the_pace_and_a_title_given_up_has_its_reason(world, serving):
    imdb_id, pace = next(iter(world.known)), NotedPace()

    with serving(requests_per_second=0.2) as sandbox:
        first, second = fetch(sandbox, pace, imdb_id, imdb_id, attempts=3)

    assert first["status"] == "ok"
    assert second == {"status": "unreachable", "detail": "HTTP 429"}
    assert len(pace.pauses) == 3
    assert 1 < min(pace.pauses) <= max(pace.pauses) == 5


def test_a_title_is_asked_for_as_often_as_allowed_and_no_more(world, serving):
    imdb_id = next(iter(world.known))
    faults = FaultsConfig(rate=1, attempts=3, kinds=("server_error",))

    with serving(faults=faults) as sandbox:
        (given_up,) = fetch(sandbox, NotedPace(), imdb_id, attempts=2)
        (late,) = fetch(sandbox, NotedPace(), imdb_id, attempts=2)

    assert given_up == {"status": "unreachable", "detail": "HTTP 500"}
    assert late["status"] == "ok"


def test_a_service_that_hangs_is_given_up_after_the_timeout(world, serving):
    faults = FaultsConfig(rate=1, attempts=9, kinds=("timeout",))

    with serving(faults=faults) as sandbox:
        (row,) = fetch(sandbox, NotedPace(), next(iter(world.known)), attempts=2, timeout_s=0.1)

    assert row == {"status": "unreachable", "detail": "TimeoutError"}


# Mistakes, found before any work


def test_a_refused_key_is_a_mistake_that_does_not_repeat_it(world, serving, tmp_path):
    with serving() as sandbox, pytest.raises(InputError) as error:
        ask(sandbox, world.older, tmp_path / "enriched", key="another-key")

    assert str(error.value) == "the provider refused the key (HTTP 401); check TMDB_TOKEN or TMDB_API_KEY"
    assert not (tmp_path / "enriched" / MANIFEST).exists()


def test_a_missing_key_is_a_mistake_that_names_the_variables(world, serving, tmp_path, monkeypatch):
    for name in ("TMDB_TOKEN", "TMDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    with serving() as sandbox, pytest.raises(InputError, match=r"set TMDB_TOKEN .* or TMDB_API_KEY"):
        ask(sandbox, world.older, tmp_path / "enriched", key=None)


def test_an_unreachable_service_is_a_mistake(world, serving, tmp_path):
    with serving() as sandbox:
        pass

    with pytest.raises(InputError) as error:
        ask(sandbox, world.older, tmp_path / "enriched", http={"attempts": 2, "max_wait_s": 0.01})

    assert str(error.value) == (
        f"{sandbox.base_url}/3/find/tt0111161: no answer (ClientConnectorError); "
        "check provider.base_url and the network"
    )


def test_another_provider_does_not_mix_with_what_is_there(world, first, tmp_path):
    output = shutil.copytree(first.output, tmp_path / "enriched")
    provider = {"kind": "dump", "path": str(world.root / "movies.parquet")}

    with pytest.raises(InputError, match=r"provider\.kind: 'dump', not 'tmdb'"):
        enrich(EnrichConfig.parse({"catalog": world.older, "output": str(output), "provider": provider}, "test"))


# Keys


@pytest.mark.parametrize(
    ("variables", "header", "parameter"),
    [
        ({"TMDB_TOKEN": "v4"}, "Bearer v4", None),
        ({"TMDB_API_KEY": "v3"}, None, "v3"),
        ({"TMDB_TOKEN": "v4", "TMDB_API_KEY": "v3"}, "Bearer v4", None),
        ({"TMDB_TOKEN": "  ", "TMDB_API_KEY": " v3\n"}, None, "v3"),
    ],
)
def test_the_environment_holds_either_kind_of_key(monkeypatch, variables, header, parameter):
    for name in ("TMDB_TOKEN", "TMDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    request = TmdbConfig().build(TmdbKey.from_environment()).request("tt0111161")

    assert request.headers.get("Authorization") == header
    assert request.params.get("api_key") == parameter


def test_a_key_is_not_shown_when_printed():
    key = TmdbKey.from_token(TOKEN)

    assert TOKEN not in f"{key} {key!r} {[key]}"


# Answers


def parse(answer):
    return TmdbConfig(image_url="http://images").build(TmdbKey.from_token(TOKEN)).parse(answer)


def answer_with(**fields):
    return {"movie_results": [{"id": 278, "overview": " A plot. ", "original_language": "en"} | fields]}


def test_an_answer_is_read():
    assert parse(answer_with(poster_path="/a_B-1.jpg")) == {
        "provider_id": "278",
        "plot": "A plot.",
        "language": "en",
        "poster_url": "http://images/a_B-1.jpg",
    }
    assert parse({"movie_results": []}) is None


@pytest.mark.parametrize("path", [None, "", 7, "//elsewhere.org/a.jpg", "/../secret.jpg", "/a.svg", "/a.jpg?x=1"])
def test_a_poster_path_that_is_none_gives_no_url(path):
    assert parse(answer_with(poster_path=path))["poster_url"] is None


@pytest.mark.parametrize("overview", [None, "", "  "])
def test_an_empty_plot_is_none(overview):
    assert parse(answer_with(overview=overview))["plot"] is None


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "busy",
        {},
        {"movie_results": None},
        {"movie_results": ["a"]},
        {"movie_results": [{}]},
        answer_with(id=None),
        answer_with(overview=7),
        answer_with(original_language=["en"]),
    ],
)
def test_an_answer_of_another_shape_is_no_movie_without_a_plot(answer):
    with pytest.raises(ValueError, match="an answer w"):
        parse(answer)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("-1", 0),
        (None, 1),
        ("soon", 1),
        ("Wed, 01 Jan 2025 00:00:07 GMT", 7),
        ("Tue, 31 Dec 2024 00:00:00 GMT", 0),
    ],
)
def test_a_pause_is_asked_for_in_seconds_or_until_a_date(header, seconds):
    assert retry_after(header, datetime(2025, 1, 1, tzinfo=UTC)) == seconds


# A file in place of a service


def test_an_enriched_file_gives_a_row_to_every_title(world, tmp_path):
    known = dict(list(world.known.items())[:100])
    path = tmp_path / "plots.csv"
    path.write_text(
        "tconst,overview,original_language\n" + "".join(f'{name},"A ""plot"" of {name}.",fr\n' for name in known)
    )
    values = {"catalog": world.older, "output": str(tmp_path / "enriched")}

    manifest = enrich(EnrichConfig.parse(values | {"provider": {"kind": "dump", "path": str(path)}}, "test"))

    rows = rows_of(tmp_path / "enriched")
    assert sorted(rows) == ids(world.older)
    for name, row in rows.items():
        expected = ("ok", f'A "plot" of {name}.', "fr") if name in known else ("not_found", None, None)
        assert (row["status"], row["plot"], row["language"]) == expected
        assert (row["provider"], row["poster_url"]) == ("dump", None)
    assert manifest.statuses["ok"] == len(rows.keys() & known)
