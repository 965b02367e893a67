"""Posters from a host that is busy, broken or hostile: one row for every movie, and nothing but small RGB JPEGs."""

import asyncio
import hashlib
import io
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from mmgenre.errors import InputError
from mmgenre.posters.job import ByteBudget, PostersConfig, posters
from mmgenre.sandbox import responses as answers
from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.sandbox.image_faults import ImageFaultsConfig, huge_png
from mmgenre.sandbox.server import Sandbox, ServerConfig
from mmgenre.tables.schema import ENRICHED, POSTERS, PosterStatus
from mmgenre.tables.table import Table

# All but a server that drips, which only a short time-out makes short.
KINDS = tuple(kind for kind in ImageFaultsConfig().kinds if kind != "drip")
FAULTS = ImageFaultsConfig(rate=0.75, attempts=9, seed=3, kinds=KINDS)
ATTEMPTS = 2
# What a fault makes of a poster, and whether another attempt is made.
FINAL = {
    **dict.fromkeys(("cmyk", "palette_png", "alpha_png", "deep_png", "webp", "animated", "redirect_home", None), "ok"),
    "placeholder": "placeholder",
    **dict.fromkeys(("huge_png", "endless"), "too_large"),
    **dict.fromkeys(("redirect_loopback", "redirect_elsewhere"), "forbidden"),
}
PASSING = {
    **dict.fromkeys(("server_error", "truncated"), "unreachable"),
    **dict.fromkeys(("cut_off", "empty", "html", "gif"), "not_an_image"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A generated catalogue, served."""
    root = tmp_path_factory.mktemp("world")
    generate(SandboxConfig(movies=240, other_titles=0), str(root))
    return SimpleNamespace(data=str(root), movies=answers.load_movies(str(root)))


@pytest.fixture
def enriched(world, tmp_path, write_table):
    """Writes ENRICHED for a sandbox's movies, or for some of them."""

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
        known = {field.name: columns.get(field.name, [None] * len(movies)) for field in ENRICHED}
        return write_table(tmp_path / f"enriched-{count}-{len(address)}", ENRICHED, known)

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
        status = PASSING[kind]
    return status


def test_every_movie_has_the_status_that_its_host_has_earned(local_ray, world, enriched, tmp_path):
    huge_png()  # made once, and slowly: not while a client waits
    with serving(world, image_faults=FAULTS) as sandbox:
        manifest = download(sandbox, enriched(sandbox), tmp_path / "posters")
        stats = sandbox.stats()

    rows = rows_of(tmp_path / "posters")
    assert {name: row["status"] for name, row in rows.items()} == {
        movie.imdb_id: expected(movie) for movie in world.movies
    }
    assert set(manifest.statuses) == set(PosterStatus) - {"not_found"}
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
    """Half of the movies, their posters stored and exported, by a host that stays up."""
    root = tmp_path_factory.mktemp("first")
    with serving(world) as sandbox:
        yield SimpleNamespace(root=root, sandbox=sandbox, output=root / "posters", exported=root / "files")


def test_a_second_run_downloads_nothing_and_a_grown_table_only_what_is_new(first, world, enriched):
    half, whole = enriched(first.sandbox, 100), enriched(first.sandbox)
    with_poster = {movie.imdb_id for movie in world.movies[:100] if movie.poster}

    manifest = download(first.sandbox, half, first.output, export_dir=str(first.exported))
    asked = first.sandbox.stats()["requests"]["image"]
    again = download(first.sandbox, half, first.output)
    grown = download(first.sandbox, whole, first.output)

    assert manifest.statuses == {"ok": len(with_poster), "no_poster": 100 - len(with_poster)}
    assert asked == len(with_poster)
    assert again == manifest
    assert grown.rows == len(world.movies)
    assert first.sandbox.stats()["requests"]["image"] == sum(movie.poster is not None for movie in world.movies)
    files = {path.stem: path.read_bytes() for path in (first.exported / "posters").iterdir()}
    assert files == {name: row["image"] for name, row in rows_of(first.output).items() if name in files}
    assert set(files) == with_poster


def test_a_movie_with_another_poster_than_before_gets_that_one(first, world, enriched):
    before = first.sandbox.stats()["requests"]["image"]

    download(first.sandbox, enriched(first.sandbox, None, "{url}/{poster}?other"), first.output)

    num_posters = sum(movie.poster is not None for movie in world.movies)
    assert first.sandbox.stats()["requests"]["image"] - before == num_posters


def test_a_host_that_is_not_allowed_is_not_asked_until_it_is(local_ray, world, enriched, tmp_path):
    with serving(world) as sandbox:
        table = enriched(sandbox, 30)
        refused = download(sandbox, table, tmp_path / "posters", allowed_hosts=["image.tmdb.org"])
        asked = sandbox.stats()["requests"]
        allowed = download(sandbox, table, tmp_path / "posters")

    num_posters = sum(movie.poster is not None for movie in world.movies[:30])
    assert refused.statuses["forbidden"] == num_posters
    assert asked == {}
    assert allowed.statuses["ok"] == num_posters


def test_a_host_that_drips_is_given_up_after_the_timeout(local_ray, world, enriched, tmp_path):
    with serving(world, image_faults=ImageFaultsConfig(rate=1, attempts=9, kinds=("drip",))) as sandbox:
        download(sandbox, enriched(sandbox, 10), tmp_path / "posters", timeout_s=0.5)

    details = {row["detail"] for row in rows_of(tmp_path / "posters").values() if row["status"] == "unreachable"}
    assert details == {"TimeoutError"}


def test_other_sizes_do_not_mix(first, enriched):
    with pytest.raises(InputError, match="max_side: 100, not 384"):
        download(first.sandbox, enriched(first.sandbox, 100), first.output, max_side=100)


def test_an_image_that_is_large_in_bytes_is_broken_off(local_ray, world, enriched, tmp_path):
    with serving(world) as sandbox:
        manifest = download(sandbox, enriched(sandbox, 20), tmp_path / "posters", max_bytes=1000)

    details = pc.unique(Table(str(tmp_path / "posters"), POSTERS).read(["detail"])["detail"]).to_pylist()
    assert manifest.statuses["too_large"] > 10
    assert "more than 1,000 bytes" in details


def test_bytes_in_flight_are_bounded_and_given_back():
    held, most = [], []

    async def hold(budget, num_bytes):
        async with budget.share() as share:
            await share.take(num_bytes)
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


def test_one_download_larger_than_the_budget_still_comes_through():
    async def one():
        async with ByteBudget(10).share() as share:
            await share.take(1000)
            return share.num_bytes

    assert asyncio.run(asyncio.wait_for(one(), 1)) == 10
