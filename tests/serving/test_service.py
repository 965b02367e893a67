"""The service with a function in place of its replicas: queues, timeouts, slow clients, CSV files and posters."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from services import PLOTS, Client, picture, predict_half, save_fusion, service_in_process, wait_until

from mmgenre.labels import GENRES
from mmgenre.models import checkpoint
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.posters.images import shrink
from mmgenre.serving import csv_tables, http_server, middleware
from mmgenre.serving.batch_queue import BatchQueue, QueueFull
from mmgenre.serving.config import Limits
from mmgenre.serving.poster_uploads import normalized_poster
from mmgenre.serving.replicas import MovieToTag, Prediction, tag
from mmgenre.serving.request_error import RequestError
from mmgenre.serving.responses import without_paths
from mmgenre.tagging.actors import Tagger

JSON = "application/json"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_fusion(tmp_path_factory.mktemp("serving") / "fusion")


@pytest.fixture
def in_process(directory):
    """Starts a service with a function in place of the model; returns a client."""
    with contextlib.ExitStack() as services:
        yield lambda predict, **config: services.enter_context(service_in_process(directory, predict, **config))


def test_requests_get_a_503_until_the_model_is_loaded(in_process):
    client = in_process(None)

    for status, answer in (client.get("/health"), client.post("/predict", {"plot": "x"})):
        assert status == 503
        assert "still being loaded" in answer["error"]
    assert client.get("/model")[0] == 200


def test_a_request_that_times_out_gets_a_503(in_process):
    async def stuck(movies):
        await asyncio.sleep(30)

    status, answer = in_process(stuck, timeout_s=0.2).post("/predict", {"plot": "x"})

    assert status == 503
    assert answer["error"] == "took longer than 0.2 s; try again later, or send less"


def test_an_internal_error_is_one_line_and_reveals_nothing(in_process):
    async def fail(movies):
        raise RuntimeError("secret")

    client = in_process(fail)
    status, answer = client.post("/predict", {"plot": "x"})

    assert status == 500
    assert answer == {"error": "internal error; see the log of the service"}
    assert client.get("/health")[0] == 200


def test_explanations_can_be_turned_off(in_process):
    status, answer = in_process(predict_half, explain=False).post("/explain", {"plot": "x"})

    assert status == 404
    assert "start the service with explain=true" in answer["error"]


def test_tables_are_tagged_in_batches_and_too_many_at_once_get_a_503(in_process):
    gate, has_started = threading.Event(), threading.Event()

    async def when_open(movies):
        has_started.set()
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return await predict_half(movies)

    client = in_process(when_open, tables_at_once=1)
    other = Client(client.connection.port)
    table = b"plot\n" + b"x\n" * 300
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.post_form, "/tag", table=table)
        assert has_started.wait(10)
        refused, _ = other.post_form("/tag", table=table)
        gate.set()
        status, tagged = first.result()

    assert (status, refused) == (200, 503)
    assert tagged.count(b"text_only") == 300


def test_a_connection_without_request_headers_times_out(in_process, monkeypatch):
    monkeypatch.setattr(http_server, "_HEAD_TIMEOUT_S", 0.3)
    client = in_process(predict_half)

    for sent, answer in ((b"GET / HTTP/1.1\r\nHost:", b"HTTP/1.1 408"), (b"", b"")):
        with socket.create_connection(("127.0.0.1", client.connection.port), timeout=10) as connection:
            connection.sendall(sent)

            assert connection.recv(12) == answer


def test_a_connection_that_sends_only_blank_lines_after_its_response_times_out(in_process, monkeypatch):
    monkeypatch.setattr(http_server, "_HEAD_TIMEOUT_S", 0.3)
    with socket.create_connection(("127.0.0.1", in_process(predict_half).connection.port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).endswith(b'{"status":"ok"}')
        connection.sendall(b"\r\n")

        assert connection.recv(12) == b"HTTP/1.1 408"


@pytest.mark.parametrize("is_split", [False, True])
def test_a_request_to_upgrade_the_protocol_is_answered_in_http_1_1(in_process, is_split):
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB"
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: 13\r\n".encode()
    head += f"{upgrade}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", in_process(predict_half).connection.port), timeout=10) as connection:
        for _ in range(2):
            for part in (head, b'{"plot": "x"}') if is_split else (head + b'{"plot": "x"}',):
                connection.sendall(part)
                time.sleep(0.05)

            assert connection.recv(4000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"CONNECT x:1 HTTP/1.1\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 400"


def send_headers(client, num_bytes):
    """A connection on which the headers of a request with a body of num_bytes have been sent."""
    connection = socket.create_connection(("127.0.0.1", client.connection.port), timeout=10)
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    connection.sendall(f"{head}\r\nContent-Length: {num_bytes}\r\n\r\n".encode())
    return connection


def test_a_connection_stays_usable_when_the_rest_of_a_rejected_body_arrives_after_the_response(in_process, monkeypatch):
    monkeypatch.setattr(http_server, "_HEAD_TIMEOUT_S", 0.5)
    with send_headers(in_process(predict_half), 20_000_000) as connection:
        assert connection.recv(4000).startswith(b"HTTP/1.1 413")
        connection.sendall(b"x" * 20_000_000)
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")

        assert connection.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    ("headers", "expected_status", "expected_text"),
    [
        ({"Host": "evil.example"}, 421, "Host: 'evil.example'; expected an IP address, localhost or one of"),
        ({"Host": "evil.example:8000"}, 421, "Host: 'evil.example:8000'"),
        ({"Host": "localhost.evil.example"}, 421, "Host: "),
        (
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
            403,
            "Sec-Fetch-Site: cross-site; call the service",
        ),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403, "Sec-Fetch-Site: cross-site"),
    ],
)
def test_another_sites_page_cannot_use_the_service(in_process, headers, expected_status, expected_text):
    client = in_process(predict_half)

    status, _, body = client.request("POST", "/predict", b'{"plot": "x"}', JSON, **headers)

    assert (status, json.loads(body)["error"].startswith(expected_text)) == (expected_status, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "LOCALHOST:1"},
        {"Host": "192.168.1.7:8000"},
        {"Host": "[::1]:8000"},
        {"Host": "movies.example"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_the_services_own_page_and_its_allowed_names_can(in_process, headers):
    client = in_process(predict_half, allowed_hosts=("movies.example",))

    assert client.request("POST", "/predict", b'{"plot": "x"}', JSON, **headers)[0] == 200
    # A link on another site leads to the page.
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.request("GET", "/", **link)[0] == 200


def test_the_model_is_shown_without_paths_of_the_machine():
    settings = {
        "init": "/home/me/runs/first",
        "store": "s3://bucket/secret/place",
        "towers": [{"weights": "~/weights", "name": "google/electra-small-discriminator"}],
        "windows": "C:\\me\\runs",
        "epochs": 3,
    }

    assert without_paths(settings) == {
        "init": "first",
        "store": "place",
        "towers": [{"weights": "weights", "name": "google/electra-small-discriminator"}],
        "windows": "runs",
        "epochs": 3,
    }


def test_a_stalled_body_gets_a_408(in_process, monkeypatch):
    monkeypatch.setattr(middleware, "_CHUNK_TIMEOUT_S", 0.3)
    with send_headers(in_process(predict_half), 1000) as connection:
        connection.sendall(b'{"plot": "x')

        answer = connection.recv(1000)

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"body: arrives too slowly" in answer


def test_concurrent_bodies_share_a_memory_limit(in_process, monkeypatch):
    monkeypatch.setattr(middleware, "_MAX_TOTAL_BYTES", 10_000)
    client = in_process(predict_half)
    small = {"plot": "x" * 3_000}
    with send_headers(client, 9_000) as connection:
        connection.sendall(b" " * 8_000)
        wait_until(lambda: client.post("/predict", small)[0] == 503)
        status, headers, answer = client.request("POST", "/predict", json.dumps(small), JSON)

    assert (status, headers["Retry-After"]) == (503, "1")
    assert b"too many large requests at once" in answer
    wait_until(lambda: client.post("/predict", small)[0] == 200)


def test_an_endless_body_is_cut_off_after_its_rejection(in_process, monkeypatch):
    monkeypatch.setattr(http_server, "_MAX_DRAINED_BYTES", 2_000_000)

    with send_headers(in_process(predict_half), 10**12) as connection, pytest.raises(ConnectionError):
        for _ in range(1000):
            connection.sendall(bytes(100_000))


def test_a_queue_computes_waiting_items_in_batches():
    batches = []

    async def double(numbers):
        batches.append(len(numbers))
        await asyncio.sleep(0.02)
        return [2 * number for number in numbers]

    async def run():
        queue = BatchQueue(double, max_batch=8, max_waiting=100, max_in_flight=1)
        return await asyncio.gather(*(queue.submit([number]) for number in range(17)))

    assert asyncio.run(run()) == [[2 * number] for number in range(17)]
    assert batches == [8, 8, 1]


def test_a_queue_with_a_wait_time_fills_its_batches():
    batches = []

    async def count(numbers):
        batches.append(len(numbers))
        return numbers

    async def run():
        queue = BatchQueue(count, max_batch=8, max_waiting=100, max_in_flight=1, wait_s=0.05)
        await asyncio.gather(*(submit_later(queue, number) for number in range(4)))

    async def submit_later(queue, number):
        await asyncio.sleep(0.005 * number)
        await queue.submit([number])

    asyncio.run(run())

    assert batches == [4]


def test_cancelled_items_are_not_computed_and_a_full_queue_rejects_all_or_nothing():
    computed = []

    async def slow(numbers):
        computed.extend(numbers)
        await asyncio.sleep(0.1)
        return numbers

    async def run():
        queue = BatchQueue(slow, max_batch=1, max_waiting=3, max_in_flight=1)
        first = asyncio.create_task(queue.submit([1]))
        await asyncio.sleep(0.01)
        cancelled = asyncio.create_task(queue.submit([2]))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull, match="busy: 0 are waiting"):
            await queue.submit([3, 4, 5, 6])
        return await asyncio.gather(first, queue.submit([7, 8, 9]))

    assert asyncio.run(run()) == [[1], [7, 8, 9]]
    assert computed == [1, 7, 8, 9]


def test_requests_of_disconnected_clients_are_not_computed(in_process):
    computed, gate = [], threading.Event()

    async def slow(movies):
        computed.extend(movie.plot for movie in movies)
        await asyncio.to_thread(gate.wait)
        return await predict_half(movies)

    client = in_process(slow, max_batch=1, max_waiting=64)
    batch = {"movies": [{"plot": "last"}] * 64}
    errors = []

    def post_until_accepted():
        other = Client(client.connection.port)
        while (response := other.post("/predict", batch))[0] == 503:
            errors.append(response[1]["error"])
        return response[0]

    with contextlib.ExitStack() as clients, ThreadPoolExecutor(2) as threads:
        # Two batches are in flight per replica.
        for plot in ("first", "second", "third", "fourth"):
            body = json.dumps({"plot": plot}).encode()
            clients.enter_context(send_headers(client, len(body))).sendall(body)
            wait_until(lambda plot=plot: plot in [*computed, "third", "fourth"])
        wait_until(lambda: client.post("/predict", batch)[1]["error"].startswith("busy: 2 are waiting"))
        clients.close()
        statuses = [threads.submit(post_until_accepted) for _ in range(2)]
        # The queue holds one of the batches, and nothing of the clients that are gone.
        wait_until(lambda: any(error.startswith("busy: 64 are waiting") for error in errors))
        gate.set()

    assert [status.result() for status in statuses] == [200, 200]
    assert computed == ["first", "second", *["last"] * 128]


def test_a_model_that_fails_on_a_whole_batch_gives_each_movie_an_error(tmp_path):
    model = TfidfConfig(min_df=1).fit(Movies.of_plots(PLOTS), np.eye(len(PLOTS), len(GENRES), dtype=np.float32))
    thresholds = checkpoint.Thresholds(per_genre=(0.5,) * 9, global_threshold=0.5, kind="global")
    checkpoint.save(model, checkpoint.Card(model=TfidfConfig(min_df=1), thresholds=thresholds), str(tmp_path))
    tagger = Tagger.load(str(tmp_path), "fp32")

    def fail(_):
        raise RuntimeError("no memory")

    tagger._predictor.logits = fail
    predictions = tag(tagger, [MovieToTag(None, plot, None) for plot in PLOTS[:3]])

    assert [(prediction.status, prediction.detail) for prediction in predictions] == [
        ("error", "RuntimeError: no memory")
    ] * 3


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_quoted_cells_are_read_with_any_delimiter(delimiter):
    lines = [["id", "plot, or none", "plot"], ["1", 'says "no"; runs', "a\tb, c"]]
    text = "\r\n".join(delimiter.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines)

    assert csv_tables.read(text.encode(), Limits()).rows == lines[1:]


def test_a_spreadsheets_byte_order_mark_and_delimiter_are_kept():
    table = csv_tables.read("\ufeffName;Plot;plot\r\n\r\nA;B;one\r\nC;D;two\r\n".encode(), Limits())
    predictions = [Prediction("text_only", np.full(9, 0.25, np.float32), None)] * 2

    tagged = table.tagged(predictions, [["Drama", "Crime"], []])

    assert [movie.plot for movie in table.movies()] == ["one", "two"]
    lines = tagged.decode().split("\r\n")
    assert lines[0].startswith("\ufeffName;Plot;plot;genres;status;p_Action;")
    assert lines[1] == "A;B;one;Drama|Crime;text_only" + ";0.2500000" * 9


def test_cells_that_spreadsheets_take_for_formulas_are_guarded_on_demand():
    table = csv_tables.read(b"=name,plot\r\n@A,-one\r\nB,two\r\n", Limits())
    predictions = [Prediction("text_only", np.full(9, 0.25, np.float32), None)] * 2

    as_they_are, guarded = (table.tagged(predictions, [[], []], safe_cells=safe) for safe in (False, True))

    assert [line.split(",")[:2] for line in as_they_are.decode().splitlines()] == [["=name", "plot"], *table.rows]
    assert [line.split(",")[:2] for line in guarded.decode().splitlines()] == [
        ["'=name", "plot"],
        ["'@A", "'-one"],
        ["B", "two"],
    ]


@pytest.mark.parametrize(
    ("name", "expected_name"),
    [
        ("movies.csv", "movies-tagged.csv"),
        ("C:\\a\\My films.csv", "My films-tagged.csv"),
        ("../../x\r\nEvil: 1", "x__Evil_ 1-tagged.csv"),
        ("", "movies-tagged.csv"),
        ("\u96fb\u5f71.csv", "\u96fb\u5f71-tagged.csv"),
    ],
)
def test_a_tagged_file_is_named_after_the_uploaded_one(name, expected_name):
    assert csv_tables.tagged_name(name) == expected_name


def test_stored_posters_stay_unchanged_and_others_are_shrunk_like_them():
    for seed, size in enumerate([(384, 256), (1, 1), (30, 384), (1000, 700)]):
        upload = picture(seed, size, "PNG")
        once = shrink(upload, 384, 10**9).jpeg

        assert normalized_poster(upload, 384, Limits()) == once
        assert normalized_poster(once, 384, Limits()) == once
        # A JPEG of another quality or a larger size is re-encoded.
        assert normalized_poster(picture(seed, size, quality=75), 384, Limits()) != picture(seed, size, quality=75)
        assert normalized_poster(once, 16, Limits()) == shrink(once, 16, 10**9).jpeg
    scan = once.index(b"\xff\xda")
    for broken, expected_text in (
        (once[:-300], "truncated"),
        (once[: scan + 4] + bytes(9) + once[scan + 13 :], "be decoded"),
    ):
        with pytest.raises(RequestError, match=expected_text):
            normalized_poster(broken, 384, Limits())
