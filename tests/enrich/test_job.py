"""Plots from a slow, misbehaving or broken service: one row and one request per title, and the key stays secret."""

import gzip
import json
import re
import shutil
import urllib.request
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmgenre.catalog.job import CatalogConfig, catalog
from mmgenre.enrich.job import EnrichConfig, enrich, plan
from mmgenre.errors import InputError
from mmgenre.sandbox.catalogue import DUMP, SandboxConfig, generate
from mmgenre.sandbox.faults import FaultsConfig
from mmgenre.sandbox.server import Sandbox, ServerConfig
from mmgenre.tables.manifest import MANIFEST
from mmgenre.tables.output import STARTED
from mmgenre.tables.schema import CATALOG, ENRICHED
from mmgenre.tables.table import Table
from mmgenre.tables.user_files import describe

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
    by_id = {row["tconst"]: row for row in pq.read_table(root / "movies.parquet").to_pylist()}
    return SimpleNamespace(
        root=root, catalog=str(root / "catalog"), older=str(root / "older"), by_id=by_id, data=str(root)
    )


@pytest.fixture(scope="module")
def serving(world):
    """Creates sandboxes that serve the catalogue."""
    return lambda **settings: Sandbox(ServerConfig(data=world.data, **settings), TOKEN)


def run(sandbox, catalog_folder, output, key=TOKEN, **settings):
    keys = {"TMDB_TOKEN": key, "OMDB_API_KEY": key} if key else {}
    return enrich(config_of(sandbox, catalog_folder, output, **settings), keys)


def config_of(sandbox, catalog_folder, output, **settings):
    provider = {"kind": "tmdb", "base_url": sandbox.base_url, "image_url": sandbox.image_url}
    values = {"catalog": catalog_folder, "output": str(output), "provider": provider, "requests_per_second": 1000}
    return EnrichConfig.parse(values | settings, "test")


def ids(folder, schema=CATALOG):
    return sorted(Table(str(folder), schema).read(["imdb_id"])["imdb_id"].to_pylist())


def rows_of(folder):
    return {row["imdb_id"]: row for row in Table(str(folder), ENRICHED).read().to_pylist()}


@pytest.fixture(scope="module")
def first(local_ray, world, serving):
    """The older catalogue, enriched by two actors from a service with a rate limit."""
    with serving(requests_per_second=150) as sandbox:
        output = world.root / "enriched"
        manifest = run(sandbox, world.older, output, requests_per_second=120, actors=2)
        stats = sandbox.stats()
        again = run(sandbox, world.older, output, requests_per_second=120, actors=2)
        return SimpleNamespace(
            output=output,
            manifest=manifest,
            rows=rows_of(output),
            stats=stats,
            again=again,
            stats_again=sandbox.stats(),
            image_url=sandbox.image_url,
            poster=urllib.request.urlopen(a_poster(output), timeout=10).read(),  # noqa: S310
        )


def a_poster(output):
    return next(row["poster_url"] for row in rows_of(output).values() if row["poster_url"])


# Rows


def test_every_title_gets_one_row_with_the_services_data(world, first):
    assert sorted(first.rows) == ids(world.older)
    for imdb_id, row in first.rows.items():
        movie = world.by_id.get(imdb_id)
        values = [row[name] for name in ("provider", "status", "provider_id", "plot", "language", "detail")]
        if movie is None:
            assert values == ["tmdb", "not_found", None, None, None, None]
        else:
            plot = (movie["plot"] or "").strip() or None
            assert values == ["tmdb", "ok", str(movie["tmdb_id"]), plot, movie["original_language"], None]
        assert (row["poster_url"] is not None) == (movie is not None and movie["has_poster"])
    statuses = first.manifest.statuses
    assert set(statuses) == {"ok", "not_found"}
    assert first.manifest.rows == first.manifest.rows_in == sum(statuses.values())


