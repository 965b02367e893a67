"""The service as a process that is asked over HTTP: what it says, what it refuses, what it survives, how it ends."""

import base64
import csv
import io
import json
import os
import shutil
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
from serving import PLOTS, Client, form, in_base64, picture, save_fusion, served, wait_until

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.models import checkpoint
from mmgenre.posters.images import shrink
from mmgenre.serving import job as serving_job
from mmgenre.serving.job import ServingConfig, serve
from mmgenre.serving.limits import Limits
from mmgenre.serving.replicas import Movie, tag
from mmgenre.tables.schema import MOVIES, PREDICTIONS
from mmgenre.tables.table import Table
from mmgenre.tagging.actors import Tagger
from mmgenre.tagging.job import TagConfig
from mmgenre.tagging.job import tag as tag_table

JSON = "application/json"
MAX_WAITING = 64


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_fusion(tmp_path_factory.mktemp("served") / "fusion")


@pytest.fixture(scope="module")
def server(directory):
    with served(directory, f"max_waiting={MAX_WAITING}", "max_batch=16") as process:
        yield process


@pytest.fixture
def client(server):
    return Client(server.port)


@pytest.fixture(scope="module")
def movies():
    """Fifty movies as they are sent: with a plot, with a poster, with both."""
    kinds = ["JPEG", "PNG", "WEBP"]
    found = []
    for number in range(50):
        movie = {"id": f"m{number}", "title": f"Movie {number}"}
        if number % 3 != 1:
            movie["plot"] = PLOTS[number % len(PLOTS)] * (1 + number % 4)
        if number % 3 != 0:
            movie["poster"] = in_base64(picture(number, (30 + number * 12, 45 + number * 12), kinds[number % 3]))
        found.append(movie)
    return found


@pytest.fixture(scope="module")
def expected(local_ray, write_table, directory, movies, tmp_path_factory):
    """What jobs/tag.py says of them, whose posters went through the posters stage: rows of PREDICTIONS."""
    folder = tmp_path_factory.mktemp("tagged")
    images = [shrink(in_bytes(one["poster"]), 384, 25_000_000).jpeg if "poster" in one else None for one in movies]
    columns = {
        "imdb_id": [movie["id"] for movie in movies],
        "split": ["test"] * len(movies),
        "title": [movie["title"] for movie in movies],
        "plot": [movie.get("plot") for movie in movies],
        "image": images,
        "labels": [[0.0] * len(GENRES)] * len(movies),
    }
    table = write_table(folder / "movies", MOVIES, columns)
    tag_table(TagConfig(checkpoint=directory, movies=table, output=str(folder / "tags"), precision="fp32"))
    rows = {row["imdb_id"]: row for row in Table(str(folder / "tags"), PREDICTIONS).read().to_pylist()}
    return [rows[movie["id"]] for movie in movies]


def in_bytes(text):
    return base64.b64decode(text)


def require_same(answer, row):
    """An answer of the service and a row of the batch job."""
    found = [one["probability"] for one in answer["probabilities"]]
    assert (answer["status"], sorted(answer["genres"])) == (row["status"], sorted(row["genres"]))
    assert [one["genre"] for one in answer["probabilities"]] == list(GENRES)
    assert found == pytest.approx(row["probabilities"], abs=1e-5)


# What it says


def test_answers_are_those_of_the_batch_job_one_by_one_at_once_and_as_a_batch(server, client, movies, expected):
    one_by_one = [client.post("/predict", movie)[1] for movie in movies]
    with ThreadPoolExecutor(16) as threads:
        at_once = list(threads.map(lambda movie: Client(server.port).post("/predict", movie)[1], movies))
    _, batch = client.post("/predict", {"movies": movies})

    for answers in (one_by_one, at_once, batch["movies"]):
        assert [answer["id"] for answer in answers] == [movie["id"] for movie in movies]
        for answer, row in zip(answers, expected, strict=True):
            require_same(answer, row)
    assert {answer["status"] for answer in one_by_one} == {"text_only", "poster_only", "text_and_poster"}


