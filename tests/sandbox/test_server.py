"""The local server: it behaves like TMDB, OMDb and their image hosts, counts requests, and stops on a signal."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from array import array
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from subprocess import PIPE

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmgenre.errors import InputError
from mmgenre.sandbox import job as sandbox_job
from mmgenre.sandbox.job import ServeConfig, serve
from mmgenre.sandbox.server import Sandbox, ServerConfig
from mmgenre.sandbox.traffic import busiest_second

TOKEN = "right"  # noqa: S105
JOB = [sys.executable, "jobs/sandbox.py", "configs/sandbox/default.yaml"]


@pytest.fixture(scope="module")
def sandbox(folder):
    with serving(folder) as running:
        yield running


def serving(data, **settings):
    return Sandbox(ServerConfig(data=str(data), **settings), TOKEN)


def get(url, key=TOKEN, timeout=5):
    """Status, headers and body; connection errors raise."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - the URL is the sandbox's
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read()


def find(running, imdb_id, key=TOKEN, timeout=5):
    url = f"{running.base_url}/3/find/{imdb_id}?external_source=imdb_id"
    status, headers, body = get(url, key, timeout)
    return status, headers, json.loads(body)


# Posters


def omdb(running, imdb_id, key=TOKEN):
    status, _, body = get(f"{running.base_url}/?i={imdb_id}&apikey={key}", key=None)
    return status, json.loads(body)


# Posters


@pytest.mark.parametrize(("size", "width"), [("w185", 185), ("w342", 342), ("w500", 500), ("original", 500)])
def test_a_poster_of_each_size_is_a_jpeg_of_that_width(sandbox, movies, size, width):
    imdb_id = next(movie["tconst"] for movie in movies if movie["has_poster"])
    path = find(sandbox, imdb_id)[2]["movie_results"][0]["poster_path"]

    _, headers, body = get(f"{sandbox.base_url}/t/p/{size}{path}", key=None)

    poster = Image.open(io.BytesIO(body))
    assert headers["Content-Type"] == "image/jpeg"
    assert (poster.format, poster.mode, poster.width) == ("JPEG", "RGB", width)


def test_only_the_posters_of_a_folder_are_served(tmp_path, folder, movies):
    first, second = [movie["tconst"] for movie in movies if movie["has_poster"]][:2]
    (tmp_path / "movies.parquet").write_bytes((folder / "movies.parquet").read_bytes())
    (tmp_path / "posters").mkdir()
    Image.new("RGB", (200, 300), "teal").save(tmp_path / "posters" / f"{first}.jpg")

    with serving(tmp_path) as running:
        path = find(running, first)[2]["movie_results"][0]["poster_path"]
        narrow = get(f"{running.base_url}/t/p/w185{path}", key=None)[2]
        original = get(f"{running.base_url}/t/p/original{path}", key=None)[2]
        assert find(running, second)[2]["movie_results"][0]["poster_path"] is None

    assert Image.open(io.BytesIO(narrow)).size == (185, 278)
    assert original == (tmp_path / "posters" / f"{first}.jpg").read_bytes()


@pytest.mark.parametrize("name", ["none.jpg", "..%2f..%2fmovies.parquet", "%2e%2e/movies.parquet", "../../etc/passwd"])
def test_the_image_host_serves_no_other_files(sandbox, name):
    assert get(f"{sandbox.image_url}/{name}", key=None)[0] == 404


# TMDB and OMDb


def test_find_responds_like_tmdb(sandbox, movies):
    movie = next(movie for movie in movies if movie["plot"] and movie["has_poster"] and movie["year"])

    status, _, answer = find(sandbox, movie["tconst"])

    [result] = answer.pop("movie_results")
    assert status == 200
    assert answer == {"person_results": [], "tv_results": [], "tv_episode_results": [], "tv_season_results": []}
    assert (result["id"], result["title"], result["overview"]) == (movie["tmdb_id"], movie["title"], movie["plot"])
    assert result["release_date"].startswith(str(movie["year"]))
    assert result["poster_path"].startswith("/")
    assert len(result["genre_ids"]) == len(movie["genres"])


