"""Faults of the local server: broken responses and hostile posters, reproducibly drawn."""

import gzip
import http.client
import io
import json
import struct
import time
import zlib
from typing import get_args
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from PIL import Image

from mmgenre.sandbox.catalogue import SandboxConfig, generate
from mmgenre.sandbox.faults import BOMB_BYTES, Fault, FaultsConfig
from mmgenre.sandbox.image_faults import ImageFault, ImageFaultsConfig
from mmgenre.sandbox.responses import load_movies
from mmgenre.sandbox.server import Sandbox, ServerConfig

TOKEN = "right"  # noqa: S105


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("catalogue")
    generate(SandboxConfig(movies=100, other_titles=5), str(directory))
    return directory


@pytest.fixture(scope="module")
def movies(folder):
    """Movies with a plot and a poster."""
    return [movie for movie in load_movies(str(folder)) if movie.plot and movie.poster]


def serving(data, **settings):
    return Sandbox(ServerConfig(data=str(data), **settings), TOKEN)


def serving_faulty_posters(data, kind, attempts=1):
    """A server all of whose posters have the same fault."""
    return serving(data, image_faults=ImageFaultsConfig(rate=1, kinds=(kind,), attempts=attempts))


def get(url, timeout=5):
    """The unread response; redirects are not followed, connection errors raise."""
    host = urlsplit(url).netloc
    connection = http.client.HTTPConnection(host, timeout=timeout)
    connection.request("GET", url.partition(host)[2], headers={"Authorization": f"Bearer {TOKEN}"})
    return connection.getresponse()


def find(running, movie, timeout=5):
    return json.loads(get(f"{running.base_url}/3/find/{movie.imdb_id}?external_source=imdb_id", timeout).read())


def poster(running, movie, timeout=5):
    return get(f"{running.image_url}/{movie.poster}", timeout)


def image_in(response):
    return Image.open(io.BytesIO(response.read()))


# The APIs


