"""The service without its model's process: how it waits, and what it makes of files."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving import PLOTS, Client, answering, half, picture, save_fusion, wait_until

from mmgenre.labels import GENRES
from mmgenre.models import checkpoint
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.posters.images import shrink
from mmgenre.serving import csv_tables
from mmgenre.serving import http_server as connections
from mmgenre.serving import middleware as guard
from mmgenre.serving.batch_queue import Busy, Line
from mmgenre.serving.limits import Limits
from mmgenre.serving.poster_uploads import stored
from mmgenre.serving.replicas import Movie, Prediction, tag
from mmgenre.serving.request_error import Refusal
from mmgenre.tagging.actors import Tagger

JSON = "application/json"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_fusion(tmp_path_factory.mktemp("serving") / "fusion")


@pytest.fixture
def in_process(directory):
    """Starts a service whose model is a function; returns a client."""
    with contextlib.ExitStack() as services:
        yield lambda model, **config: services.enter_context(answering(directory, model, **config))


# How it waits


def test_health_says_when_the_model_is_not_there_yet(in_process):
    client = in_process(None)

    for status, answer in (client.get("/health"), client.post("/predict", {"plot": "x"})):
        assert status == 503
        assert "still being loaded" in answer["error"]
    assert client.get("/model")[0] == 200


def test_an_answer_that_takes_too_long_is_503(in_process):
    async def stuck(movies):
        await asyncio.sleep(30)

    status, answer = in_process(stuck, timeout_s=0.2).post("/predict", {"plot": "x"})

    assert status == 503
    assert answer["error"] == "took longer than 0.2 s; try again later, or send less"


def test_an_error_of_the_services_own_is_one_line_of_json(in_process):
    async def fail(movies):
        raise RuntimeError("secret")

    client = in_process(fail)
    status, answer = client.post("/predict", {"plot": "x"})

    assert status == 500
    assert answer == {"error": "an error of the service's own; its log tells more"}
    assert client.get("/health")[0] == 200


def test_explanations_may_be_switched_off(in_process):
    status, answer = in_process(half, explain=False).post("/explain", {"plot": "x"})

    assert status == 404
    assert "start the service with explain=true" in answer["error"]


def test_tables_wait_for_their_turn_and_too_many_are_turned_away(in_process):
    gate, is_there = threading.Event(), threading.Event()

    async def when_open(movies):
        is_there.set()
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return await half(movies)

    client = in_process(when_open, tables_at_once=1)
    other = Client(client.connection.port)
    table = b"plot\n" + b"x\n" * 300
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.send, "/tag", table=table)
        assert is_there.wait(10)
        refused, _ = other.send("/tag", table=table)
        gate.set()
        status, tagged = first.result()

    assert (status, refused) == (200, 503)
    assert tagged.count(b"text_only") == 300


def test_headers_that_do_not_come_end_the_connection(in_process, monkeypatch):
    monkeypatch.setattr(connections, "_HEAD_S", 0.3)
    client = in_process(half)

    for said, answer in ((b"GET / HTTP/1.1\r\nHost:", b"HTTP/1.1 408"), (b"", b"")):
        with socket.create_connection(("127.0.0.1", client.connection.port), timeout=10) as connection:
            connection.sendall(said)

            assert connection.recv(12) == answer


def test_a_connection_that_sends_blank_lines_behind_its_answer_is_ended_too(in_process, monkeypatch):
    monkeypatch.setattr(connections, "_HEAD_S", 0.3)
    with socket.create_connection(("127.0.0.1", in_process(half).connection.port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).endswith(b'{"status": "ok"}')
        connection.sendall(b"\r\n")

        assert connection.recv(12) == b"HTTP/1.1 408"


@pytest.mark.parametrize("is_split", [False, True])
def test_a_client_that_would_rather_speak_another_protocol_is_answered_in_this_one(in_process, is_split):
    wish = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB"
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nContent-Length: 13\r\n{wish}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", in_process(half).connection.port), timeout=10) as connection:
        for _ in range(2):
            for part in (head, b'{"plot": "x"}') if is_split else (head + b'{"plot": "x"}',):
                connection.sendall(part)
                time.sleep(0.05)

            assert connection.recv(4000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"CONNECT x:1 HTTP/1.1\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 400"


def announce(client, num_bytes):
    """A connection on which a request with a body of that size begins."""
    connection = socket.create_connection(("127.0.0.1", client.connection.port), timeout=10)
    head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
    connection.sendall(f"{head}\r\nContent-Length: {num_bytes}\r\n\r\n".encode())
    return connection


def test_a_body_that_does_not_go_on_is_408(in_process, monkeypatch):
    monkeypatch.setattr(guard, "_PAUSE_S", 0.3)
    with announce(in_process(half), 1000) as connection:
        connection.sendall(b'{"plot": "x')

        answer = connection.recv(1000)

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"body: comes too slowly" in answer


def test_bodies_that_come_at_once_share_a_bound(in_process, monkeypatch):
    monkeypatch.setattr(guard, "_BYTES_AT_ONCE", 10_000)
    client = in_process(half)
    small = {"plot": "x" * 3_000}
    with announce(client, 9_000) as connection:
        connection.sendall(b" " * 8_000)
        wait_until(lambda: client.post("/predict", small)[0] == 503)
        status, headers, answer = client.ask("POST", "/predict", json.dumps(small), JSON)

    assert (status, headers["Retry-After"]) == (503, "1")
    assert b"too many large requests at once" in answer
    wait_until(lambda: client.post("/predict", small)[0] == 200)


def test_a_body_that_goes_on_after_it_was_refused_is_not_read_for_ever(in_process, monkeypatch):
    monkeypatch.setattr(connections, "_MOST_DRAINED", 2_000_000)

    with announce(in_process(half), 10**12) as connection, pytest.raises(ConnectionError):
        for _ in range(1000):
            connection.sendall(bytes(100_000))


def test_a_line_computes_in_batches_what_came_together():
    batches = []

    async def double(numbers):
        batches.append(len(numbers))
        await asyncio.sleep(0.02)
        return [2 * number for number in numbers]

    async def run():
        line = Line(double, max_batch=8, max_waiting=100, at_once=1)
        return await asyncio.gather(*(line.ask([number]) for number in range(17)))

    assert asyncio.run(run()) == [[2 * number] for number in range(17)]
    assert batches == [8, 8, 1]


def test_a_line_that_waits_fills_its_batch():
    batches = []

    async def count(numbers):
        batches.append(len(numbers))
        return numbers

    async def run():
        line = Line(count, max_batch=8, max_waiting=100, at_once=1, patience_s=0.05)
        await asyncio.gather(*(ask_later(line, number) for number in range(4)))

    async def ask_later(line, number):
        await asyncio.sleep(0.005 * number)
        await line.ask([number])

    asyncio.run(run())

    assert batches == [4]


def test_who_has_gone_away_is_not_computed_and_a_full_line_refuses_all_or_nothing():
    computed = []

    async def slow(numbers):
        computed.extend(numbers)
        await asyncio.sleep(0.1)
        return numbers

    async def run():
        line = Line(slow, max_batch=1, max_waiting=3, at_once=1)
        first = asyncio.create_task(line.ask([1]))
        await asyncio.sleep(0.01)
        impatient = asyncio.create_task(line.ask([2]))
        await asyncio.sleep(0.01)
        impatient.cancel()
        await asyncio.sleep(0.01)
        with pytest.raises(Busy, match="busy: 0 are waiting"):
            await line.ask([3, 4, 5, 6])
        return await asyncio.gather(first, line.ask([7, 8, 9]))

    assert asyncio.run(run()) == [[1], [7, 8, 9]]
    assert computed == [1, 7, 8, 9]


def test_what_a_client_asked_that_went_away_is_not_computed(in_process):
    computed, may_go_on = [], threading.Event()

    async def slow(movies):
        computed.extend(movie.plot for movie in movies)
        await asyncio.to_thread(may_go_on.wait)
        return await half(movies)

    client = in_process(slow, max_batch=1, max_waiting=64)
    batch = {"movies": [{"plot": "last"}] * 64}
    with contextlib.ExitStack() as others, ThreadPoolExecutor(1) as threads:
        # A replica has two batches at once.
        for plot in ("first", "second", "third", "fourth"):
            body = json.dumps({"plot": plot}).encode()
            others.enter_context(announce(client, len(body))).sendall(body)
            wait_until(lambda plot=plot: plot in [*computed, "third", "fourth"])
        wait_until(
            lambda: (
                client.post("/predict", batch) == (503, {"error": "busy: 2 are waiting already; try again in a second"})
            )
        )
        others.close()
        answer = threads.submit(client.post, "/predict", batch)
        time.sleep(0.3)
        may_go_on.set()

    assert answer.result()[0] == 200
    assert computed == ["first", "second", *["last"] * 64]


def test_a_model_that_fails_on_all_of_a_batch_is_an_error_of_each_movie(tmp_path):
    model = TfidfConfig(min_df=1).fit(Movies.of_plots(PLOTS), np.eye(len(PLOTS), len(GENRES), dtype=np.float32))
    thresholds = checkpoint.Thresholds(per_genre=(0.5,) * 9, global_threshold=0.5, kind="global")
    checkpoint.save(model, checkpoint.Card(model=TfidfConfig(min_df=1), thresholds=thresholds), str(tmp_path))
    tagger = Tagger.load(str(tmp_path), "fp32")

    def fail(_):
        raise RuntimeError("no memory")

    tagger._predictor.logits = fail
    found = tag(tagger, [Movie(None, plot, None) for plot in PLOTS[:3]])

    assert [(one.status, one.detail) for one in found] == [("error", "RuntimeError: no memory")] * 3


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_cells_in_quotes_stand_between_any_delimiters(delimiter):
    lines = [["id", "plot, or none", "plot"], ["1", 'says "no"; runs', "a\tb, c"]]
    text = "\r\n".join(delimiter.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines)

    assert csv_tables.read(text.encode(), Limits()).rows == lines[1:]


def test_tables_of_spreadsheets_are_read_and_written_as_they_do():
    table = csv_tables.read("\ufeffName;Plot;plot\r\n\r\nA;B;one\r\nC;D;two\r\n".encode(), Limits())
    predictions = [Prediction("text_only", np.full(9, 0.25, np.float32), None)] * 2

    tagged = table.tagged(predictions, [["Drama", "Crime"], []])

    assert [movie.plot for movie in table.movies()] == ["one", "two"]
    lines = tagged.decode().split("\r\n")
    assert lines[0].startswith("\ufeffName;Plot;plot;genres;status;p_Action;")
    assert lines[1] == "A;B;one;Drama|Crime;text_only" + ";0.2500000" * 9


@pytest.mark.parametrize(
    ("sent", "expected_name"),
    [
        ("movies.csv", "movies-tagged.csv"),
        ("C:\\a\\My films.csv", "My films-tagged.csv"),
        ("../../x\r\nEvil: 1", "x__Evil_ 1-tagged.csv"),
        ("", "movies-tagged.csv"),
        ("\u96fb\u5f71.csv", "\u96fb\u5f71-tagged.csv"),
    ],
)
def test_a_tagged_file_is_called_after_the_one_sent(sent, expected_name):
    assert csv_tables.tagged_name(sent) == expected_name


def test_posters_as_the_stage_stores_them_stay_as_they_are_and_others_become_so():
    for seed, size in enumerate([(384, 256), (1, 1), (30, 384), (1000, 700)]):
        upload = picture(seed, size, "PNG")
        once = shrink(upload, 384, 10**9).jpeg

        assert stored(upload, 384, Limits()) == once
        assert stored(once, 384, Limits()) == once
        # Another quality, or another size, is another picture.
        assert stored(picture(seed, size, quality=75), 384, Limits()) != picture(seed, size, quality=75)
        assert stored(once, 16, Limits()) == shrink(once, 16, 10**9).jpeg
    scan = once.index(b"\xff\xda")
    for broken, said in ((once[:-300], "truncated"), (once[: scan + 4] + bytes(9) + once[scan + 13 :], "be decoded")):
        with pytest.raises(Refusal, match=said):
            stored(broken, 384, Limits())