def test_a_form_says_what_json_says(client, movies):
    movie = movies[2]

    _, of_json = client.post("/predict", movie)
    status, of_form = client.send(
        "/predict", title=movie["title"], plot=movie["plot"], poster=in_bytes(movie["poster"])
    )

    assert status == 200
    assert json.loads(of_form) == of_json | {"id": None}


def test_genres_are_decided_by_the_thresholds_of_what_is_seen(client, directory):
    card = checkpoint.read_card(directory)

    _, text = client.post("/predict", {"plot": PLOTS[0]})
    _, poster = client.post("/predict", {"poster": in_base64(picture(1))})

    for answer, calibration in ((text, card.alone["text_only"]), (poster, card.alone["poster_only"])):
        chances = answer["probabilities"]
        assert [one["threshold"] for one in chances] == pytest.approx(list(calibration.thresholds.per_genre))
        assert all(one["given"] == (one["probability"] >= one["threshold"]) for one in chances)
        given = sorted((one for one in chances if one["given"]), key=lambda one: -one["probability"])
        assert answer["genres"] == [one["genre"] for one in given]
    assert text["genres"]


def test_a_movie_of_which_nothing_is_known_is_an_answer(client):
    for movie in ({}, {"plot": ""}, {"plot": None, "poster": None}, {"plot": " \n"}, {"title": "A title alone"}):
        status, answer = client.post("/predict", movie)

        assert (status, answer["status"], answer["probabilities"], answer["genres"]) == (200, "no_input", [], [])


def test_a_batch_answers_for_the_good_where_one_poster_is_broken(client):
    movies = [{"plot": PLOTS[0]}, {"plot": PLOTS[1], "poster": in_base64(b"<html>")}, {"poster": "%"}]

    status, answer = client.post("/predict", {"movies": movies})

    assert status == 200
    assert [one["status"] for one in answer["movies"]] == ["text_only", "error", "error"]
    assert answer["movies"][1]["detail"] == "poster: HTML; expected JPEG, PNG or WebP"
    assert "base64" in answer["movies"][2]["detail"]


def test_an_explanation_is_the_prediction_with_words_and_regions(client):
    movie = {"title": "Rain", "plot": PLOTS[3], "poster": in_base64(picture(3, (200, 300)))}

    _, predicted = client.post("/predict", movie)
    status, answer = client.post("/explain", movie)

    assert status == 200
    assert {name: answer[name] for name in predicted} == predicted
    by_chance = sorted(answer["probabilities"], key=lambda one: -one["probability"])
    assert answer["explained"] == [one["genre"] for one in by_chance[:3]]
    assert answer["text"] == f"Rain. {PLOTS[3]}"
    assert {answer["text"][word["start"] : word["end"]] for word in answer["words"]} >= {"detective", "moon"}
    assert all(set(word["scores"]) == set(answer["explained"]) for word in answer["words"])
    assert set(answer["regions"]) == set(answer["explained"])
    assert all(region.startswith("data:image/jpeg;base64,") for region in answer["regions"].values())


def test_an_explanation_of_nothing_is_empty(client):
    status, answer = client.post("/explain", {})

    assert status == 200
    assert (answer["explained"], answer["text"], answer["words"], answer["regions"]) == ([], None, [], {})


