"""`jobs/serve.py` as a subprocess: its answers, its behaviour under load and failures, startup and shutdown."""

import csv
import io
import json
import signal
import socket
import struct
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from services import PLOTS, Client, form, in_base64, picture, save_fusion, served, wait_until

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models import checkpoint
from mmgenre.serving import deployment
from mmgenre.serving.config import Limits
from mmgenre.serving.job import ServingConfig, serve
from mmgenre.serving.replicas import MovieToTag, tag
from mmgenre.tagging.actors import Tagger

pytestmark = pytest.mark.process

JSON = "application/json"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_fusion(tmp_path_factory.mktemp("served") / "fusion")


@pytest.fixture(scope="module")
def server(directory):
    with served(directory, "max_waiting=64", "max_batch=16") as process:
        yield process


@pytest.fixture
def client(server):
    return Client(server.port)


@pytest.fixture(scope="module")
def batch():
    """A JSON batch of 32 movies, half of them with a poster."""
    posters = [in_base64(picture(number, (300, 450))) for number in range(16)]
    movies = [{"plot": PLOTS[number], "poster": poster} for number, poster in enumerate(posters)]
    return {"movies": movies + [{"plot": PLOTS[number] * 3} for number in range(16)]}


def test_a_form_gets_the_same_answer_as_json(client):
    movie, poster = {"id": "m1", "title": "Rain", "plot": PLOTS[2]}, picture(2, (200, 300), "PNG")

    _, from_json = client.post("/predict", movie | {"poster": in_base64(poster)})
    status, from_form = client.post_form("/predict", **movie, poster=poster)

    assert status == 200
    assert json.loads(from_form) == from_json


def test_genres_are_decided_by_the_thresholds_for_the_inputs_given(client, directory):
    card = checkpoint.read_card(directory)

    _, text = client.post("/predict", {"plot": PLOTS[0]})
    _, poster = client.post("/predict", {"poster": in_base64(picture(1))})

    for answer, calibration in ((text, card.alone["text_only"]), (poster, card.alone["poster_only"])):
        genres = answer["probabilities"]
        assert [genre["threshold"] for genre in genres] == pytest.approx(list(calibration.thresholds.per_genre))
        assert all(genre["given"] == (genre["probability"] >= genre["threshold"]) for genre in genres)
        given = sorted((genre for genre in genres if genre["given"]), key=lambda genre: -genre["probability"])
        assert answer["genres"] == [genre["genre"] for genre in given]
    assert text["genres"]


def test_a_movie_without_inputs_gets_an_answer_without_genres(client):
    for movie in ({}, {"plot": ""}, {"plot": None, "poster": None}, {"plot": " \n"}, {"title": "A title alone"}):
        status, answer = client.post("/predict", movie)

        assert (status, answer["status"], answer["probabilities"], answer["genres"]) == (200, "no_input", [], [])


def test_a_broken_poster_fails_only_its_own_movie_of_a_batch(client):
    movies = [{"plot": PLOTS[0]}, {"plot": PLOTS[1], "poster": in_base64(b"<html>")}, {"poster": "%"}]

    status, answer = client.post("/predict", {"movies": movies})

    assert status == 200
    assert [movie["status"] for movie in answer["movies"]] == ["text_only", "error", "error"]
    assert answer["movies"][1]["detail"] == "poster: HTML; expected JPEG, PNG or WebP"
    assert "base64" in answer["movies"][2]["detail"]


def test_an_explanation_adds_words_and_regions_to_the_prediction(client):
    movie = {"title": "Rain", "plot": PLOTS[3], "poster": in_base64(picture(3, (200, 300)))}

    _, predicted = client.post("/predict", movie)
    status, answer = client.post("/explain", movie)

    assert status == 200
    assert {name: answer[name] for name in predicted} == predicted
    ranked = sorted(answer["probabilities"], key=lambda genre: -genre["probability"])
    assert answer["explained"] == [genre["genre"] for genre in ranked[:3]]
    assert answer["text"] == f"Rain. {PLOTS[3]}"
    assert {answer["text"][word["start"] : word["end"]] for word in answer["words"]} >= {"detective", "moon"}
    assert all(set(word["scores"]) == set(answer["explained"]) for word in answer["words"])
    assert set(answer["regions"]) == set(answer["explained"])
    assert all(region.startswith("data:image/jpeg;base64,") for region in answer["regions"].values())


def test_an_explanation_of_a_movie_without_inputs_is_empty(client):
    status, answer = client.post("/explain", {})

    assert status == 200
    assert (answer["explained"], answer["text"], answer["words"], answer["regions"]) == ([], None, [], {})


