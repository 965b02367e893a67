import gzip
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path
from random import Random
from subprocess import PIPE

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageStat
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from mmgenre.errors import InputError
from mmgenre.genres import GENRES, encode
from mmgenre.sandbox.catalogue import COLUMNS, SandboxConfig, generate, write_dump
from mmgenre.sandbox.faults import FaultsConfig
from mmgenre.sandbox.movies import SERVED, draw_movies
from mmgenre.sandbox.plots import write_plot
from mmgenre.sandbox.posters import draw
from mmgenre.sandbox.serve import ServeConfig, serve
from mmgenre.sandbox.server import Sandbox, ServerConfig

SMALL = SandboxConfig(movies=300, other_titles=150)
TOKEN = "right"  # noqa: S105
JOB = [sys.executable, "jobs/sandbox.py", "configs/sandbox/default.yaml"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("catalogue")
    generate(SMALL, str(directory))
    return directory


@pytest.fixture(scope="module")
def movies(folder):
    return pq.read_table(folder / "movies.parquet").to_pylist()


@pytest.fixture(scope="module")
def sandbox(folder):
    with serving(folder) as running:
        yield running


def serving(data, **settings):
    return Sandbox(ServerConfig(data=str(data), **settings), TOKEN)


def rows_of(dump):
    header, *lines = gzip.decompress(dump.read_bytes()).decode().removesuffix("\n").split("\n")
    assert header.split("\t") == list(COLUMNS)
    return [line.split("\t") for line in lines]


def get(url, key=TOKEN, timeout=5):
    """Status, headers and body; errors of the connection raise."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - the address is the sandbox's
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers, answer.read()


def find(running, imdb_id, key=TOKEN, timeout=5):
    url = f"{running.base_url}/3/find/{imdb_id}?external_source=imdb_id"
    status, headers, body = get(url, key, timeout)
    return status, headers, json.loads(body)


# Plots


def test_plots_are_of_real_length_and_never_name_a_genre():
    random = Random(0)

    plots = [write_plot(genres, random) for genres in draw_movies(500, random)["genres"]]

    lengths = [len(plot.split()) for plot in plots]
    assert min(lengths) >= 8
    assert np.mean([12 <= length <= 90 for length in lengths]) > 0.97
    assert len(set(plots)) == len(plots)
    assert not [plot for plot in plots for genre in GENRES if genre.lower() in plot.lower()]


def test_a_plot_can_have_no_genre():
    assert write_plot([], Random(0))


def test_a_linear_model_learns_the_plots_and_does_not_know_them_all():
    random = Random(1)
    genres = draw_movies(1600, random)["genres"]
    labels = np.stack([encode(row) for row in genres])
    words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform([write_plot(row, random) for row in genres])
    model = OneVsRestClassifier(LogisticRegression(C=4, class_weight="balanced"))

    predicted = model.fit(words[:1200], labels[:1200]).predict(words[1200:])

    assert 0.6 < f1_score(labels[1200:], predicted, average="macro") < 0.85


# The catalogue


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, folder):
    generate(SMALL, str(tmp_path / "again"))
    generate(SMALL.model_copy(update={"seed": 1}), str(tmp_path / "other"))

    for name in ("title.basics.tsv.gz", "movies.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()
    assert not any((folder / "title.basics.tsv.gz").read_bytes()[4:8]), "the time of writing is in the file"


def test_the_dump_is_what_imdb_publishes_and_not_tidier(folder):
    rows = rows_of(folder / "title.basics.tsv.gz")
    usable = [row for row in rows if len(row) == 9 and row[0].startswith("tt") and "x" not in row[5]]
    films = {row[0]: row for row in usable if row[1] == "movie" and row[8] not in {r"\N", "Adult"}}

    assert 1 <= len(rows) - len(usable) <= 3
    assert len(usable) == len({row[0] for row in usable}) + 2
    assert {row[1] for row in usable} >= {"movie", "tvEpisode", "short", "tvSeries", "video"}
    assert {row[4] for row in usable} == {"0", "1"}
    assert any('"' in row[2] for row in usable)
    assert any(row[1] == "movie" and row[8] == r"\N" for row in usable)
    assert all(row[8].split(",") == sorted(set(row[8].split(","))) for row in films.values())
    assert max(len(row[8].split(",")) for row in films.values()) == 3
    assert any(set(row[8].split(",")) & set(GENRES) and set(row[8].split(",")) - set(GENRES) for row in films.values())


def test_the_provider_knows_most_movies_and_their_true_genres(folder, movies):
    listed = {row[0]: row[8] for row in rows_of(folder / "title.basics.tsv.gz") if len(row) == 9}

    assert pq.read_schema(folder / "movies.parquet").equals(SERVED, check_metadata=False)
    assert 0.9 * SMALL.movies < len(movies) < SMALL.movies
    assert all(movie["tconst"] in listed for movie in movies)
    assert all(movie["genres"] and set(movie["genres"]) <= set(GENRES) for movie in movies)
    tagged = [movie for movie in movies if listed[movie["tconst"]] != r"\N"]
    assert len(tagged) < len(movies)
    assert all(set(movie["genres"]) == set(listed[movie["tconst"]].split(",")) & set(GENRES) for movie in tagged)


def test_movies_lack_what_real_ones_lack():
    movies = draw_movies(3000, Random(0))
    plots = movies["plot"].dropna()
    normalised = plots.str.lower().str.split().str.join(" ")
    told = normalised[normalised.str.split().str.len() >= 6]

    assert movies["plot"].isna().mean() == pytest.approx(0.04, abs=0.01)
    assert (1 - len(told) / len(plots)) == pytest.approx(0.02, abs=0.01)
    assert (movies["original_language"] != "en").mean() == pytest.approx(0.05, abs=0.015)
    assert movies["has_poster"].mean() == pytest.approx(0.88, abs=0.02)
    assert movies["known"].mean() == pytest.approx(0.97, abs=0.01)
    assert told.duplicated().mean() == pytest.approx(0.01, abs=0.006)
    assert movies["tmdb_id"].is_unique
    counts = movies["genres"].explode().value_counts()
    assert counts.index[0] == "Drama"
    assert counts["Sci-Fi"] < counts["Comedy"] / 2


def test_a_dump_of_any_length_keeps_the_proportions(tmp_path):
    write_dump(str(tmp_path / "dump.tsv.gz"), rows=60_000, seed=0)

    rows = rows_of(tmp_path / "dump.tsv.gz")

    types = [row[1] for row in rows]
    ids = [int(row[0].removeprefix("tt")) for row in rows]
    assert len(rows) == 60_000
    assert {len(row) for row in rows} == {9}
    assert all(later > earlier for earlier, later in pairwise(ids))
    assert types.count("tvEpisode") / len(rows) == pytest.approx(0.758, abs=0.01)
    assert types.count("movie") / len(rows) == pytest.approx(0.064, abs=0.01)
    assert 75 < sum(map(len, map("\t".join, rows))) / len(rows) < 100


# Posters


def test_a_poster_is_the_same_for_the_same_movie_and_shows_its_genres():
    def brightness(genre):
        posters = [Image.open(io.BytesIO(draw(f"tt{number}", [genre]))) for number in range(20)]
        return np.mean([np.mean(ImageStat.Stat(poster).mean) for poster in posters])

    assert draw("tt1", ["Comedy"]) == draw("tt1", ["Comedy"])
    assert draw("tt1", ["Comedy"]) != draw("tt2", ["Comedy"])
    assert brightness("Comedy") > brightness("Horror") + 40


@pytest.mark.parametrize(("size", "width"), [("w185", 185), ("w342", 342), ("w500", 500), ("original", 500)])
def test_a_poster_of_each_size_is_a_jpeg_of_that_width(sandbox, movies, size, width):
    imdb_id = next(movie["tconst"] for movie in movies if movie["has_poster"])
    path = find(sandbox, imdb_id)[2]["movie_results"][0]["poster_path"]

    _, headers, body = get(f"{sandbox.base_url}/t/p/{size}{path}", key=None)

    poster = Image.open(io.BytesIO(body))
    assert headers["Content-Type"] == "image/jpeg"
    assert (poster.format, poster.mode, poster.width) == ("JPEG", "RGB", width)


def test_posters_of_a_folder_are_served_and_no_others(tmp_path, folder, movies):
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
def test_no_other_file_leaves_the_image_host(sandbox, name):
    assert get(f"{sandbox.image_url}/{name}", key=None)[0] == 404


# TMDB and OMDb


def test_a_movie_is_found_as_tmdb_finds_it(sandbox, movies):
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


def test_an_unknown_id_finds_nothing_and_is_no_error(sandbox):
    status, _, answer = find(sandbox, "tt99999999")

    assert status == 200
    assert set(map(len, answer.values())) == {0}


def test_details_are_there_by_either_id_and_404_for_others(sandbox, movies):
    movie = movies[0]

    by_imdb, by_tmdb, neither = (
        get(f"{sandbox.base_url}/3/movie/{name}") for name in (movie["tconst"], movie["tmdb_id"], "tt99999999")
    )

    assert json.loads(by_imdb[2]) == json.loads(by_tmdb[2])
    assert json.loads(by_imdb[2])["imdb_id"] == movie["tconst"]
    assert (neither[0], json.loads(neither[2])["status_code"]) == (404, 34)


def test_the_configuration_says_where_the_posters_are(sandbox):
    images = json.loads(get(f"{sandbox.base_url}/3/configuration")[2])["images"]

    assert images["base_url"] + "w342" == sandbox.image_url


@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_missing_or_wrong_key_is_refused(sandbox, key):
    status, _, answer = find(sandbox, "tt0000001", key)

    assert (status, answer["status_code"], answer["success"]) == (401, 7, False)


def test_the_key_may_be_in_the_query(sandbox):
    assert get(f"{sandbox.base_url}/3/configuration?api_key=right", key=None)[0] == 200


def test_omdb_answers_in_its_own_manner(sandbox, movies):
    def ask(imdb_id, key=TOKEN):
        status, _, body = get(f"{sandbox.base_url}/?i={imdb_id}&apikey={key}", key=None)
        return status, json.loads(body)

    movie = next(movie for movie in movies if movie["plot"])
    plotless = next(movie for movie in movies if movie["plot"] is None)

    status, answer = ask(movie["tconst"])
    assert status == 200
    assert (answer["imdbID"], answer["Plot"], answer["Response"]) == (movie["tconst"], movie["plot"], "True")
    assert answer["Genre"] == ", ".join(movie["genres"])
    assert ask(plotless["tconst"])[1]["Plot"] == "N/A"
    assert ask("tt99999999") == (200, {"Response": "False", "Error": "Error getting data."})
    assert ask("nonsense") == (200, {"Response": "False", "Error": "Incorrect IMDb ID."})
    assert ask(movie["tconst"], key="wrong") == (401, {"Response": "False", "Error": "Invalid API key!"})


# Bad days


def test_a_key_that_asks_too_fast_is_told_to_wait(folder):
    with serving(folder, requests_per_second=5) as running:
        answers = [find(running, "tt0000001") for _ in range(8)]
        refused = [headers["Retry-After"] for status, headers, _ in answers if status == 429]
        time.sleep(float(refused[0]))
        assert find(running, "tt0000001")[0] == 200
        assert running.stats()["rate_limited"] == len(refused)

    assert [status for status, _, _ in answers[:5]] == [200] * 5
    assert len(refused) >= 2
    assert set(refused) == {"1"}


BROKEN = {
    "timeout": TimeoutError,
    "reset": (ConnectionError, urllib.error.URLError),
    "truncated": http.client.IncompleteRead,
    "html": json.JSONDecodeError,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_answer_reaches_the_client_and_a_later_attempt_succeeds(folder, movies, kind):
    config = FaultsConfig(rate=1, kinds=(kind,), attempts=1)
    with serving(folder, faults=config) as running:
        with pytest.raises(BROKEN[kind]):
            find(running, movies[0]["tconst"], timeout=0.2)
        assert find(running, movies[0]["tconst"])[2]["movie_results"]
        assert running.stats()["faults"] == {kind: 1}


def test_a_server_error_and_a_wrong_shape_reach_the_client_and_a_later_attempt_succeeds(folder, movies):
    imdb_id = movies[0]["tconst"]
    for kind, expected in (("server_error", 500), ("wrong_shape", 200)):
        config = FaultsConfig(rate=1, kinds=(kind,), attempts=1)
        with serving(folder, faults=config) as running:
            status, _, broken = find(running, imdb_id)
            whole = find(running, imdb_id)[2]
        assert status == expected
        assert whole["movie_results"]
        assert broken != whole


def test_faults_hit_posters_too(folder, movies):
    imdb_id = next(movie["tconst"] for movie in movies if movie["has_poster"])
    config = FaultsConfig(rate=1, kinds=("truncated",), attempts=1)
    with serving(folder, faults=config) as running:
        with pytest.raises(http.client.IncompleteRead):
            find(running, imdb_id)
        url = running.image_url + find(running, imdb_id)[2]["movie_results"][0]["poster_path"]
        with pytest.raises(http.client.IncompleteRead):
            get(url, key=None)
        assert Image.open(io.BytesIO(get(url, key=None)[2])).width == 342


def test_faults_are_drawn_the_same_way_again_and_mostly_pass():
    config = FaultsConfig(rate=0.2, permanent=0.05)
    names = [f"tt{number:07}" for number in range(2000)]

    first, second, last = ([config.draw(name, attempt) for name in names] for attempt in (1, 2, 50))

    assert first == [config.draw(name, 1) for name in names]
    assert np.mean([fault is not None for fault in first]) == pytest.approx(0.24, abs=0.04)
    assert set(first) == {None, *config.kinds}
    assert first != second
    assert np.mean([fault is not None for fault in last]) == pytest.approx(0.05, abs=0.02)


def test_answers_can_be_slow(folder):
    with serving(folder, latency_s=0.2) as running:
        began = time.monotonic()
        find(running, "tt0000001")

    assert time.monotonic() - began > 0.2


def test_a_stop_does_not_wait_for_hanging_answers(folder):
    config = FaultsConfig(rate=1, kinds=("timeout",), hang_s=60)
    with serving(folder, faults=config) as running:
        with pytest.raises(TimeoutError):
            find(running, "tt0000001", timeout=0.1)
        began = time.monotonic()

    assert time.monotonic() - began < 1


def test_the_server_counts_what_it_is_asked(folder, movies):
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


# Mistakes


def test_a_folder_that_cannot_be_served_is_a_mistake_explained_in_one_line(tmp_path, folder):
    with pytest.raises(InputError, match=r"absent/movies.parquet: no such file"):
        Sandbox(ServerConfig(data=str(tmp_path / "absent")))

    pq.write_table(pq.read_table(folder / "movies.parquet").drop_columns(["plot", "year"]), tmp_path / "movies.parquet")
    with pytest.raises(InputError, match=r"without the columns year, plot"):
        Sandbox(ServerConfig(data=str(tmp_path)))

    (tmp_path / "movies.parquet").write_text("tconst,plot\n")
    with pytest.raises(InputError, match="expected Parquet"):
        Sandbox(ServerConfig(data=str(tmp_path)))


def test_a_taken_port_is_a_mistake(sandbox, folder):
    port = int(sandbox.base_url.rpartition(":")[2])

    with pytest.raises(InputError, match=f"port {port}.*port=0"), Sandbox(ServerConfig(data=str(folder), port=port)):
        pass


# The job


def test_the_job_makes_a_catalogue_and_serves_it_until_told_to_stop(tmp_path):
    def start(name):
        arguments = [f"output={tmp_path / name}", "port=0", "catalogue.movies=20", "catalogue.other_titles=5"]
        environment = os.environ | {"TMDB_TOKEN": TOKEN}
        return subprocess.Popen([*JOB, *arguments], stdout=PIPE, stderr=PIPE, text=True, env=environment)

    with start("first") as first, start("second") as second:
        for name, job, told, code in (("first", first, signal.SIGINT, 130), ("second", second, signal.SIGTERM, 0)):
            line = job.stdout.readline()
            base_url = line.partition("TMDB at ")[2].partition("/3,")[0]
            imdb_id = pq.read_table(tmp_path / name / "movies.parquet")["tconst"][0].as_py()
            found = json.loads(get(f"{base_url}/3/find/{imdb_id}?external_source=imdb_id")[2])
            job.send_signal(told)
            _, errors = job.communicate(timeout=10)

            assert found["movie_results"]
            assert job.returncode == code
            assert "Traceback" not in errors
            assert TOKEN not in line


def test_the_job_refuses_a_missing_folder_and_gives_sigterm_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    with pytest.raises(InputError, match=r"absent/movies.parquet: no such file; expected"):
        serve(ServeConfig(output=str(tmp_path), data=str(tmp_path / "absent")))

    assert signal.getsignal(signal.SIGTERM) == before
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_no_folder_is_a_mistake(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(InputError, match="file: is a file; expected a folder"):
        serve(ServeConfig(output=str(tmp_path / "file")))


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
