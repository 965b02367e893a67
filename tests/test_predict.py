"""Tagging: every row once, with a status, whatever the file and whatever dies."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmgenre import checkpoint
from mmgenre.errors import InputError
from mmgenre.genres import GENRES, decode
from mmgenre.inference import predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.predict import TagConfig, tag
from mmgenre.schema import CATALOG, ENRICHED, PREDICTIONS, from_per_genre
from mmgenre.tables import Table
from mmgenre.thresholds import decide, fit_thresholds, probabilities

ROOT = Path(__file__).parent.parent
WORDS = ["chase", "kiss", "ghost", "robot", "heist", "joke", "tears", "island", "stalker"]
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, (300, len(GENRES))).astype(np.float32)


def plot_of(labels):
    words = [word for word, label in zip(WORDS, labels, strict=True) if label]
    return " ".join(["somebody", *words, "somewhere"])


PLOTS = [plot_of(labels) for labels in LABELS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("checkpoint") / "tfidf")
    model = TfidfConfig(c=100).fit(Movies.of_plots(PLOTS), LABELS).eval()
    logits = predict_logits(model, model.encoder.encode(Movies.of_plots(PLOTS)), torch.device("cpu"))
    thresholds = fit_thresholds(probabilities(logits, 1.0), LABELS)
    card = checkpoint.Card(model=TfidfConfig(c=100), thresholds=thresholds, temperature=1.3)
    checkpoint.save(model, card, directory)
    return directory


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def tagged(trained, movies, output, **settings):
    manifest = tag(TagConfig(checkpoint=trained, movies=movies, output=str(output), **settings))
    return manifest, Table(str(output), PREDICTIONS).read().sort_by("imdb_id")


def test_every_row_of_a_file_gets_one_row_with_a_status(local_ray, trained, tmp_path):
    rows = [["id", "plot"], ["tt3", PLOTS[0]], ["tt1", ""], ["tt2", "   "], ["tt4", 'A "quoted",\nbroken line']]

    manifest, found = tagged(trained, write_csv(tmp_path / "mine.csv", rows), tmp_path / "tags")

    assert dict(zip(found["imdb_id"].to_pylist(), found["status"].to_pylist(), strict=True)) == {
        "tt1": "no_input",
        "tt2": "no_input",
        "tt3": "text_only",
        "tt4": "text_only",
    }
    assert manifest.rows == manifest.rows_in == 4
    assert found["genres"].to_pylist()[0] is None
    assert found["genres"].to_pylist()[2] == decode(LABELS[0])


@pytest.fixture(scope="module")
def reads_titles(tmp_path_factory):
    """A model that was taught to read the genres off the titles."""
    directory = str(tmp_path_factory.mktemp("checkpoint") / "titles")
    config = TfidfConfig(c=100, title=True)
    movies = Movies(titles=PLOTS, plots=["A plot like any other."] * len(PLOTS), images=[None] * len(PLOTS))
    model = config.fit(movies, LABELS).eval()
    logits = predict_logits(model, model.encoder.encode(movies), torch.device("cpu"))
    thresholds = fit_thresholds(probabilities(logits, 1.0), LABELS)
    checkpoint.save(model, checkpoint.Card(model=config, thresholds=thresholds, temperature=1.0), directory)
    return directory


def test_a_model_that_reads_titles_finds_them_in_a_file_or_in_the_catalogue(
    local_ray, reads_titles, tmp_path, write_table
):
    titles, plots = [*PLOTS[:20], None], ["A plot like any other."] * 19 + [None, "Untitled."]
    ids = [f"tt{row:07}" for row in range(21)]
    file = write_csv(tmp_path / "mine.csv", [["id", "title", "plot"], *zip(ids, titles, plots, strict=True)])
    columns = {"imdb_id": ids, "title": [title or "" for title in titles], "year": [None] * 21, "runtime": [None] * 21}
    catalog = write_table(tmp_path / "catalog", CATALOG, columns | {"genres": [[]] * 21})
    enriched = write_csv(tmp_path / "plots.csv", [["id", "plot"], *zip(ids, plots, strict=True)])

    _, from_file = tagged(reads_titles, file, tmp_path / "one")
    _, from_catalog = tagged(reads_titles, enriched, tmp_path / "two", catalog=catalog)

    assert from_file["genres"].to_pylist()[:19] == [decode(labels) for labels in LABELS[:19]]
    assert from_file["status"].to_pylist() == ["text_only"] * 19 + ["no_input", "text_only"]
    assert from_catalog == from_file


def test_a_model_that_reads_titles_is_given_some(reads_titles, tmp_path, write_table):
    file = write_csv(tmp_path / "plots.csv", [["id", "plot"], ["tt1", PLOTS[0]]])
    known = {"imdb_id": ["tt1"], "provider": ["a"], "status": ["ok"], "fetched_at": [0], "plot": ["A plot."]}
    enriched = write_table(tmp_path / "enriched", ENRICHED, {name: known.get(name, [None]) for name in ENRICHED.names})

    with pytest.raises(InputError, match="no column title or primaryTitle; found id, plot"):
        tagged(reads_titles, file, tmp_path / "tags")
    with pytest.raises(InputError, match="no titles, which this model reads; give catalog=DIR"):
        tagged(reads_titles, enriched, tmp_path / "other")


def test_predictions_are_the_models_whatever_stands_beside_a_row(local_ray, trained, tmp_path):
    order = RANDOM.permutation(300)
    table = pa.table({"imdb_id": [f"tt{row:07}" for row in order], "plot": [PLOTS[row] for row in order]})
    pq.write_table(table, tmp_path / "movies.parquet")

    _, found = tagged(trained, str(tmp_path / "movies.parquet"), tmp_path / "tags", actors=2)

    card, model = checkpoint.load(trained)
    logits = predict_logits(model, model.encoder.encode(Movies.of_plots(PLOTS)), torch.device("cpu"))
    chances = probabilities(logits, card.temperature)
    assert from_per_genre(found["probabilities"]) == pytest.approx(chances, abs=1e-6)
    decided = decide(chances, card.thresholds.cutoffs())
    assert found["genres"].to_pylist() == [decode(row) for row in decided]


def test_a_killed_job_is_gone_on_with_and_misses_no_row(local_ray, trained, tmp_path):
    ids = [f"tt{row:07}" for row in range(120_000)]
    movies = write_csv(
        tmp_path / "many.csv",
        [["tconst", "overview"], *([imdb_id, PLOTS[row % 300]] for row, imdb_id in enumerate(ids))],
    )
    output = tmp_path / "tags"
    command = [sys.executable, ROOT / "jobs/tag.py", ROOT / "configs/tag/default.yaml"]
    command += [f"checkpoint={trained}", f"movies={movies}", f"output={output}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while not list(output.glob("part-*.parquet")):
            assert first.poll() is None
            time.sleep(0.02)
        first.kill()
    kept = {path.name for path in output.glob("part-*.parquet")}
    assert kept
    assert not (output / "_run.json").exists()

    manifest, found = tagged(trained, movies, output)

    assert found["imdb_id"].to_pylist() == ids
    assert kept < set(manifest.files)
    assert not list(output.glob("_staged*"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["id", "plot"], ["tt1", "a"], ["tt1", "b"]], "1 ids stand in more than one row .tt1."),
        ([["id", "plot"], ["", "a"]], "1 rows without an id"),
        ([["id", "title"], ["tt1", "a"]], "no column plot"),
        ([["id", "plot"]], "no rows"),
    ],
)
def test_a_file_that_cannot_be_tagged_is_one_clear_error(trained, tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        tagged(trained, write_csv(tmp_path / "mine.csv", rows), tmp_path / "tags")


def test_a_plot_that_is_not_text_is_refused(trained, tmp_path):
    pq.write_table(pa.table({"imdb_id": ["tt1"], "plot": [7]}), tmp_path / "movies.parquet")

    with pytest.raises(InputError, match="column plot is int64; expected text"):
        tagged(trained, str(tmp_path / "movies.parquet"), tmp_path / "tags")


def test_an_untrained_checkpoint_is_refused(tmp_path):
    model = TfidfConfig().fit(Movies.of_plots(PLOTS), LABELS)
    checkpoint.save(model, checkpoint.Card(model=TfidfConfig()), str(tmp_path / "model"))

    with pytest.raises(InputError, match="untrained"):
        tagged(str(tmp_path / "model"), str(tmp_path / "movies.csv"), tmp_path / "tags")


def test_tags_of_one_model_are_not_mixed_with_those_of_another(local_ray, trained, tmp_path):
    movies = write_csv(tmp_path / "mine.csv", [["id", "plot"], ["tt1", PLOTS[0]]])
    tagged(trained, movies, tmp_path / "tags")
    other = TfidfConfig(c=0.1).fit(Movies.of_plots(PLOTS), LABELS)
    card, model = checkpoint.load(trained)
    checkpoint.save(other, card, str(tmp_path / "other"))
    checkpoint.save(model, card.model_copy(update={"temperature": 2.0}), str(tmp_path / "calibrated"))

    for changed in ("other", "calibrated"):
        with pytest.raises(InputError, match="input checkpoint"):
            tagged(str(tmp_path / changed), movies, tmp_path / "tags")
