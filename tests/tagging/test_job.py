"""Tagging: every row once, with a status, whatever the input holds and whichever process dies."""

import csv
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmgenre.errors import InputError
from mmgenre.labels import GENRES, decode
from mmgenre.models import checkpoint
from mmgenre.models.inference import Predictor, predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.scoring.thresholds import decide, fit_thresholds, probabilities
from mmgenre.tables.lease import OutputInUseError
from mmgenre.tables.schema import CATALOG, ENRICHED, MOVIES, PREDICTIONS, from_per_genre
from mmgenre.tables.table import Table
from mmgenre.tagging import division
from mmgenre.tagging.actors import Tagger
from mmgenre.tagging.job import TagConfig, tag
from mmgenre.tagging.output import TagWriter

ROOT = Path(__file__).parents[2]
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
    """A model trained on titles that name the genres."""
    directory = str(tmp_path_factory.mktemp("checkpoint") / "titles")
    config = TfidfConfig(c=100, title=True)
    movies = Movies(titles=PLOTS, plots=["A plot like any other."] * len(PLOTS), images=[None] * len(PLOTS))
    model = config.fit(movies, LABELS).eval()
    logits = predict_logits(model, model.encoder.encode(movies), torch.device("cpu"))
    thresholds = fit_thresholds(probabilities(logits, 1.0), LABELS)
    checkpoint.save(model, checkpoint.Card(model=config, thresholds=thresholds, temperature=1.0), directory)
    return directory


def test_titles_come_from_the_users_file_or_from_the_catalogue(in_process, reads_titles, tmp_path, write_table):
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


def test_missing_titles_are_refused_if_the_model_reads_them(reads_titles, tmp_path, write_table):
    file = write_csv(tmp_path / "plots.csv", [["id", "plot"], ["tt1", PLOTS[0]]])
    known = {"imdb_id": ["tt1"], "provider": ["a"], "status": ["ok"], "fetched_at": [0], "plot": ["A plot."]}
    enriched = write_table(tmp_path / "enriched", ENRICHED, {name: known.get(name, [None]) for name in ENRICHED.names})

    with pytest.raises(InputError, match="no column title or primaryTitle; found id, plot"):
        tagged(reads_titles, file, tmp_path / "tags")
    with pytest.raises(InputError, match="no titles, which this model reads; give catalog=DIR"):
        tagged(reads_titles, enriched, tmp_path / "other")


def test_predictions_do_not_depend_on_the_order_of_the_rows(local_ray, trained, tmp_path):
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


NUM_MANY = 60_000