def test_a_poster_url_leads_to_the_poster(first):
    assert a_poster(first.output).startswith(f"{first.image_url}/")
    assert first.poster.startswith(b"\xff\xd8")


def test_a_second_run_sends_no_requests(first):
    assert first.again == first.manifest
    assert first.stats_again["requests"] == first.stats["requests"]


def test_each_title_is_requested_once_within_the_rate_limit(first):
    assert first.stats["rate_limited"] == 0
    assert first.stats["max_finds_per_id"] == 1
    assert first.stats["requests"] == {"find": len(first.rows), "configuration": 1}
    assert max(first.stats["requests_per_second"].values()) <= 150


def test_only_the_new_titles_of_a_grown_catalogue_are_fetched(world, first, serving, tmp_path):
    shutil.copytree(first.output, tmp_path / "enriched")

    with serving() as sandbox:
        manifest = run(sandbox, world.catalog, tmp_path / "enriched")
        num_requests = sandbox.stats()["requests"]["find"]

    rows = rows_of(tmp_path / "enriched")
    assert sorted(rows) == ids(world.catalog)
    assert num_requests == len(rows) - len(first.rows) > 100
    assert manifest.rows == manifest.rows_in == len(rows)
    assert {imdb_id: rows[imdb_id] for imdb_id in first.rows} == first.rows


def test_after_a_kill_only_missing_titles_are_fetched(world, first, serving, tmp_path):
    output = Path(shutil.copytree(first.output, tmp_path / "enriched"))
    recipe = json.loads((output / MANIFEST).read_text())["recipe"]
    (output / STARTED).write_text(json.dumps(recipe))
    (output / MANIFEST).unlink()
    (part,) = output.glob("part-*.parquet")
    rows = pq.read_table(part)
    pq.write_table(rows.slice(0, 150), part)

    with serving() as sandbox:
        manifest = run(sandbox, world.older, output)
        num_requests = sandbox.stats()["requests"]["find"]

    assert num_requests == len(rows) - 150
    assert without_time_and_url(rows_of(output)) == without_time_and_url(first.rows)
    assert manifest.rows == len(rows)


def changed(first, folder, change):
    """A copy of the finished table, with its rows changed."""
    output = Path(shutil.copytree(first.output, folder))
    (part,) = output.glob("part-*.parquet")
    rows = [change(row) for row in pq.read_table(part).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, ENRICHED), part)
    return output


def test_unreachable_and_old_titles_are_fetched_again(world, first, serving, tmp_path):
    names = sorted(first.rows)
    lost, old, recent = names[:3], names[3:8], names[8:12]

    def change(row):
        if row["imdb_id"] in lost:
            return row | {"status": "unreachable", "detail": "HTTP 500", "plot": None}
        days = 181 if row["imdb_id"] in old else 179 if row["imdb_id"] in recent else 0
        return row | {"fetched_at": row["fetched_at"] - timedelta(days=days)}

    output = changed(first, tmp_path / "enriched", change)
    with serving() as sandbox:
        config = config_of(sandbox, world.older, output)
        fetch_plan = plan(config)
        requests_of_plan = sandbox.stats()["requests"]
        manifest = run(sandbox, world.older, output)
        num_requests = sandbox.stats()["requests"]["find"]

    assert (fetch_plan.new, fetch_plan.unreachable, fetch_plan.old) == (0, 3, 5)
    assert f"8 of {len(names)} titles would be fetched" in str(fetch_plan)
    assert requests_of_plan == {}
    assert num_requests == 8
    assert without_time_and_url(rows_of(output)) == without_time_and_url(first.rows)
    assert manifest.rows == len(names)


def test_rows_never_become_old_without_a_maximum_age(world, first, serving, tmp_path):
    output = changed(
        first, tmp_path / "enriched", lambda row: row | {"fetched_at": row["fetched_at"].replace(year=1999)}
    )

    with serving() as sandbox:
        assert plan(config_of(sandbox, world.older, output)).old == len(first.rows)
        assert plan(config_of(sandbox, world.older, output, max_age_days=None)).due == 0