def test_a_table_is_returned_unchanged_with_genres_appended(client, directory):
    rows = [[f"tt{number}", plot, "a, b\nc;", "x"] for number, plot in enumerate([*PLOTS, "", "\\N", 'He said "no".'])]
    text = io.StringIO()
    csv.writer(text).writerows([["tconst", "overview", "note", "genres"], *rows])

    body, content_type = form({"table": text.getvalue().encode()})
    status, headers, content = client.request("POST", "/tag", body, content_type)
    tagged = list(csv.reader(io.StringIO(content.decode(), newline="")))

    assert status == 200
    assert headers["Content-Type"] == "text/csv; charset=utf-8"
    assert headers["Content-Disposition"] == "attachment; filename*=UTF-8''table-tagged.csv"
    added = ["tagged_genres", "status", *(f"p_{genre}" for genre in GENRES)]
    assert tagged[0] == ["tconst", "overview", "note", "genres", *added]
    assert [row[:4] for row in tagged[1:]] == rows
    plots = [None if row[1] in ("", "\\N") else row[1] for row in rows]
    predictions = tag(Tagger.load(directory, "fp32"), [MovieToTag(None, plot, None) for plot in plots])
    for row, prediction in zip(tagged[1:], predictions, strict=True):
        assert row[5] == prediction.status
        probabilities = [float(cell) if cell else float("nan") for cell in row[6:]]
        assert probabilities == pytest.approx(prediction.probabilities.tolist(), abs=1e-5, nan_ok=True)
    _, answer = client.post("/predict", {"plot": PLOTS[0]})
    assert set(tagged[1][4].split("|")) == set(answer["genres"])


def test_the_model_route_returns_the_card_and_the_limits(client, directory):
    card = checkpoint.read_card(directory)

    status, model = client.get("/model")

    assert status == 200
    assert (model["family"], model["genres"], model["reads"]) == (
        "late_fusion",
        list(GENRES),
        ["title", "plot", "image"],
    )
    assert model["fingerprint"] == card.weights_sha256
    assert model["limits"] == Limits().model_dump()
    assert client.get("/health") == (200, {"status": "ok"})


def test_responses_forbid_caching_and_the_page_has_a_content_security_policy(client):
    for path in ("/", "/health", "/nothing", "/openapi.json"):
        _, headers, _ = client.request("GET", path)

        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
    _, headers, page = client.request("GET", "/")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert page.startswith(b"<!doctype html>")


def test_other_paths_and_methods_get_a_404_or_405(client):
    for method, path, expected_status in (
        ("GET", "/docs", 404),
        ("GET", "/-/routes", 404),
        ("GET", "/../../etc/passwd", 404),
        ("POST", "/%00%ff", 404),
        ("GET", "/predict", 405),
        ("DELETE", "/tag", 405),
        ("POST", "/health", 405),
    ):
        status, _, answer = client.request(method, path)

        assert status == expected_status
        assert json.loads(answer)["error"]


def test_all_image_modes_that_the_posters_stage_accepts_are_accepted(client):
    for content in (
        picture(kind="JPEG", mode="CMYK"),
        picture(kind="PNG", mode="P"),
        picture(kind="PNG", mode="1"),
        picture(kind="PNG", mode="LA"),
        picture(kind="WEBP", mode="RGBA"),
        picture(kind="WEBP", save_all=True),
    ):
        status, answer = client.post_form("/predict", poster=content)

        assert (status, json.loads(answer)["status"]) == (200, "poster_only")