@pytest.mark.process
def test_a_killed_job_is_resumed_and_loses_no_row(local_ray, trained, tmp_path, request):
    ids = [f"tt{row:07}" for row in range(NUM_MANY)]
    movies = write_csv(
        tmp_path / "many.csv",
        [["tconst", "overview"], *([imdb_id, PLOTS[row % 300]] for row, imdb_id in enumerate(ids))],
    )
    output = tmp_path / "tags"
    command = [sys.executable, ROOT / "jobs/tag.py", ROOT / "configs/tag/default.yaml"]
    command += [f"checkpoint={trained}", f"movies={movies}", f"output={output}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while len(results(output)) < 3:
            assert first.poll() is None
            time.sleep(0.02)
        # The same command once more changes nothing of the running job.
        with pytest.raises(OutputInUseError, match=rf"another run writes this output \(.* process {first.pid} "):
            tagged(trained, movies, output)
        assert first.poll() is None
        first.kill()
    kept = results(output)
    assert not (output / "_run.json").exists()

    manifest, predictions = tagged(trained, movies, output)

    assert predictions["imdb_id"].to_pylist() == ids
    assert manifest.rows == NUM_MANY
    # The results of the killed run are not computed again.
    assert sum(manifest.notes["computed_in"].values()) <= NUM_MANY - sum(kept)
    request.getfixturevalue("in_process")
    _, undisturbed = tagged(trained, movies, tmp_path / "undisturbed")
    assert predictions.equals(undisturbed)
    assert sorted(path.name for path in output.iterdir() if not path.name.startswith("part-")) == ["_run.json"]


def results(output):
    """Number of rows of each finished unit."""
    return [pq.read_metadata(path).num_rows for path in output.glob("_work/*/units/unit-*.parquet")]


def test_a_killed_actor_is_replaced_and_no_row_lost(local_ray, trained, tmp_path):
    ids = [f"tt{row:07}" for row in range(NUM_MANY)]
    table = pa.table({"imdb_id": ids, "plot": [PLOTS[row % 300] for row in range(len(ids))]})
    pq.write_table(table, tmp_path / "movies.parquet")
    killed = []
    killer = threading.Thread(target=lambda: killed.append(kill_an_actor(tmp_path / "tags")))
    killer.start()

    _, found = tagged(trained, str(tmp_path / "movies.parquet"), tmp_path / "tags")

    killer.join()
    assert killed == [True]
    assert found["imdb_id"].to_pylist() == ids


def kill_an_actor(output, timeout_s=300):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if results(output):
            for process in psutil.process_iter(["cmdline"]):
                # A busy actor's process has the name of the class that Ray Data wraps the stage in.
                if (process.info["cmdline"] or [""])[0].startswith("ray::MapWorker"):
                    process.send_signal(signal.SIGKILL)
                    return True
        time.sleep(0.005)
    return False


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("damaged", ["units/unit-0000001.parquet", "units/carried-*.parquet", "staged/part-*.parquet"])
def test_a_file_of_a_killed_job_that_a_power_failure_damaged_is_made_again(
    trained, tmp_path, movies_file, monkeypatch, damaged
):
    plots = {f"tt{row:07}": PLOTS[row % 300] for row in range(300)}
    tagged(trained, movies_file(dict(list(plots.items())[:100])), tmp_path / "tags")
    movies = movies_file({name: f"{plot} again" if name > "tt0000050" else plot for name, plot in plots.items()})
    monkeypatch.setattr(division, "_COST_PER_UNIT", (1000, 1000))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TagWriter, "write", interrupt)
        tagged(trained, movies, tmp_path / "tags")
    for file in list((tmp_path / "tags").glob(f"_work/*/{damaged}")):
        file.write_bytes(file.read_bytes()[:-30])
        damaged = None
    assert damaged is None

    manifest, resumed = tagged(trained, movies, tmp_path / "tags")

    _, undisturbed = tagged(trained, movies, tmp_path / "undisturbed")
    assert resumed.equals(undisturbed)
    assert manifest.rows == 300


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.fixture
def movies_file(tmp_path):
    """Writes a CSV file of movies with the given plots."""

    def write(plots, name="movies.csv", **more):
        columns = {"imdb_id": list(plots), "plot": list(plots.values())} | more
        return write_csv(tmp_path / name, [list(columns), *zip(*columns.values(), strict=True)])

    return write


def test_only_new_and_changed_movies_are_computed_again(in_process, trained, movies_file, tmp_path):
    plots = {f"tt{row:07}": PLOTS[row] for row in range(200)}
    tagged(trained, movies_file(plots), tmp_path / "tags")
    changed = {"tt0000003": PLOTS[250], "tt0000300": PLOTS[251]}
    newer = {name: plot for name, plot in plots.items() if name != "tt0000007"} | changed

    manifest, found = tagged(trained, movies_file(newer), tmp_path / "tags")

    assert manifest.notes["carried_over"] == 198
    assert sum(manifest.notes["computed_in"].values()) == 2
    _, anew = tagged(trained, movies_file(newer), tmp_path / "anew")
    assert found.equals(anew)


def test_a_mistake_in_a_newer_file_leaves_the_table_unchanged(in_process, trained, movies_file, tmp_path):
    plots = {f"tt{row:07}": PLOTS[row] for row in range(20)}
    movies = movies_file(plots)
    manifest, first = tagged(trained, movies, tmp_path / "tags")
    with open(movies, "a") as file:  # noqa: PTH123
        file.write("tt0000003,a second time\n")

    with pytest.raises(InputError, match="1 rows with the id of another row"):
        tagged(trained, movies, tmp_path / "tags")

    assert Table(str(tmp_path / "tags"), PREDICTIONS).manifest.fingerprint == manifest.fingerprint
    _, again = tagged(trained, movies_file(plots | {"tt1000000": PLOTS[30]}), tmp_path / "tags")
    assert again.slice(0, 20).equals(first)


