"""The local server on bad days: broken answers and hostile posters, drawn the same way again."""

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
from mmgenre.sandbox.faults import Fault, FaultsConfig
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


def spoiling(data, kind, attempts=1):
    """A server whose posters all have one fault."""
    return serving(data, image_faults=ImageFaultsConfig(rate=1, kinds=(kind,), attempts=attempts))


def ask(url, timeout=5):
    """The answer, unread; a redirect is not followed, errors of the connection raise."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=timeout)
    connection.request("GET", url.partition(place.netloc)[2], headers={"Authorization": f"Bearer {TOKEN}"})
    return connection.getresponse()


def find(running, movie, timeout=5):
    return json.loads(ask(f"{running.base_url}/3/find/{movie.imdb_id}?external_source=imdb_id", timeout).read())


def poster(running, movie, timeout=5):
    return ask(f"{running.image_url}/{movie.poster}", timeout)


def opened(answer):
    return Image.open(io.BytesIO(answer.read()))


# The APIs


BROKEN = {
    "timeout": TimeoutError,
    "reset": ConnectionError,
    "truncated": http.client.IncompleteRead,
    "html": json.JSONDecodeError,
    "deep": RecursionError,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_reaches_the_client_and_a_later_attempt_succeeds(folder, movies, kind):
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
            broken, whole = ask(url), ask(url)
            assert broken.status == expected
            assert broken.headers["Location"] == ("http://127.0.0.1:1/" if kind == "redirect" else None)
            assert broken.read() != whole.read()
            assert whole.status == 200


def test_bad_text_is_a_whole_answer_whose_plot_utf_8_cannot_say(folder, movies):
    with serving(folder, faults=FaultsConfig(rate=1, kinds=("bad_text",), attempts=1)) as running:
        url = f"{running.base_url}/?i={movies[0].imdb_id}&apikey={TOKEN}"
        spoiled, whole = find(running, movies[0]), find(running, movies[0])
        body = ask(url).read()
        assert ask(url).read() != body

    [movie], [meant] = spoiled["movie_results"], whole["movie_results"]
    assert movie == meant | {"overview": f"\ud800 {movies[0].plot}\0"}
    assert json.loads(body)["Plot"] == movie["overview"]
    assert rb'"Plot": "\ud800 ' in body
    assert rb'\u0000"' in body


def test_bad_text_is_the_one_fault_that_has_to_be_asked_for():
    assert set(get_args(Fault)) - set(FaultsConfig().kinds) == {"bad_text"}
    assert ImageFaultsConfig().kinds == get_args(ImageFault)


def test_the_faults_of_the_apis_and_of_the_posters_are_apart(folder, movies):
    with serving(folder, faults=FaultsConfig(rate=1, kinds=("truncated",))) as running:
        assert opened(poster(running, movies[0])).width == 342
        with pytest.raises(http.client.IncompleteRead):
            find(running, movies[0])
        assert (running.stats()["faults"], running.stats()["image_faults"]) == ({"truncated": 1}, {})
    with spoiling(folder, "truncated") as running:
        assert find(running, movies[0])["movie_results"]
        with pytest.raises(http.client.IncompleteRead):
            poster(running, movies[0]).read()
        assert opened(poster(running, movies[0])).width == 342
        assert (running.stats()["faults"], running.stats()["image_faults"]) == ({}, {"truncated": 1})


def test_faults_are_drawn_the_same_way_again_and_mostly_pass():
    config = FaultsConfig(rate=0.2, permanent=0.05)
    names = [f"tt{number:07}" for number in range(2000)]

    first, second, last = ([config.draw(name, attempt) for name in names] for attempt in (1, 2, 50))

    assert first == [config.draw(name, 1) for name in names]
    assert np.mean([fault is not None for fault in first]) == pytest.approx(0.24, abs=0.04)
    assert set(first) == {None, *config.kinds}
    assert first != second
    assert np.mean([fault is not None for fault in last]) == pytest.approx(0.05, abs=0.02)


def test_a_stop_does_not_wait_for_hanging_answers(folder, movies):
    with (
        serving(folder, faults=FaultsConfig(rate=1, kinds=("timeout",), hang_s=60)) as api,
        spoiling(folder, "drip") as image_host,
    ):
        with pytest.raises(TimeoutError):
            find(api, movies[0], timeout=0.1)
        dripping = poster(image_host, movies[0])
        began = time.monotonic()

    assert time.monotonic() - began < 1
    assert dripping.status == 200


# Posters


def test_a_test_can_tell_which_fault_hits_which_poster(folder, movies):
    config = ImageFaultsConfig(rate=0.5, permanent=0.1, attempts=2, kinds=("server_error", "empty", "placeholder"))
    with serving(folder, image_faults=config) as running:
        seen = [[kind_of(poster(running, movie)) for _ in range(3)] for movie in movies[:40]]

    assert seen == [[config.draw(f"image {movie.poster}", attempt) for attempt in (1, 2, 3)] for movie in movies[:40]]
    assert {first for first, _, _ in seen} == {None, *config.kinds}
    assert sum(last is not None for _, _, last in seen) in range(1, 12)


def kind_of(answer):
    body = answer.read()
    if answer.status == 500:
        return "server_error"
    if not body:
        return "empty"
    image = Image.open(io.BytesIO(body))
    return "placeholder" if image.getextrema() == ((128, 128),) * 3 else None


DISGUISES = {
    "gif": ("image/gif", "GIF", "P"),
    "cmyk": ("image/jpeg", "JPEG", "CMYK"),
    "palette_png": ("image/png", "PNG", "P"),
    "alpha_png": ("image/png", "PNG", "RGBA"),
    "deep_png": ("image/png", "PNG", "I;16"),
    "webp": ("image/webp", "WEBP", "RGB"),
    "animated": ("image/webp", "WEBP", "RGB"),
}


@pytest.mark.parametrize("kind", DISGUISES)
def test_a_poster_in_disguise_still_shows_the_poster(folder, movies, kind):
    with spoiling(folder, kind) as running:
        answer = poster(running, movies[0])
        disguised, plain = opened(answer), opened(poster(running, movies[0]))

    assert (answer.headers["Content-Type"], disguised.format, disguised.mode) == DISGUISES[kind]
    assert getattr(disguised, "n_frames", 1) == (2 if kind == "animated" else 1)
    grey = np.asarray(disguised) / 257 if kind == "deep_png" else np.asarray(disguised.convert("RGB").convert("L"))
    assert np.abs(grey - np.asarray(plain.convert("L"), float)).mean() < 8


def test_a_host_can_answer_without_an_image(folder, movies):
    for kind, status, content_type, beginning in (
        ("server_error", 500, "text/plain; charset=utf-8", b"Internal"),
        ("empty", 200, "image/jpeg", b""),
        ("html", 200, "image/jpeg", b"<!doctype html>"),
    ):
        with spoiling(folder, kind) as running:
            answer = poster(running, movies[0])
            body = answer.read()
            assert (answer.status, answer.headers["Content-Type"]) == (status, content_type)
            assert answer.headers["Content-Length"] == str(len(body))
            assert body.startswith(beginning)
            assert bool(body) == bool(beginning)
            assert opened(poster(running, movies[0])).width == 342


def test_a_placeholder_is_the_same_for_every_title(folder, movies):
    with spoiling(folder, "placeholder") as running:
        first, second = (poster(running, movie).read() for movie in movies[:2])

    assert first == second
    assert Image.open(io.BytesIO(first)).format == "JPEG"


def test_a_file_cut_off_is_half_a_jpeg_and_says_so(folder, movies):
    with spoiling(folder, "cut_off") as running:
        answer = poster(running, movies[0])
        half, whole = answer.read(), poster(running, movies[0]).read()

    assert answer.headers["Content-Length"] == str(len(half))
    assert half == whole[: len(whole) // 2]
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(half)).load()


def test_a_huge_poster_is_small_on_the_wire(folder, movies, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with spoiling(folder, "huge_png") as running:
        body = poster(running, movies[0]).read()

    Image.open(io.BytesIO(body)).verify()
    assert Image.open(io.BytesIO(body)).size == (20_000, 20_000)
    assert len(body) < 100_000
    assert unpacked_bytes(body) == 20_000 * (1 + 20_000 // 8)


def unpacked_bytes(png):
    """How many bytes the one IDAT chunk holds, a little at a time."""
    begin = png.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", png[begin - 8 : begin - 4])
    packed, inflater, total = png[begin : begin + length], zlib.decompressobj(), 0
    while packed:
        total += len(inflater.decompress(packed, 2**20))
        packed = inflater.unconsumed_tail
    return total + len(inflater.flush())


def test_an_endless_poster_waits_for_its_client_and_has_an_end(folder, movies):
    with spoiling(folder, "endless") as running:
        answer, server = poster(running, movies[0]), psutil.Process()
        assert answer.headers["Content-Length"] is None
        received, before = len(answer.read(2**20)), server.memory_info().rss
        time.sleep(0.3)
        assert server.memory_info().rss - before < 2**25
        while part := answer.read(2**20):
            received += len(part)

    assert received == 200 * 2**20


def test_an_endless_poster_ends_when_its_client_leaves(folder, movies):
    with spoiling(folder, "endless") as running:
        for movie in movies[:2]:
            answer = poster(running, movie)
            assert answer.read(2**10).startswith(b"\xff\xd8")
            answer.close()
            time.sleep(0.2)

        assert running.stats()["open_connections_peak"] == {"image": 1}


def test_a_dripping_poster_promises_all_and_sends_a_byte_a_second(folder, movies):
    with spoiling(folder, "drip") as running:
        answer = poster(running, movies[0], timeout=0.7)
        first = answer.read(1)
        with pytest.raises(TimeoutError):
            answer.read(1)
        whole = poster(running, movies[0]).read()

    assert answer.headers["Content-Length"] == str(len(whole))
    assert first == whole[:1]


def test_a_redirect_to_another_port_of_the_machine_leads_to_what_is_counted(folder, movies):
    with spoiling(folder, "redirect_loopback", attempts=2) as running:
        there = poster(running, movies[0]).headers["Location"]
        assert "secret" not in running.stats()["requests"]
        assert opened(ask(there)).format == "JPEG"
        assert running.stats()["requests"] == {"image": 1, "secret": 1}

    host, _, port = urlsplit(there).netloc.partition(":")
    assert (host, urlsplit(there).path) == ("127.0.0.1", "/secret")
    assert port != running.base_url.rpartition(":")[2]


def test_a_redirect_home_leads_to_the_poster_and_is_no_further_attempt(folder, movies):
    with spoiling(folder, "redirect_home", attempts=2) as running:
        away = poster(running, movies[0])
        image = opened(ask(running.base_url + away.headers["Location"]))
        assert poster(running, movies[0]).status == 302
        stats = running.stats()

    assert (away.status, away.headers["Location"]) == (302, f"/t/p/w342/{movies[0].poster}?again=1")
    assert (image.format, image.width) == ("JPEG", 342)
    assert stats["requests"] == {"image": 3}
    assert stats["max_asked_per_id"] == {"image": 2}


def test_a_redirect_elsewhere_leaves_the_host(folder, movies):
    with spoiling(folder, "redirect_elsewhere") as running:
        away = poster(running, movies[0])

    assert (away.status, away.headers["Location"]) == (302, "https://example.org/poster.jpg")


def test_a_file_that_is_no_image_is_served_as_it_is(tmp_path, folder, movies):
    (tmp_path / "movies.parquet").write_bytes((folder / "movies.parquet").read_bytes())
    (tmp_path / "posters").mkdir()
    (tmp_path / "posters" / f"{movies[0].imdb_id}.jpg").write_bytes(b"no image")

    with spoiling(tmp_path, "webp") as running:
        answer = poster(running, movies[0])

        assert (answer.status, answer.read()) == (200, b"no image")