def test_a_chunked_body_over_the_limit_gets_a_413(server):
    """It has no Content-Length, so the limit applies to the bytes received."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(12):
            connection.sendall(chunk)

        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_slow_and_disconnecting_clients_do_not_block_others(server, client):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 1000000\r\n\r\n"
    slow = []
    for number in range(60):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall((head + b'{"plot": "x', head[:20], b"")[number % 3])
        slow.append(connection)
        if number % 2:
            # Reset the connection in the middle of a body.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    assert client.post("/predict", {"plot": PLOTS[0]})[0] == 200
    for connection in slow:
        connection.close()


def test_data_that_is_not_http_gets_a_4xx(server):
    endless = b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000
    for data, status in ((b"\x16\x03\x01\x02\x00\x01\x00", b"400"), (endless, b"431")):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(data)

            answer = connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b'{"error": ' in answer


def test_overload_gets_503s_and_the_service_recovers(server, client, batch):
    assert client.post("/predict", batch)[0] == 200

    def ask(_):
        status, headers, answer = Client(server.port).request("POST", "/predict", json.dumps(batch), JSON)
        if status == 503:
            assert headers["Retry-After"] == "1"
            assert json.loads(answer)["error"].startswith("busy")
        return status

    with ThreadPoolExecutor(24) as threads:
        statuses = list(threads.map(ask, range(72)))

    assert set(statuses) == {200, 503}
    assert client.post("/predict", {"plot": PLOTS[0]})[0] == 200


def test_requests_stay_fast_while_explanations_are_computed(server, client):
    done = threading.Event()

    def explain():
        other = Client(server.port)
        while not done.is_set():
            other.post("/explain", {"plot": PLOTS[0] * 3, "poster": in_base64(picture(0, (300, 400)))})

    threads = [threading.Thread(target=explain) for _ in range(8)]
    for thread in threads:
        thread.start()
    seconds = []
    for _ in range(10):
        began = time.monotonic()
        assert client.get("/health")[0] == 200
        seconds.append(time.monotonic() - began)
    done.set()
    for thread in threads:
        thread.join()

    assert np.median(seconds) < 0.5


@pytest.mark.timeout(120)
def test_a_fuzzer_finds_no_response_outside_the_openapi_document(server):
    import schemathesis
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    seen = Counter()
    for operation in (result.ok() for result in schema.get_all_operations()):
        # A request without a body or parameters cannot be invalid.
        for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:
            seen.update(fuzz(operation, mode))

    assert {path for path, _ in seen} == {"/", "/health", "/model", "/predict", "/explain", "/tag"}
    for path in ("/predict", "/explain"):
        assert seen[path, 200] >= 10
        assert seen[path, 422] >= 10


def fuzz(operation, mode):
    """Send up to 50 generated requests within 4 s; counts responses by path and status."""
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    seen, deadline = Counter(), time.monotonic() + 4

    @settings(
        max_examples=50 if operation.body else 1,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        if time.monotonic() > deadline:
            return
        response = case.call()
        seen[case.path, response.status_code] += 1
        if response.status_code != 503:
            case.validate_response(response, checks=checks)
            # A form holds only text, so a number or an empty list becomes valid when it is sent.
            if mode is GenerationMode.NEGATIVE and case.media_type == JSON:
                assert 400 <= response.status_code < 500, case.body

    ask()
    return seen


def test_a_killed_replica_is_restarted(server, client):
    (replica,) = [
        process
        for process in psutil.Process(server.pid).children(recursive=True)
        if "TagReplica" in " ".join(process.cmdline())
    ]

    replica.kill()

    status, answer = client.post("/predict", {"plot": PLOTS[0]})
    assert status in (200, 503), answer
    wait_until(lambda: client.post("/predict", {"plot": PLOTS[0]})[0] == 200, timeout_s=60)
    wait_until(lambda: client.get("/health")[0] == 200)


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint\.json found; expected a folder written by jobs/train\.py"):
        serve(ServingConfig(checkpoint=str(tmp_path)))


def test_a_port_in_use_or_a_foreign_host_is_an_error(directory, server):
    with pytest.raises(InputError, match=f"port={server.port}: 127.0.0.1:{server.port} is already in use"):
        serve(ServingConfig(checkpoint=directory, port=server.port))
    with pytest.raises(InputError, match=r"host=192\.0\.2\.1.*set others"):
        serve(ServingConfig(checkpoint=directory, host="192.0.2.1", port=0))


def test_a_host_other_than_loopback_gets_a_warning(directory, monkeypatch, capsys):
    def fail(_):
        raise InputError("stop here")

    monkeypatch.setattr(deployment, "deployed", fail)

    with pytest.raises(InputError, match="stop here"):
        serve(ServingConfig(checkpoint=directory, host="0.0.0.0", port=0))  # noqa: S104 - the case under test

    assert capsys.readouterr().err.splitlines()[0] == (
        "warning: host=0.0.0.0: anyone who can reach this machine can use the service, without a password"
    )


def test_a_body_limit_below_the_file_limits_is_an_error():
    with pytest.raises(InputError, match="body_bytes=1000: too small for a poster or table of the allowed size"):
        ServingConfig.parse({"checkpoint": "x", "limits": {"body_bytes": 1000}}, "test")


def test_all_processes_listen_on_loopback_only(server):
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    addresses = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }

    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_ctrl_c_stops_the_service_and_all_its_processes(server):
    """Runs last: it stops the shared server."""
    processes = psutil.Process(server.pid).children(recursive=True)
    began = time.monotonic()

    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=30)

    assert server.returncode == 0
    assert "Traceback" not in err
    assert out.splitlines()[-1].startswith("served: ")
    assert time.monotonic() - began < 20
    assert psutil.wait_procs(processes, timeout=10)[1] == []