BROKEN = {
    "timeout": TimeoutError,
    "reset": ConnectionError,
    "truncated": http.client.IncompleteRead,
    "html": json.JSONDecodeError,
    "deep": RecursionError,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_response_reaches_the_client_and_a_later_attempt_succeeds(folder, movies, kind):
    config = FaultsConfig(rate=1, kinds=(kind,), attempts=1)
    with serving(folder, faults=config) as running:
        with pytest.raises(BROKEN[kind]):
            find(running, movies[0], timeout=0.5)
        assert find(running, movies[0])["movie_results"]
        assert running.stats()["faults"] == {kind: 1}


def test_a_server_error_a_wrong_shape_and_a_redirect_reach_the_client_and_a_later_attempt_succeeds(folder, movies):
    for kind, expected in (("server_error", 500), ("wrong_shape", 200), ("redirect", 302)):
        with serving(folder, faults=FaultsConfig(rate=1, kinds=(kind,), attempts=1)) as running:
            url = f"{running.base_url}/3/find/{movies[0].imdb_id}?external_source=imdb_id"
            broken, intact = get(url), get(url)
            assert broken.status == expected
            assert broken.headers["Location"] == ("http://127.0.0.1:1/" if kind == "redirect" else None)
            assert broken.read() != intact.read()
            assert intact.status == 200


def test_bad_text_is_a_valid_response_with_a_plot_that_utf_8_cannot_encode(folder, movies):
    with serving(folder, faults=FaultsConfig(rate=1, kinds=("bad_text",), attempts=1)) as running:
        url = f"{running.base_url}/?i={movies[0].imdb_id}&apikey={TOKEN}"
        faulty, intact = find(running, movies[0]), find(running, movies[0])
        body = get(url).read()
        assert get(url).read() != body

    [movie], [expected] = faulty["movie_results"], intact["movie_results"]
    assert movie == expected | {"overview": f"\ud800 {movies[0].plot}\0"}
    assert json.loads(body)["Plot"] == movie["overview"]
    assert rb'"Plot": "\ud800 ' in body
    assert rb'\u0000"' in body


@pytest.mark.parametrize("kind", ["gzip", "gzip_unnamed"])
def test_a_compressed_response_has_the_intact_content_with_and_without_the_header(folder, movies, kind):
    config, posters = FaultsConfig(rate=1, kinds=(kind,), attempts=1), ImageFaultsConfig(rate=1, kinds=(kind,))
    with serving(folder, faults=config, image_faults=posters) as running:
        url = f"{running.base_url}/3/find/{movies[0].imdb_id}?external_source=imdb_id"
        for response, intact in [
            (get(url), get(url)),
            (poster(running, movies[0]), poster(running, movies[1])),
        ]:
            assert response.headers["Content-Encoding"] == ("gzip" if kind == "gzip" else None)
            assert response.headers["Content-Type"] == intact.headers["Content-Type"]
            assert gzip.decompress(response.read())[:2] in (b'{"', b"\xff\xd8")


def test_a_bomb_is_small_on_the_wire(folder, movies):
    config, posters = FaultsConfig(rate=1, kinds=("gzip_bomb",)), ImageFaultsConfig(rate=1, kinds=("gzip_bomb",))
    with serving(folder, faults=config, image_faults=posters) as running:
        answer = get(f"{running.base_url}/3/find/{movies[0].imdb_id}?external_source=imdb_id").read()
        assert poster(running, movies[0]).read() == answer

    assert len(answer) < 50_000
    assert int.from_bytes(answer[-4:], "little") == BOMB_BYTES


def test_only_what_a_careful_client_reads_and_the_bomb_are_off_by_default():
    assert set(get_args(Fault)) - set(FaultsConfig().kinds) == {"bad_text", "gzip", "gzip_unnamed", "gzip_bomb"}
    assert ImageFaultsConfig().kinds == get_args(ImageFault)


def test_faults_of_apis_and_posters_are_independent(folder, movies):
    with serving(folder, faults=FaultsConfig(rate=1, kinds=("truncated",))) as running:
        assert image_in(poster(running, movies[0])).width == 342
        with pytest.raises(http.client.IncompleteRead):
            find(running, movies[0])
        assert (running.stats()["faults"], running.stats()["image_faults"]) == ({"truncated": 1}, {})
    with serving_faulty_posters(folder, "truncated") as running:
        assert find(running, movies[0])["movie_results"]
        with pytest.raises(http.client.IncompleteRead):
            poster(running, movies[0]).read()
        assert image_in(poster(running, movies[0])).width == 342
        assert (running.stats()["faults"], running.stats()["image_faults"]) == ({}, {"truncated": 1})


def test_faults_are_reproducible_and_mostly_temporary():
    config = FaultsConfig(rate=0.2, permanent=0.05)
    names = [f"tt{number:07}" for number in range(2000)]

    first, second, last = ([config.draw(name, attempt) for name in names] for attempt in (1, 2, 50))

    assert first == [config.draw(name, 1) for name in names]
    assert np.mean([fault is not None for fault in first]) == pytest.approx(0.24, abs=0.04)
    assert set(first) == {None, *config.kinds}
    assert first != second
    assert np.mean([fault is not None for fault in last]) == pytest.approx(0.05, abs=0.02)


def test_stopping_does_not_wait_for_hanging_responses(folder, movies):
    with (
        serving(folder, faults=FaultsConfig(rate=1, kinds=("timeout",), hang_s=60)) as api,
        serving_faulty_posters(folder, "drip") as image_host,
    ):
        with pytest.raises(TimeoutError):
            find(api, movies[0], timeout=0.1)
        dripping = poster(image_host, movies[0])
        began = time.monotonic()

    assert time.monotonic() - began < 1
    assert dripping.status == 200


# Posters


def test_draw_predicts_which_fault_hits_which_poster(folder, movies):
    config = ImageFaultsConfig(rate=0.5, permanent=0.1, attempts=2, kinds=("server_error", "empty", "placeholder"))
    with serving(folder, image_faults=config) as running:
        kinds = [[kind_of(poster(running, movie)) for _ in range(3)] for movie in movies[:40]]

    assert kinds == [[config.draw(f"image {movie.poster}", attempt) for attempt in (1, 2, 3)] for movie in movies[:40]]
    assert {first for first, _, _ in kinds} == {None, *config.kinds}
    assert sum(last is not None for _, _, last in kinds) in range(1, 12)


def kind_of(response):
    body = response.read()
    if response.status == 500:
        return "server_error"
    if not body:
        return "empty"
    image = Image.open(io.BytesIO(body))
    return "placeholder" if image.getextrema() == ((128, 128),) * 3 else None


OTHER_FORMATS = {
    "gif": ("image/gif", "GIF", "P"),
    "cmyk": ("image/jpeg", "JPEG", "CMYK"),
    "palette_png": ("image/png", "PNG", "P"),
    "alpha_png": ("image/png", "PNG", "RGBA"),
    "deep_png": ("image/png", "PNG", "I;16"),
    "webp": ("image/webp", "WEBP", "RGB"),
    "animated": ("image/webp", "WEBP", "RGB"),
}


@pytest.mark.parametrize("kind", OTHER_FORMATS)
def test_a_poster_in_another_format_shows_the_same_image(folder, movies, kind):
    with serving_faulty_posters(folder, kind) as running:
        response = poster(running, movies[0])
        converted, plain = image_in(response), image_in(poster(running, movies[0]))

    assert (response.headers["Content-Type"], converted.format, converted.mode) == OTHER_FORMATS[kind]
    assert getattr(converted, "n_frames", 1) == (2 if kind == "animated" else 1)
    grey = np.asarray(converted) / 257 if kind == "deep_png" else np.asarray(converted.convert("RGB").convert("L"))
    assert np.abs(grey - np.asarray(plain.convert("L"), float)).mean() < 8


def test_a_host_can_respond_without_an_image(folder, movies):
    for kind, status, content_type, start in (
        ("server_error", 500, "text/plain; charset=utf-8", b"Internal"),
        ("empty", 200, "image/jpeg", b""),
        ("html", 200, "image/jpeg", b"<!doctype html>"),
    ):
        with serving_faulty_posters(folder, kind) as running:
            response = poster(running, movies[0])
            body = response.read()
            assert (response.status, response.headers["Content-Type"]) == (status, content_type)
            assert response.headers["Content-Length"] == str(len(body))
            assert body.startswith(start)
            assert bool(body) == bool(start)
            assert image_in(poster(running, movies[0])).width == 342


def test_a_placeholder_is_the_same_for_every_title(folder, movies):
    with serving_faulty_posters(folder, "placeholder") as running:
        first, second = (poster(running, movie).read() for movie in movies[:2])

    assert first == second
    assert Image.open(io.BytesIO(first)).format == "JPEG"


def test_a_cut_off_file_is_half_a_jpeg_with_a_matching_content_length(folder, movies):
    with serving_faulty_posters(folder, "cut_off") as running:
        response = poster(running, movies[0])
        half, whole = response.read(), poster(running, movies[0]).read()

    assert response.headers["Content-Length"] == str(len(half))
    assert half == whole[: len(whole) // 2]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(half)).load()


def test_a_huge_poster_is_small_on_the_wire(folder, movies, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with serving_faulty_posters(folder, "huge_png") as running:
        body = poster(running, movies[0]).read()

    Image.open(io.BytesIO(body)).verify()
    assert Image.open(io.BytesIO(body)).size == (20_000, 20_000)
    assert len(body) < 100_000
    assert decompressed_size(body) == 20_000 * (1 + 20_000 // 8)


def decompressed_size(png):
    """Decompressed bytes of the only IDAT chunk, counted in small steps."""
    begin = png.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", png[begin - 8 : begin - 4])
    compressed, inflater, total = png[begin : begin + length], zlib.decompressobj(), 0
    while compressed:
        total += len(inflater.decompress(compressed, 2**20))
        compressed = inflater.unconsumed_tail
    return total + len(inflater.flush())


def test_an_endless_poster_is_sent_as_fast_as_the_client_reads(folder, movies):
    with serving_faulty_posters(folder, "endless") as running:
        response, server = poster(running, movies[0]), psutil.Process()
        assert response.headers["Content-Length"] is None
        received, before = len(response.read(2**20)), server.memory_info().rss
        time.sleep(0.3)
        assert server.memory_info().rss - before < 2**25
        while part := response.read(2**20):
            received += len(part)

    assert received == 200 * 2**20


def test_an_endless_poster_ends_when_the_client_disconnects(folder, movies):
    with serving_faulty_posters(folder, "endless") as running:
        for movie in movies[:2]:
            response = poster(running, movie)
            assert response.read(2**10).startswith(b"\xff\xd8")
            response.close()
            time.sleep(0.2)

        assert running.stats()["open_connections_peak"] == {"image": 1}


def test_a_dripping_poster_has_the_full_content_length_and_sends_a_byte_a_second(folder, movies):
    with serving_faulty_posters(folder, "drip") as running:
        response = poster(running, movies[0], timeout=0.7)
        first = response.read(1)
        with pytest.raises(TimeoutError):
            response.read(1)
        whole = poster(running, movies[0]).read()

    assert response.headers["Content-Length"] == str(len(whole))
    assert first == whole[:1]


def test_following_a_redirect_to_another_local_port_is_counted(folder, movies):
    with serving_faulty_posters(folder, "redirect_loopback", attempts=2) as running:
        target = poster(running, movies[0]).headers["Location"]
        assert "secret" not in running.stats()["requests"]
        assert image_in(get(target)).format == "JPEG"
        assert running.stats()["requests"] == {"image": 1, "secret": 1}

    host, _, port = urlsplit(target).netloc.partition(":")
    assert (host, urlsplit(target).path) == ("127.0.0.1", "/secret")
    assert port != running.base_url.rpartition(":")[2]


def test_a_redirect_home_leads_to_the_poster_and_does_not_count_as_an_attempt(folder, movies):
    with serving_faulty_posters(folder, "redirect_home", attempts=2) as running:
        redirect = poster(running, movies[0])
        image = image_in(get(running.base_url + redirect.headers["Location"]))
        assert poster(running, movies[0]).status == 302
        stats = running.stats()

    assert (redirect.status, redirect.headers["Location"]) == (302, f"/t/p/w342/{movies[0].poster}?again=1")
    assert (image.format, image.width) == ("JPEG", 342)
    assert stats["requests"] == {"image": 3}
    assert stats["max_asked_per_id"] == {"image": 2}


def test_a_redirect_elsewhere_leads_to_another_host(folder, movies):
    with serving_faulty_posters(folder, "redirect_elsewhere") as running:
        redirect = poster(running, movies[0])

    assert (redirect.status, redirect.headers["Location"]) == (302, "https://example.org/poster.jpg")


def test_a_file_that_is_not_an_image_is_served_unchanged(tmp_path, folder, movies):
    (tmp_path / "movies.parquet").write_bytes((folder / "movies.parquet").read_bytes())
    (tmp_path / "posters").mkdir()
    (tmp_path / "posters" / f"{movies[0].imdb_id}.jpg").write_bytes(b"no image")

    with serving_faulty_posters(tmp_path, "webp") as running:
        response = poster(running, movies[0])

        assert (response.status, response.read()) == (200, b"no image")