def test_a_plan_estimates_the_time_and_writes_nothing(world, serving, tmp_path):
    with serving() as sandbox:
        fetch_plan = plan(config_of(sandbox, world.older, tmp_path / "enriched", requests_per_second=0.5))

    assert fetch_plan.new == fetch_plan.total == len(ids(world.older))
    assert f"{round(fetch_plan.total / 30)} min at 0.5 requests/s" in str(fetch_plan)
    assert not (tmp_path / "enriched").exists()


def without_time_and_url(rows):
    """The rows without the columns that depend on when and where they were fetched."""
    return {name: row | {"fetched_at": None, "poster_url": None} for name, row in rows.items()}


def test_faults_become_rows_and_the_key_stays_secret(local_ray, world, serving, tmp_path, capfd):
    with serving(faults=FAULTS) as sandbox:
        http = {"attempts": 4, "max_wait_s": 0.05, "timeout_s": 5}
        manifest = run(sandbox, world.catalog, tmp_path / "enriched", http=http)
        faults = sandbox.stats()["faults"]

    rows = rows_of(tmp_path / "enriched")
    hopeless = {name for name in rows if all(FAULTS.draw(f"find {name}", attempt) for attempt in range(1, 5))}
    assert sorted(rows) == ids(world.catalog)
    assert {name for name, row in rows.items() if row["status"] == "unreachable"} == hopeless
    assert {name for name, row in rows.items() if row["status"] == "ok"} == (rows.keys() & world.by_id) - hopeless
    assert set(faults) == set(FAULTS.kinds)
    assert all(rows[name]["detail"] and rows[name]["plot"] is None for name in hopeless)
    assert manifest.statuses["unreachable"] == len(hopeless) > 10
    assert not places_with_the_token(tmp_path, capfd)


def places_with_the_token(folder, capfd):
    """Places that contain the token: the run's files, the terminal, the logs of the Ray session."""
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())
    printed = capfd.readouterr()
    files = [path for root in (folder, session / "logs") for path in root.rglob("*") if path.is_file()]
    assert len(files) > 10
    places = [str(path) for path in files if TOKEN.encode() in path.read_bytes()]
    return places + [text for text in (printed.out, printed.err) if TOKEN in text]


def test_429s_slow_the_job_down_and_lose_no_title(local_ray, world, serving, tmp_path):
    with serving(requests_per_second=100) as sandbox:
        manifest = run(sandbox, world.older, tmp_path / "enriched", requests_per_second=200)
        stats = sandbox.stats()

    assert stats["rate_limited"] > 0
    assert "unreachable" not in manifest.statuses
    assert stats["rate_limited"] < manifest.rows


def test_a_fallback_fills_the_gaps_of_the_first_service(local_ray, world, serving, tmp_path):
    """The sandbox serves the same data as TMDB and OMDb, so this TMDB is a sandbox with half of the movies."""
    half = tmp_path / "half"
    half.mkdir()
    movies = pq.read_table(f"{world.data}/movies.parquet")
    pq.write_table(movies.slice(0, 100), half / "movies.parquet")

    with Sandbox(ServerConfig(data=str(half)), TOKEN) as tmdb, serving() as omdb:
        fallback = {"kind": "omdb", "base_url": omdb.base_url}
        manifest = run(tmdb, world.older, tmp_path / "enriched", fallback=fallback)
        num_requests = omdb.stats()["requests"]["omdb"] - 1

    rows = rows_of(tmp_path / "enriched")
    by_tmdb = [row for row in rows.values() if row["provider"] == "tmdb"]
    incomplete = [row for row in by_tmdb if None in (row["plot"], row["poster_url"])]
    by_omdb = {name for name, row in rows.items() if row["provider"] == "omdb"}
    assert by_omdb == (rows.keys() & world.by_id) - set(movies["tconst"][:100].to_pylist())
    assert all(rows[name]["plot"] == ((world.by_id[name]["plot"] or "").strip() or None) for name in by_omdb)
    assert num_requests == len(by_omdb) + len(incomplete)
    assert manifest.recipe.settings["fallback"] == {"kind": "omdb"}