def test_other_thresholds_need_no_inference(in_process, trained, movies_file, tmp_path):
    movies = movies_file({f"tt{row:07}": PLOTS[row] for row in range(100)} | {"tt9999999": ""})
    _, first = tagged(trained, movies, tmp_path / "tags")

    manifest, few = tagged(trained, movies, tmp_path / "tags", top_k=1, thresholds=0.0)
    strict, sure = tagged(trained, movies, tmp_path / "tags", thresholds={"Drama": 1.0}, min_probability=0.4)
    _, again = tagged(trained, movies, tmp_path / "tags")

    assert (manifest.notes["carried_over"], manifest.notes["computed_in"]) == (101, {})
    assert {len(genres) for genres in few["genres"].to_pylist()[:100]} == {1}
    chances = from_per_genre(few["probabilities"])[:100]
    assert few["genres"].to_pylist()[:100] == [[GENRES[row.argmax()]] for row in chances]
    cutoffs = np.maximum(checkpoint.read_card(trained).thresholds.cutoffs(), 0.4)
    cutoffs[GENRES.index("Drama")] = 1.0
    assert sure["genres"].to_pylist()[:100] == [decode(row) for row in chances >= cutoffs]
    assert strict.notes["cutoffs"]["text_only"] == cutoffs.tolist()
    assert again.equals(first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"thresholds": {"Western": 0.5}}, "Western: unknown genre"),
        ({"thresholds": 1.5}, "thresholds"),
        ({"top_k": 0}, "top_k"),
        ({"export": ["xml"]}, "export"),
    ],
)
def test_wrong_decision_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        TagConfig.parse({"checkpoint": "a", "movies": "b", "output": "c"} | settings, "test")


def test_an_unknown_column_is_refused(trained, movies_file, tmp_path):
    with pytest.raises(InputError, match="no column premiere"):
        tagged(trained, movies_file({"tt1": "a"}), tmp_path / "tags", columns=["premiere"])
    with pytest.raises(InputError, match="columns: genres: a column of the predictions themselves"):
        tagged(trained, movies_file({"tt1": "a"}), tmp_path / "tags", columns=["genres"])


def test_other_programs_can_read_the_table_and_its_exports(in_process, trained, movies_file, tmp_path):
    plots = {"tt0000001": PLOTS[0], "tt0000002": "", "tt0000003": "somebody somewhere"}
    movies = movies_file(plots, country=['a "b", c', "tab\there", ""])

    _, tags = tagged(trained, movies, tmp_path / "tags", columns=["country"], export=["csv", "tsv"])

    files = str(tmp_path / "tags" / "part-*.parquet")
    found = duckdb.sql(f"SELECT imdb_id, status, country, len(probabilities) FROM '{files}' ORDER BY imdb_id")  # noqa: S608
    assert found.fetchall() == [
        ("tt0000001", "text_only", 'a "b", c', 9),
        ("tt0000002", "no_input", "tab\there", 9),
        ("tt0000003", "text_only", None, 9),
    ]
    # The exports do not stand in the way of readers of whole folders.
    assert set(pq.read_table(tmp_path / "tags", columns=["status"])["status"].to_pylist()) == {"text_only", "no_input"}
    genres = [",".join(row or []) for row in tags["genres"].to_pylist()]
    lines = (tmp_path / "tags/_tags.tsv").read_text().splitlines()
    countries = ['a "b", c', "tab here", r"\N"]
    assert lines[0] == "tconst\tgenres\tcountry"
    assert sorted(lines[1:]) == [
        f"tt000000{row}\t{genre or chr(92) + 'N'}\t{country}"
        for row, (genre, country) in enumerate(zip(genres, countries, strict=True), start=1)
    ]
    with (tmp_path / "tags/_tags.csv").open(newline="") as file:
        rows = sorted(csv.reader(file))
    assert rows[:2] == [["tconst", "genres", "country"], ["tt0000001", genres[0], 'a "b", c']]