def test_a_movie_without_plot_and_poster_has_an_empty_overview_and_no_path(sandbox, movies):
    plotless = next(movie["tconst"] for movie in movies if movie["plot"] is None)
    posterless = next(movie["tconst"] for movie in movies if not movie["has_poster"])

    assert find(sandbox, plotless)[2]["movie_results"][0]["overview"] == ""
    assert find(sandbox, posterless)[2]["movie_results"][0]["poster_path"] is None


def test_an_unknown_id_gives_empty_results(sandbox):
    status, _, answer = find(sandbox, "tt99999999")

    assert status == 200
    assert set(map(len, answer.values())) == {0}


def test_the_configuration_contains_the_base_url_of_the_posters(sandbox):
    images = json.loads(get(f"{sandbox.base_url}/3/configuration")[2])["images"]

    assert images["base_url"] + "w342" == sandbox.image_url


@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_missing_or_wrong_key_is_refused(sandbox, key):
    status, _, answer = find(sandbox, "tt0000001", key)

    assert (status, answer["status_code"], answer["success"]) == (401, 7, False)


def test_the_key_can_be_in_the_query(sandbox):
    assert get(f"{sandbox.base_url}/3/configuration?api_key=right", key=None)[0] == 200


def test_omdb_has_its_own_response_format(sandbox, movies):
    movie = next(movie for movie in movies if movie["plot"])
    plotless = next(movie for movie in movies if movie["plot"] is None)

    status, answer = omdb(sandbox, movie["tconst"])
    assert status == 200
    assert (answer["imdbID"], answer["Plot"], answer["Response"]) == (movie["tconst"], movie["plot"], "True")
    assert answer["Genre"] == ", ".join(movie["genres"])
    assert omdb(sandbox, plotless["tconst"])[1]["Plot"] == "N/A"
    assert omdb(sandbox, "tt99999999") == (200, {"Response": "False", "Error": "Error getting data."})
    assert omdb(sandbox, "nonsense") == (200, {"Response": "False", "Error": "Incorrect IMDb ID."})
    assert omdb(sandbox, movie["tconst"], key="wrong") == (401, {"Response": "False", "Error": "Invalid API key!"})


# Limits per key


def test_requests_beyond_the_rate_limit_get_a_429(folder):
    with serving(folder, requests_per_second=5) as running:
        answers = [find(running, "tt0000001") for _ in range(8)]
        refused = [headers["Retry-After"] for status, headers, _ in answers if status == 429]
        time.sleep(float(refused[0]))
        assert find(running, "tt0000001")[0] == 200
        assert running.stats()["rate_limited"] == len(refused)

    assert [status for status, _, _ in answers[:5]] == [200] * 5
    assert len(refused) >= 2
    assert set(refused) == {"1"}


def test_retry_after_has_the_configured_form(folder):
    with serving(folder, requests_per_second=1, retry_after="date") as running:
        find(running, "tt0000001")
        asked = time.time()
        status, headers, _ = find(running, "tt0000001")
        until = parsedate_to_datetime(headers["Retry-After"]).timestamp()
        time.sleep(max(0, until - time.time()))
        assert find(running, "tt0000001")[0] == 200
    with serving(folder, requests_per_second=1, retry_after="none") as running:
        find(running, "tt0000001")
        silent = find(running, "tt0000001")

    assert status == 429
    assert headers["Retry-After"].endswith(" GMT")
    assert asked < until < asked + 2
    assert (silent[0], silent[1]["Retry-After"]) == (429, None)


def test_omdb_enforces_its_quota(folder, movies):
    with serving(folder, omdb_quota=2) as running:
        omdb(running, movies[0]["tconst"], key="wrong")
        answered = [omdb(running, imdb_id)[1]["Response"] for imdb_id in (movies[0]["tconst"], "tt99999999")]
        refused = omdb(running, movies[0]["tconst"])
        assert find(running, movies[0]["tconst"])[0] == 200
        assert running.stats()["unauthorized"] == 2
    with serving(folder, omdb_quota=0) as running:
        assert omdb(running, movies[0]["tconst"]) == refused

    assert answered == ["True", "False"]
    assert refused == (401, {"Response": "False", "Error": "Request limit reached!"})


