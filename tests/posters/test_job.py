"""Posters from a host that is busy, broken or hostile: one row per movie, and small RGB JPEGs only."""

import hashlib
import io
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmgenre.errors import InputError
from mmgenre.posters.job import PostersConfig, posters
from mmgenre.sandbox import responses
from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.sandbox.faults import bomb
from mmgenre.sandbox.image_faults import ImageFaultsConfig, huge_png
from mmgenre.sandbox.server import Sandbox, ServerConfig
from mmgenre.tables.schema import ENRICHED, POSTERS, PosterStatus
from mmgenre.tables.table import Table

# All except drip, which needs a short timeout to be quick.
KINDS = tuple(kind for kind in ImageFaultsConfig().kinds if kind != "drip")
FAULTS = ImageFaultsConfig(rate=0.75, attempts=9, seed=3, kinds=KINDS)
ATTEMPTS = 2
# The status that a fault leads to: at once, or if the last attempt ends with it.
FINAL = {
    **dict.fromkeys(
        (
            "cmyk",
            "palette_png",
            "alpha_png",
            "deep_png",
            "webp",
            "animated",
            "redirect_home",
            "no_end",
            "gzip",
            "gzip_unnamed",
            None,
        ),
        "ok",
    ),
    "placeholder": "placeholder",
    **dict.fromkeys(("huge_png", "endless", "gzip_bomb"), "too_large"),
    **dict.fromkeys(("redirect_loopback", "redirect_elsewhere"), "forbidden_target"),
}
RETRIED = {
    **dict.fromkeys(("server_error", "truncated"), "unreachable"),
    **dict.fromkeys(("cut_off", "empty", "html", "gif"), "not_an_image"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A generated catalogue."""
    root = tmp_path_factory.mktemp("world")
    generate(SandboxConfig(movies=240, other_titles=0), str(root))
    return SimpleNamespace(data=str(root), movies=responses.load_movies(str(root)))


@pytest.fixture
def enriched(world, tmp_path, write_table):
    """Writes an ENRICHED table for the first `count` movies of a sandbox."""

    def write(sandbox, count=None, address="{url}/{poster}"):
        def url(movie):
            return movie.poster and address.format(url=sandbox.image_url, poster=movie.poster)

        movies = world.movies[:count]
        columns = {
            "imdb_id": [movie.imdb_id for movie in movies],
            "provider": ["tmdb"] * len(movies),
            "status": ["ok"] * len(movies),
            "poster_url": [url(movie) for movie in movies],
            "fetched_at": pa.array([0] * len(movies), pa.timestamp("s", tz="UTC")),
        }
        rows = {field.name: columns.get(field.name, [None] * len(movies)) for field in ENRICHED}
        return write_table(tmp_path / f"enriched-{count}-{len(address)}", ENRICHED, rows)

    return write


def serving(world, **settings):
    return Sandbox(ServerConfig(data=world.data, **settings), "token")


def download(sandbox, enriched, output, timeout_s=30, **settings):
    host = sandbox.base_url.removeprefix("http://")
    http = {"attempts": ATTEMPTS, "max_wait_s": 0.05, "timeout_s": timeout_s}
    values = {"enriched": enriched, "output": str(output), "allowed_hosts": [host], "allow_private": True}
    return posters(PostersConfig.parse(values | {"actors": 1, "http": http} | settings, "test"))


def rows_of(folder):
    return {row["imdb_id"]: row for row in Table(str(folder), POSTERS).read().to_pylist()}


def expected(movie):
    if movie.poster is None:
        return "no_poster"
    status = ""
    for attempt in range(1, ATTEMPTS + 1):
        kind = FAULTS.draw(f"image {movie.poster}", attempt)
        if kind in FINAL:
            return FINAL[kind]
        status = RETRIED[kind]
    return status


def test_every_movie_gets_the_status_that_its_faults_lead_to(local_ray, world, enriched, tmp_path):
    huge_png(), bomb()  # slow the first time: not while a client waits
    with serving(world, image_faults=FAULTS) as sandbox:
        manifest = download(sandbox, enriched(sandbox), tmp_path / "posters")
        stats = sandbox.stats()

    rows = rows_of(tmp_path / "posters")
    assert {name: row["status"] for name, row in rows.items()} == {
        movie.imdb_id: expected(movie) for movie in world.movies
    }
    assert set(manifest.statuses) == set(PosterStatus) - {"not_found", "forbidden"}
    assert set(stats["image_faults"]) == set(FAULTS.kinds)
    assert "secret" not in stats["requests"]
    assert stats["keys_at_image_host"] == 0
    for row in rows.values():
        assert (row["image"] is not None) == (row["status"] == "ok")
        assert (row["detail"] is None) == (row["status"] in ("ok", "no_poster"))
        if row["image"] is not None:
            with Image.open(io.BytesIO(row["image"])) as image:
                assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (row["width"], row["height"]))
            assert max(row["width"], row["height"]) <= 384
            assert row["sha256"] == hashlib.sha256(row["image"]).hexdigest()


@pytest.fixture(scope="module")
def first(local_ray, world, tmp_path_factory, write_table):
    """Folders for posters of a host that runs until the module's tests are done."""
    root = tmp_path_factory.mktemp("first")
    with serving(world) as sandbox:
        yield SimpleNamespace(root=root, sandbox=sandbox, output=root / "posters", exported=root / "files")


def test_a_second_run_downloads_nothing_and_a_grown_table_only_new_posters(first, world, enriched):
    half, whole = enriched(first.sandbox, 100), enriched(first.sandbox)
    with_poster = {movie.imdb_id for movie in world.movies[:100] if movie.poster}

    manifest = download(first.sandbox, half, first.output, export_dir=str(first.exported))
    num_requests = first.sandbox.stats()["requests"]["image"]
    again = download(first.sandbox, half, first.output)
    grown = download(first.sandbox, whole, first.output)

    assert manifest.statuses == {"ok": len(with_poster), "no_poster": 100 - len(with_poster)}
    assert num_requests == len(with_poster)
    assert again == manifest
    assert grown.rows == len(world.movies)
    assert first.sandbox.stats()["requests"]["image"] == sum(movie.poster is not None for movie in world.movies)
    files = {path.stem: path.read_bytes() for path in (first.exported / "posters").iterdir()}
    assert files == {name: row["image"] for name, row in rows_of(first.output).items() if name in files}
    assert set(files) == with_poster


def test_a_movie_whose_poster_url_changed_gets_the_new_poster(first, world, enriched):
    before = first.sandbox.stats()["requests"]["image"]

    download(first.sandbox, enriched(first.sandbox, None, "{url}/{poster}?other"), first.output)

    num_posters = sum(movie.poster is not None for movie in world.movies)
    assert first.sandbox.stats()["requests"]["image"] - before == num_posters


def test_a_host_is_not_contacted_until_it_is_allowed(local_ray, world, enriched, tmp_path):
    with serving(world) as sandbox:
        table = enriched(sandbox, 30)
        refused = download(sandbox, table, tmp_path / "posters", allowed_hosts=["image.tmdb.org"])
        requests = sandbox.stats()["requests"]
        allowed = download(sandbox, table, tmp_path / "posters")

    num_posters = sum(movie.poster is not None for movie in world.movies[:30])
    assert refused.statuses["forbidden"] == num_posters
    assert requests == {}
    assert allowed.statuses["ok"] == num_posters


@pytest.mark.parametrize("text", ["N/A", "n/a", " N/A ", "", "  ", "None", "nan", "NULL", "\\N", "-"])
def test_a_text_in_place_of_a_url_is_no_poster(tmp_path, write_table, text):
    ids = ["tt0000001", "tt0000002"]
    columns = {
        "imdb_id": ids,
        "provider": ["dump"] * 2,
        "status": ["ok"] * 2,
        "poster_url": [text, None],
        "fetched_at": pa.array([0] * 2, pa.timestamp("s", tz="UTC")),
    }
    enriched = write_table(tmp_path / "enriched", ENRICHED, columns)

    config = PostersConfig(enriched=enriched, output=str(tmp_path / "posters"))
    manifest = posters(config)

    assert manifest.statuses == {"no_poster": 2}
    assert {row["poster_url"] for row in rows_of(config.output).values()} == {None}
    # Nothing is left to do.
    assert posters(config) == manifest


def test_the_image_hosts_of_both_services_are_allowed():
    rules = PostersConfig(enriched="in", output="out").host_rules()

    for host in ("image.tmdb.org", "m.media-amazon.com", "images-na.ssl-images-amazon.com"):
        assert rules.check(f"https://{host}/images/M/a.jpg").host == host


def test_a_url_that_leads_to_a_forbidden_one_is_requested_once(local_ray, world, enriched, tmp_path):
    elsewhere = ImageFaultsConfig(rate=1, attempts=9, kinds=("redirect_elsewhere",))
    with serving(world, image_faults=elsewhere) as sandbox:
        table = enriched(sandbox, 10)
        manifest = download(sandbox, table, tmp_path / "posters")
        num_requests = sandbox.stats()["requests"]["image"]
        again = download(sandbox, table, tmp_path / "posters")
        assert sandbox.stats()["requests"]["image"] == num_requests

        # Tables of earlier versions have the status `forbidden` here: their rows are fetched once more.
        (part,) = (tmp_path / "posters").glob("part-*.parquet")
        rows = pq.read_table(part)
        columns = dict(zip(rows.column_names, rows.columns, strict=True))
        columns["status"] = pc.replace_substring(rows["status"], "forbidden_target", "forbidden")
        pq.write_table(pa.table(columns, schema=rows.schema), part)
        renewed = download(sandbox, table, tmp_path / "posters")

    assert manifest.statuses["forbidden_target"] == num_requests > 5
    assert again == manifest
    assert renewed.statuses == manifest.statuses
    details = {row["detail"] for row in rows_of(tmp_path / "posters").values() if row["status"] != "no_poster"}
    assert details == {"redirect: example.org is not an allowed host"}


def test_a_poster_that_trickles_in_times_out(local_ray, world, enriched, tmp_path):
    with serving(world, image_faults=ImageFaultsConfig(rate=1, attempts=9, kinds=("drip",))) as sandbox:
        download(sandbox, enriched(sandbox, 10), tmp_path / "posters", timeout_s=0.5)

    details = {row["detail"] for row in rows_of(tmp_path / "posters").values() if row["status"] == "unreachable"}
    assert details == {"TimeoutError"}


def test_posters_of_different_sizes_are_not_mixed(first, enriched):
    with pytest.raises(InputError, match="max_side: 100, not 384"):
        download(first.sandbox, enriched(first.sandbox, 100), first.output, max_side=100)


def test_a_download_that_is_too_long_is_aborted(local_ray, world, enriched, tmp_path):
    with serving(world) as sandbox:
        manifest = download(sandbox, enriched(sandbox, 20), tmp_path / "posters", max_bytes=1000)

    details = pc.unique(Table(str(tmp_path / "posters"), POSTERS).read(["detail"])["detail"]).to_pylist()
    assert manifest.statuses["too_large"] > 10
    assert "more than 1,000 bytes" in details