def test_a_used_up_quota_stops_the_job_and_the_next_run_resumes(local_ray, world, serving, tmp_path):
    output = tmp_path / "enriched"

    def run_omdb(sandbox):
        provider = {"kind": "omdb", "base_url": sandbox.base_url}
        config = {"catalog": world.older, "output": str(output), "provider": provider, "requests_per_second": 1000}
        return enrich(EnrichConfig.parse(config, "test"), {"OMDB_API_KEY": TOKEN})

    with serving(omdb_quota=101) as today, pytest.raises(InputError) as stopped:
        run_omdb(today)
    kept = sum(pq.read_metadata(part).num_rows for part in output.glob("part-*.parquet"))
    with serving() as tomorrow:
        manifest = run_omdb(tomorrow)
        num_requests = tomorrow.stats()["requests"]["omdb"] - 1

    total = len(ids(world.older))
    assert str(stopped.value).startswith("OMDb: the key's daily quota is used up; resume after 20")
    assert str(stopped.value).endswith(f"; 100 of {total} rows are written, run the same command again to resume")
    assert kept == 100
    assert num_requests == total - 100
    assert manifest.rows == total


def test_a_key_revoked_during_the_run_stops_the_job_without_losing_rows(local_ray, world, serving, tmp_path):
    with serving(revoke_after=50) as sandbox, pytest.raises(InputError, match="TMDB refused the key") as stopped:
        run(sandbox, world.older, tmp_path / "enriched")

    kept = sum(pq.read_metadata(part).num_rows for part in (tmp_path / "enriched").glob("part-*.parquet"))
    assert f"; {kept} of " in str(stopped.value)
    assert 40 < kept < 51
    assert not (tmp_path / "enriched" / MANIFEST).exists()


# Input errors, reported before any work


def test_a_refused_key_is_an_input_error_that_does_not_print_it(world, serving, tmp_path):
    with serving() as sandbox, pytest.raises(InputError) as error:
        run(sandbox, world.older, tmp_path / "enriched", key="another-key")

    assert str(error.value).startswith("TMDB refused the key (HTTP 401, code 7: Invalid API key")
    assert str(error.value).endswith("; check TMDB_TOKEN or TMDB_API_KEY")
    assert "another-key" not in str(error.value)
    assert not (tmp_path / "enriched").exists()


def test_a_missing_key_is_an_input_error(world, serving, tmp_path):
    with serving() as sandbox, pytest.raises(InputError, match=r"set TMDB_TOKEN .* or TMDB_API_KEY"):
        run(sandbox, world.older, tmp_path / "enriched", key=None)


def test_rows_of_different_providers_are_not_mixed(world, first, tmp_path):
    output = shutil.copytree(first.output, tmp_path / "enriched")
    provider = {"kind": "dump", "path": str(world.root / "movies.parquet")}

    with pytest.raises(InputError, match=r"provider\.kind: 'dump', not 'tmdb'"):
        enrich(EnrichConfig.parse({"catalog": world.older, "output": str(output), "provider": provider}, "test"))


@pytest.mark.parametrize("provider", [{"kind": "omdb"}, {"kind": "dump", "path": "plots.csv"}])
def test_a_fallback_needs_another_web_service(provider):
    values = {"catalog": "a", "output": "b", "provider": provider, "fallback": {"kind": "omdb"}}

    with pytest.raises(InputError, match=f"fallback omdb does not work with provider {provider['kind']}"):
        EnrichConfig.parse(values, "test")


# An enriched file


def test_every_title_gets_a_row_from_an_enriched_file(world, tmp_path):
    known = dict(list(world.by_id.items())[:100])
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