def test_an_export_quotes_its_header_and_writes_lists(in_process, trained, movies_file, tmp_path, generated_movies):
    movies = movies_file({"tt0000001": PLOTS[0]}, **{"Title, original": ["A, b"], 'a "b"': ["c"]})
    tagged(trained, movies, tmp_path / "tags", columns=["Title, original", 'a "b"'], export=["csv"])
    tagged(trained, generated_movies, tmp_path / "more", columns=["labels"], export=["csv"])

    with (tmp_path / "tags/_tags.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header == ["tconst", "genres", "Title, original", 'a "b"']
    assert row[2:] == ["A, b", "c"]
    with (tmp_path / "more/_tags.csv").open(newline="") as file:
        assert {len(row["labels"].split(",")) for row in csv.DictReader(file)} == {9}


def test_a_column_that_is_no_text_is_refused_before_anything_is_computed(trained, tmp_path, write_table):
    nested = pa.array([{"a": 1}], pa.struct([("a", pa.int8())]))
    schema = pa.schema([*MOVIES, ("facts", nested.type)])
    columns = {name: [None] for name in schema.names} | {"imdb_id": ["tt0000001"], "split": ["test"], "title": ["A"]}
    columns |= {"plot": ["A plot."], "labels": [[0.0] * 9], "facts": nested}
    movies = write_table(tmp_path / "movies", schema, columns)

    with pytest.raises(InputError, match="export: column facts is struct"):
        tagged(trained, movies, tmp_path / "tags", columns=["facts"], export=["csv"])
    assert not (tmp_path / "tags").exists()


@pytest.mark.parametrize("safe", [False, True])
def test_cells_that_spreadsheets_take_for_formulas_are_guarded_on_demand(
    in_process, trained, movies_file, tmp_path, safe
):
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "a=1", "\uff1d1"]
    plots = {f"tt000000{number}": PLOTS[number] for number in range(len(cells))}

    movies = movies_file(plots, **{"=note": cells})
    tagged(trained, movies, tmp_path / "tags", columns=["=note"], export=["csv", "tsv"], safe_cells=safe)

    with (tmp_path / "tags/_tags.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    guarded = [f"'{cell}" if cell[0] in "=+-@\t\uff1d" else cell for cell in cells]
    assert [row[2] for row in sorted(rows)] == (guarded if safe else cells)
    assert header[2] == ("'=note" if safe else "=note")
    lines = (tmp_path / "tags/_tags.tsv").read_text().splitlines()
    assert sum(line.split("\t")[2].startswith("'") for line in lines) == (1 + 7 if safe else 1)


def test_the_tsv_lists_genres_as_imdb_does(in_process, trained, movies_file, tmp_path):
    _, found = tagged(trained, movies_file({"tt0000001": PLOTS[1]}), tmp_path / "tags", export=["tsv"])

    genres = ",".join(found["genres"].to_pylist()[0])
    assert genres.count(",") >= 1
    assert (tmp_path / "tags/_tags.tsv").read_text() == f"tconst\tgenres\ntt0000001\t{genres}\n"


POISON = {
    "long": "heist " * 350_000,
    "emoji": "👩‍🚀🚀 robot \U0001f9df",
    "right to left": "סיפור על robot وقصة",
    "nul": "ghost\x00 robot\x00",
    "empty": "",
    "spaces": " \t\n ",
    "null": None,
    "combining": "e" + "\u0301" * 5000,
}
NO_INPUT = {"empty", "spaces", "null"}


def test_odd_text_never_costs_a_row(in_process, trained, tmp_path):
    broken = [b"\xed\xa0\x80 robot", b"\xff\xfe heist", b"cut off \xe2\x82"]
    names = [*POISON, *(f"broken {row}" for row in range(3)), *(f"fine {row}" for row in range(50))]
    plots = [*(plot and plot.encode() for plot in POISON.values()), *broken, *(plot.encode() for plot in PLOTS[:50])]
    # A Parquet file may say that it holds text, and not hold it.
    column = pa.array(plots, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"imdb_id": names, "plot": column}), tmp_path / "movies.parquet")

    _, found = tagged(trained, str(tmp_path / "movies.parquet"), tmp_path / "tags")

    statuses = dict(zip(found["imdb_id"].to_pylist(), found["status"].to_pylist(), strict=True))
    assert len(statuses) == len(names)
    assert {name for name, status in statuses.items() if status == "no_input"} == NO_INPUT
    assert set(statuses.values()) == {"text_only", "no_input"}