def test_a_table_comes_back_as_it_was_with_genres_beside_it(client, directory):
    rows = [[f"tt{number}", plot, "a, b\nc;", "x"] for number, plot in enumerate([*PLOTS, "", "\\N", 'He said "no".'])]
    text = io.StringIO()
    csv.writer(text).writerows([["tconst", "overview", "note", "genres"], *rows])

    body, kind = form({"table": text.getvalue().encode()})
    status, headers, content = client.ask("POST", "/tag", body, kind)
    tagged = list(csv.reader(io.StringIO(content.decode(), newline="")))

    assert status == 200
    assert headers["Content-Type"] == "text/csv; charset=utf-8"
    assert headers["Content-Disposition"] == "attachment; filename*=UTF-8''table-tagged.csv"
    added = ["tagged_genres", "status", *(f"p_{genre}" for genre in GENRES)]
    assert tagged[0] == ["tconst", "overview", "note", "genres", *added]
    assert [row[:4] for row in tagged[1:]] == rows
    plots = [None if row[1] in ("", "\\N") else row[1] for row in rows]
    predictions = tag(Tagger.load(directory, "fp32"), [Movie(None, plot, None) for plot in plots])
    for row, prediction in zip(tagged[1:], predictions, strict=True):
        assert row[5] == prediction.status
        chances = [float(cell) if cell else float("nan") for cell in row[6:]]
        assert chances == pytest.approx(prediction.probabilities.tolist(), abs=1e-5, nan_ok=True)
    _, answer = client.post("/predict", {"plot": PLOTS[0]})
    assert set(tagged[1][4].split("|")) == set(answer["genres"])


def test_what_is_told_of_the_model_is_its_card(client, directory):
    card = checkpoint.read_card(directory)

    status, found = client.get("/model")

    assert status == 200
    assert (found["family"], found["genres"], found["reads"]) == (
        "late_fusion",
        list(GENRES),
        ["title", "plot", "image"],
    )
    assert found["fingerprint"] == card.weights_sha256
    assert found["limits"] == Limits().model_dump()
    assert client.get("/health") == (200, {"status": "ok"})


def test_every_answer_forbids_to_be_kept_and_the_page_all_that_it_does_not_do(client):
    for path in ("/", "/health", "/nothing", "/openapi.json"):
        _, headers, _ = client.ask("GET", path)

        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
    _, headers, page = client.ask("GET", "/")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert page.startswith(b"<!doctype html>")


def test_there_is_nothing_else(client):
    for method, path, expected_status in (
        ("GET", "/docs", 404),
        ("GET", "/-/routes", 404),
        ("GET", "/../../etc/passwd", 404),
        ("POST", "/%00%ff", 404),
        ("GET", "/predict", 405),
        ("DELETE", "/tag", 405),
        ("POST", "/health", 405),
    ):
        status, _, answer = client.ask(method, path)

        assert status == expected_status
        assert json.loads(answer)["error"]


def test_images_that_the_posters_stage_takes_are_taken(client):
    for content in (
        picture(kind="JPEG", mode="CMYK"),
        picture(kind="PNG", mode="P"),
        picture(kind="PNG", mode="1"),
        picture(kind="PNG", mode="LA"),
        picture(kind="WEBP", mode="RGBA"),
        picture(kind="WEBP", save_all=True),
    ):
        status, answer = client.send("/predict", poster=content)

        assert (status, json.loads(answer)["status"]) == (200, "poster_only")


