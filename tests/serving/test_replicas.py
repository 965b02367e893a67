"""The service with real replicas, on the tests' Ray session: its predictions match those of jobs/tag.py."""

import base64
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from services import PLOTS, Client, in_base64, picture, save_fusion, service_in_process

from mmgenre.errors import InputError
from mmgenre.labels import GENRES
from mmgenre.posters.images import shrink
from mmgenre.serving.deployment import deployed
from mmgenre.serving.job import ServingConfig, serve
from mmgenre.tables.schema import MOVIES, PREDICTIONS
from mmgenre.tables.table import Table
from mmgenre.tagging.job import TagConfig, tag


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_fusion(tmp_path_factory.mktemp("served") / "fusion")


@pytest.fixture(scope="module")
def client(local_ray, directory):
    config = ServingConfig(checkpoint=directory, explain=False, max_batch=16)
    with (
        deployed(config) as replicas,
        service_in_process(directory, replicas.tag, max_batch=16, max_waiting=64) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def movies():
    """Fifty movies as clients send them: with a plot, a poster, or both."""
    kinds = ["JPEG", "PNG", "WEBP"]
    movies = []
    for number in range(50):
        movie = {"id": f"m{number}", "title": f"Movie {number}"}
        if number % 3 != 1:
            movie["plot"] = PLOTS[number % len(PLOTS)] * (1 + number % 4)
        if number % 3 != 0:
            movie["poster"] = in_base64(picture(number, (30 + number * 12, 45 + number * 12), kinds[number % 3]))
        movies.append(movie)
    return movies


@pytest.fixture(scope="module")
def predictions(local_ray, write_table, directory, movies, tmp_path_factory):
    """PREDICTIONS rows of jobs/tag.py for these movies, whose posters went through the posters stage."""
    folder = tmp_path_factory.mktemp("tagged")
    posters = [base64.b64decode(movie["poster"]) if "poster" in movie else None for movie in movies]
    columns = {
        "imdb_id": [movie["id"] for movie in movies],
        "split": ["test"] * len(movies),
        "title": [movie["title"] for movie in movies],
        "plot": [movie.get("plot") for movie in movies],
        "image": [None if poster is None else shrink(poster, 384, 25_000_000).jpeg for poster in posters],
        "labels": [[0.0] * len(GENRES)] * len(movies),
    }
    table = write_table(folder / "movies", MOVIES, columns)
    tag(TagConfig(checkpoint=directory, movies=table, output=str(folder / "tags"), precision="fp32"))
    rows = {row["imdb_id"]: row for row in Table(str(folder / "tags"), PREDICTIONS).read().to_pylist()}
    return [rows[movie["id"]] for movie in movies]


def test_single_concurrent_and_batch_requests_all_match_the_batch_job(predictions, client, movies):
    port = client.connection.port
    one_by_one = [client.post("/predict", movie)[1] for movie in movies]
    with ThreadPoolExecutor(16) as threads:
        concurrent = list(threads.map(lambda movie: Client(port).post("/predict", movie)[1], movies))
    _, batch = client.post("/predict", {"movies": movies})

    for answers in (one_by_one, concurrent, batch["movies"]):
        assert [answer["id"] for answer in answers] == [movie["id"] for movie in movies]
        for answer, row in zip(answers, predictions, strict=True):
            assert (answer["status"], sorted(answer["genres"])) == (row["status"], sorted(row["genres"]))
            assert [genre["genre"] for genre in answer["probabilities"]] == list(GENRES)
            probabilities = [genre["probability"] for genre in answer["probabilities"]]
            assert probabilities == pytest.approx(row["probabilities"], abs=1e-5)
    assert {answer["status"] for answer in one_by_one} == {"text_only", "poster_only", "text_and_poster"}


def test_truncated_weights_are_an_error(local_ray, directory, tmp_path):
    broken = shutil.copytree(directory, tmp_path / "broken")
    os.truncate(broken / "weights.safetensors", 5000)

    with pytest.raises(InputError, match=r"broken/weights\.safetensors: missing, or not the file that the card"):
        serve(ServingConfig(checkpoint=str(broken), port=0, explain=False))