def test_a_file_that_is_not_utf8_loses_no_row(in_process, trained, tmp_path):
    lines = [
        b"id,plot",
        *(f"tt{row:03},{PLOTS[row]}".encode() for row in range(200)),
        b"tt200,caf\xe9 \xed\xa0\x80 robot",
    ]
    (tmp_path / "broken.csv").write_bytes(b"\n".join(lines))

    _, found = tagged(trained, str(tmp_path / "broken.csv"), tmp_path / "tags")

    assert found["status"].to_pylist() == ["text_only"] * 201


class FailsOn:
    """An encoder that raises an error for plots with a certain word."""

    def __init__(self, encoder, word):
        self._encoder, self._word = encoder, word

    def encode(self, movies):
        if any(self._word in (plot or "") for plot in movies.plots):
            raise RuntimeError("cannot read this")
        return self._encoder.encode(movies)


def tagger_that_fails_on(trained, word):
    card, model = checkpoint.load(trained)
    model.encoder = FailsOn(model.encoder, word)
    return Tagger(trained, card, Predictor(model, torch.device("cpu"), "fp32"))


def rows_of(plots):
    ids = [f"tt{row}" for row in range(len(plots))]
    return pa.table({"imdb_id": ids, "plot": plots, "input_digest": [0] * len(plots)})


def test_a_row_that_the_model_fails_on_does_not_affect_the_others(trained):
    plots = [*PLOTS[:30], "poison", *PLOTS[30:60]]

    found = tagger_that_fails_on(trained, "poison").tag(rows_of(plots))

    assert found["status"].to_pylist() == ["text_only"] * 30 + ["error"] + ["text_only"] * 30
    assert found["detail"].to_pylist()[30] == "RuntimeError: cannot read this"
    whole = tagger_that_fails_on(trained, "nothing").tag(rows_of(plots))
    np.testing.assert_allclose(
        from_per_genre(found["probabilities"])[:30], from_per_genre(whole["probabilities"])[:30], atol=1e-6
    )


def test_a_model_that_fails_on_every_row_stops_the_job(trained):
    with pytest.raises(RuntimeError, match="cannot read this"):
        tagger_that_fails_on(trained, "somebody").tag(rows_of(PLOTS[:8]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["id", "plot"], ["tt1", "a"], ["tt1", "b"]], "1 rows with the id of another row: line 3 .tt1."),
        ([["id", "plot"], ["", "a"]], "1 rows without an id"),
        ([["id", "title"], ["tt1", "a"]], "no column plot"),
        ([["id", "plot"]], "no rows"),
    ],
)
def test_a_bad_file_is_refused_with_one_clear_error(trained, tmp_path, rows, message):
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


def test_predictions_of_two_models_are_never_mixed(in_process, trained, tmp_path):
    movies = write_csv(tmp_path / "mine.csv", [["id", "plot"], ["tt1", PLOTS[0]]])
    tagged(trained, movies, tmp_path / "tags")
    other = TfidfConfig(c=0.1).fit(Movies.of_plots(PLOTS), LABELS)
    card, model = checkpoint.load(trained)
    checkpoint.save(other, card, str(tmp_path / "other"))
    checkpoint.save(model, card.model_copy(update={"temperature": 2.0}), str(tmp_path / "calibrated"))

    for changed, differs in (("other", "weights"), ("calibrated", "temperature")):
        with pytest.raises(InputError, match=rf"other settings or inputs \(model.{differs}.*choose another output"):
            tagged(str(tmp_path / changed), movies, tmp_path / "tags")