def test_a_key_can_be_revoked_during_a_run(folder, movies):
    imdb_id = next(movie["tconst"] for movie in movies if movie["has_poster"])
    with serving(folder, revoke_after=2) as running:
        wrong = find(running, imdb_id, key="wrong")
        path = find(running, imdb_id)[2]["movie_results"][0]["poster_path"]
        assert get(f"{running.base_url}/3/configuration")[0] == 200
        revoked = find(running, imdb_id)
        assert omdb(running, imdb_id)[0] == get(running.image_url + path, key=None)[0] == 200
        assert running.stats()["unauthorized"] == 2

    assert revoked[0] == 401
    assert revoked[2] == wrong[2]


def test_requests_with_a_429_do_not_count_towards_the_quota(folder):
    with serving(folder, requests_per_second=1, revoke_after=2) as running:
        statuses = [find(running, "tt0000001")[0] for _ in range(4)]
        time.sleep(1)
        statuses += [find(running, "tt0000001")[0] for _ in range(2)]
        stats = running.stats()

    assert statuses == [200, 429, 429, 429, 200, 401]
    assert (stats["requests"]["find"], stats["max_asked_per_id"]["find"], stats["repeat_asks"]) == (6, 2, 1)


def test_responses_can_be_delayed(folder):
    with serving(folder, latency_s=0.2) as running:
        began = time.monotonic()
        find(running, "tt0000001")

    assert time.monotonic() - began > 0.2


# Statistics


def test_the_server_counts_requests(folder, movies):
    imdb_id = next(movie["tconst"] for movie in movies if movie["has_poster"])
    with serving(folder) as running:
        path, _, _ = (find(running, imdb_id)[2]["movie_results"][0]["poster_path"] for _ in range(3))
        find(running, imdb_id, key="wrong")
        get(running.image_url + path, key=None)
        get(running.image_url + path, key=TOKEN)
        stats = json.loads(get(f"{running.base_url}/_stats", key=None)[2])
        assert stats == running.stats()

    assert stats["requests"] == {"find": 4, "image": 2}
    assert stats["max_finds_per_id"] == 3
    assert (stats["unauthorized"], stats["keys_at_image_host"]) == (1, 1)
    assert sum(stats["requests_per_second"].values()) == 6


def test_the_server_records_its_busiest_second_and_arrival_times(folder):
    with serving(folder) as running:
        began = time.monotonic()
        for _ in range(3):
            find(running, "tt0000001")
        time.sleep(1.1)
        middle = time.monotonic()
        find(running, "tt0000001", key="wrong")
        omdb(running, "tt0000001")
        stats = running.stats()

    assert stats["busiest_second"] == {"find": 3, "omdb": 1}
    assert began < stats["first_arrival"]["find"] < middle - 1
    assert middle < stats["last_arrival"]["find"] < stats["first_arrival"]["omdb"]
    assert stats["first_arrival"]["omdb"] == stats["last_arrival"]["omdb"] < time.monotonic()


@pytest.mark.parametrize(
    ("arrivals", "most"),
    [
        ([], 0),
        ([7.25], 1),
        ([0.0, 1.0], 1),
        ([0.0, 0.5, 1.0, 1.25], 3),
        ([0.75, 0.875, 1.0, 1.125, 5.0, 5.5, 5.75], 4),
        ([3.0, 3.0, 3.0], 3),
    ],
)
def test_the_busiest_second_may_start_at_any_time_and_excludes_its_end(arrivals, most):
    assert busiest_second(array("d", arrivals)) == most


def test_the_server_records_the_peak_of_concurrent_requests(folder):
    with serving(folder, latency_s=0.25) as running, ThreadPoolExecutor(6) as clients:
        list(clients.map(lambda number: find(running, f"tt{number:07}"), range(6)))
        for _ in range(2):
            omdb(running, "tt0000001")

        assert running.stats()["open_connections_peak"] == {"find": 6, "omdb": 1}