def test_rows_that_a_newer_file_lacks_do_not_stay(world, tmp_path):
    names = ids(world.older)[:4]
    path = tmp_path / "plots.csv"

    def plots(known):
        path.write_text("imdb_id,plot\n" + "".join(f"{name},Plot of {name}.\n" for name in known))
        values = {"catalog": world.older, "output": str(tmp_path / "enriched")}
        enrich(EnrichConfig.parse(values | {"provider": {"kind": "dump", "path": str(path)}}, "test"))
        return {name: row["status"] for name, row in rows_of(tmp_path / "enriched").items() if name in names}

    assert plots(names[:3]) == dict(zip(names, ["ok", "ok", "ok", "not_found"], strict=True))
    assert plots(names[2:]) == dict(zip(names, ["not_found", "not_found", "ok", "ok"], strict=True))


def test_titles_that_the_catalogue_dropped_leave_the_table(world, tmp_path):
    path = tmp_path / "plots.csv"
    path.write_text("imdb_id,plot\n" + "".join(f"{name},Plot of {name}.\n" for name in world.by_id))
    provider = {"kind": "dump", "path": str(path)}
    for catalogue in (world.catalog, world.older):
        values = {"catalog": catalogue, "output": str(tmp_path / "enriched"), "provider": provider}
        manifest = enrich(EnrichConfig.parse(values, "test"))

        assert sorted(rows_of(tmp_path / "enriched")) == ids(catalogue)
        assert manifest.rows == manifest.rows_in


def from_file(world, path, output, **provider):
    provider = {"kind": "dump", "path": str(path)} | provider
    values = {"catalog": world.older, "output": str(output), "provider": provider}
    return enrich(EnrichConfig.parse(values, "test"))


def test_numbers_of_imdb_ids_match_and_are_told(world, tmp_path):
    known = list(world.by_id)[:100]
    path = tmp_path / "links.csv"
    path.write_text("imdbId,overview,language\n" + "".join(f"{int(name[2:])},A plot.,English\n" for name in known))

    manifest = from_file(world, path, tmp_path / "enriched")

    rows = rows_of(tmp_path / "enriched")
    assert {name for name, row in rows.items() if row["status"] == "ok"} == rows.keys() & known
    assert {row["language"] for row in rows.values()} == {"en", None}
    assert "100 ids completed, as in 31: tt0000031" in describe(manifest)


@pytest.mark.parametrize("match", [0, 1])
def test_a_file_with_ids_of_another_kind_is_refused_before_the_table_changes(world, tmp_path, match):
    path = tmp_path / "tmdb.csv"
    some = "".join(f"{name},A plot.\n" for name in list(world.by_id)[:match])
    path.write_text("id,overview\n" + "".join(f"{number},A plot.\n" for number in range(900_000, 900_500)) + some)

    with pytest.raises(InputError) as error:
        from_file(world, path, tmp_path / "enriched")

    assert re.search(
        rf"tmdb\.csv: {'only 1' if match else 'none'} of its 50{match} ids \(such as 900000, .*\) match the [\d,]+ ids "
        r"\(such as tt\d+, .* of .*older; expected IMDb's ids, in a column imdb_id",
        str(error.value),
    )
    assert not (tmp_path / "enriched").exists()


def test_skipped_rows_are_in_the_manifest_and_the_last_lines(world, tmp_path):
    known = list(world.by_id)[:100]
    path = tmp_path / "plots.csv"
    path.write_text("id,plot\n,no id\n" + "".join(f"{name},A plot.\n" for name in [*known, known[0]]))

    with pytest.raises(InputError, match=r"1 rows without an id: line 2; 1 rows with the id of another row: line 103"):
        from_file(world, path, tmp_path / "enriched")
    manifest = from_file(world, path, tmp_path / "enriched", on_bad_rows="skip")

    assert manifest.notes["files"]["provider"]["skipped"] == {"no_id": 1, "duplicate_id": 1}
    assert "100 rows; 2 rows skipped (1 without an id, 1 with the id of another row)" in describe(manifest)