def test_a_body_without_end_is_broken_off(server):
    """Its length is not announced, so that only counting helps."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(12):
            connection.sendall(chunk)

        assert connection.recv(100).startswith(b"HTTP/1.1 413")


# What it survives


def test_clients_that_go_away_or_dawdle_are_in_nobodys_way(server, client):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    dawdling = []
    for number in range(60):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall((head + b'{"plot": "x', head[:20], b"")[number % 3])
        dawdling.append(connection)
        if number % 2:
            # Reset, in the middle of a body.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    assert client.post("/predict", {"plot": PLOTS[0]})[0] == 200
    for connection in dawdling:
        connection.close()


def test_what_is_no_http_is_told_so(server):
    endless = b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000
    for said, status in ((b"\x16\x03\x01\x02\x00\x01\x00", b"400"), (endless, b"431")):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(said)

            answer = connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b'{"error": ' in answer


def test_more_than_it_can_do_gets_503_at_once_and_then_it_goes_on(server, client, movies):
    heavy = {"movies": movies[:32]}
    client.post("/predict", heavy)

    def ask(_):
        status, headers, answer = Client(server.port).ask("POST", "/predict", json.dumps(heavy), JSON)
        if status == 503:
            assert headers["Retry-After"] == "1"
            assert json.loads(answer)["error"].startswith("busy")
        return status

    with ThreadPoolExecutor(24) as threads:
        statuses = list(threads.map(ask, range(72)))

    assert set(statuses) == {200, 503}
    assert client.post("/predict", {"plot": PLOTS[0]})[0] == 200


def test_requests_are_quick_while_others_are_explained(server, client):
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
def test_a_fuzzer_finds_no_answer_that_the_document_does_not_have(server):
    import schemathesis
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    seen = Counter()
    for operation in (found.ok() for found in schema.get_all_operations()):
        # Nothing can be wrong in a request of which nothing is said.
        for mode in GenerationMode if operation.body else [GenerationMode.POSITIVE]:
            seen.update(fuzz(operation, mode))

    assert {path for path, _ in seen} == {"/", "/health", "/model", "/predict", "/explain", "/tag"}
    for path in ("/predict", "/explain"):
        assert seen[path, 200] >= 10
        assert seen[path, 422] >= 10


def fuzz(operation, mode):
    """Asks up to 100 generated requests within 4 s; how often which path gave which status."""
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
        max_examples=100 if operation.body else 1,
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
            # In a form all is text, so that a number or an empty list is not wrong any more when it is sent.
            if mode is GenerationMode.NEGATIVE and case.media_type == JSON:
                assert 400 <= response.status_code < 500, case.body

    ask()
    return seen


def test_a_model_whose_process_is_killed_is_started_again(server, client):
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


# How it begins and ends


def test_a_checkpoint_that_is_none_is_a_mistake(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint\.json there; expected a folder made by jobs/train\.py"):
        serve(ServingConfig(checkpoint=str(tmp_path)))


def test_weights_that_are_broken_off_are_a_mistake(local_ray, directory, tmp_path):
    broken = shutil.copytree(directory, tmp_path / "broken")
    os.truncate(broken / "weights.safetensors", 5000)

    with pytest.raises(InputError, match=r"broken/weights\.safetensors: missing or not the file the card describes"):
        serve(ServingConfig(checkpoint=str(broken), port=0, explain=False))


def test_a_port_that_is_taken_is_a_mistake(directory, server):
    with pytest.raises(InputError, match=f"port={server.port}: something listens at 127.0.0.1:{server.port} already"):
        serve(ServingConfig(checkpoint=directory, port=server.port))
    with pytest.raises(InputError, match=r"host=192\.0\.2\.1.*give others"):
        serve(ServingConfig(checkpoint=directory, host="192.0.2.1", port=0))


def test_a_host_that_others_reach_is_warned_of(directory, monkeypatch, capsys):
    def refuse(_):
        raise InputError("stop here")

    monkeypatch.setattr(serving_job, "_deployed", refuse)

    with pytest.raises(InputError, match="stop here"):
        serve(ServingConfig(checkpoint=directory, host="0.0.0.0", port=0))  # noqa: S104 - that is the point

    assert capsys.readouterr().err.splitlines()[0] == (
        "warning: host=0.0.0.0: whoever reaches this machine can use the service; it asks for no password"
    )


def test_limits_fit_each_other():
    with pytest.raises(InputError, match="body_bytes=1000: a poster or a table of the size allowed would not fit"):
        ServingConfig.parse({"checkpoint": "x", "limits": {"body_bytes": 1000}}, "test")


def test_everything_listens_on_this_machine_alone(server):
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    addresses = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }

    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_it_ends_with_ctrl_c_and_leaves_nothing(server):
    """The last that is asked of it."""
    processes = psutil.Process(server.pid).children(recursive=True)
    began = time.monotonic()

    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=30)

    assert server.returncode == 0
    assert "Traceback" not in err
    assert out.splitlines()[-1].startswith("served: ")
    assert time.monotonic() - began < 20
    assert psutil.wait_procs(processes, timeout=10)[1] == []