def test_the_server_counts_repeated_requests(folder):
    with serving(folder) as running:
        for imdb_id in ("tt0000001", "tt0000002", "tt0000001", "tt0000003", "tt0000001", "tt0000003"):
            find(running, imdb_id)
        find(running, "tt0000001", key="wrong")
        omdb(running, "tt0000001")
        omdb(running, "tt0000001")
        stats = running.stats()

    assert stats["repeat_asks"] == 3
    assert stats["max_asked_per_id"] == {"find": 3, "omdb": 2}
    assert stats["max_finds_per_id"] == 3


# Input errors


def test_an_invalid_folder_is_an_input_error(tmp_path, folder):
    with pytest.raises(InputError, match=r"absent/movies.parquet: no such file"):
        Sandbox(ServerConfig(data=str(tmp_path / "absent")))

    pq.write_table(pq.read_table(folder / "movies.parquet").drop_columns(["plot", "year"]), tmp_path / "movies.parquet")
    with pytest.raises(InputError, match=r"lacks the columns year, plot"):
        Sandbox(ServerConfig(data=str(tmp_path)))

    (tmp_path / "movies.parquet").write_text("tconst,plot\n")
    with pytest.raises(InputError, match="expected Parquet"):
        Sandbox(ServerConfig(data=str(tmp_path)))


def test_a_port_in_use_is_an_input_error(sandbox, folder):
    port = int(sandbox.base_url.rpartition(":")[2])

    with pytest.raises(InputError, match=f"port {port}.*port=0"), Sandbox(ServerConfig(data=str(folder), port=port)):
        pass


# The job


@pytest.mark.process
def test_the_job_generates_a_catalogue_and_serves_it_until_a_signal(tmp_path):
    def start(name):
        arguments = [f"output={tmp_path / name}", "port=0", "catalogue.movies=20", "catalogue.other_titles=5"]
        environment = os.environ | {"TMDB_TOKEN": TOKEN}
        return subprocess.Popen([*JOB, *arguments], stdout=PIPE, stderr=PIPE, text=True, env=environment)

    with start("first") as first, start("second") as second:
        for name, job, signum, code in (
            ("first", first, signal.SIGINT, 130),
            ("second", second, signal.SIGTERM, 0),
        ):
            line = job.stdout.readline()
            base_url = line.partition("TMDB at ")[2].partition("/3,")[0]
            imdb_id = pq.read_table(tmp_path / name / "movies.parquet")["tconst"][0].as_py()
            answer = json.loads(get(f"{base_url}/3/find/{imdb_id}?external_source=imdb_id")[2])
            job.send_signal(signum)
            _, errors = job.communicate(timeout=10)

            assert answer["movie_results"]
            assert job.returncode == code
            assert "Traceback" not in errors
            assert TOKEN not in line


def test_the_job_rejects_a_missing_folder_and_restores_the_sigterm_handler(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(InputError, match=r"absent/movies.parquet: no such file; expected"):
        serve(ServeConfig(output=str(tmp_path), data=str(tmp_path / "absent")))

    assert signal.getsignal(signal.SIGTERM) == before
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_file_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(InputError, match="file: is a file; expected a folder"):
        serve(ServeConfig(output=str(tmp_path / "file")))


def test_a_restarted_server_takes_its_last_port_if_that_is_free(folder, tmp_path):
    config = ServeConfig(data=str(folder), output=str(tmp_path))
    with sandbox_job.serving(config) as first:
        before = first.port
        with sandbox_job.serving(config) as beside:
            assert beside.port != before
        (tmp_path / "port").write_text(str(before))
    with sandbox_job.serving(config) as again:
        assert again.port == before


def test_real_movies_are_served_with_their_own_posters():
    data = Path(os.environ.get("MMGENRE_DATA", "none"))
    if not (data / "movies.parquet").is_file():
        pytest.skip("MMGENRE_DATA names no folder with movies.parquet")
    posters = {file.stem for file in (data / "posters").iterdir()}
    imdb_id = min(posters)

    with serving(data) as running:
        [movie] = find(running, imdb_id)[2]["movie_results"]
        poster = get(running.image_url + movie["poster_path"], key=None)[2]

    assert movie["overview"]
    assert poster == (data / "posters" / f"{imdb_id}.jpg").read_bytes()
