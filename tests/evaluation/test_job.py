"""Scoring predictions against labels, and comparing models."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmgenre.errors import InputError
from mmgenre.evaluation.compare import CompareConfig, compare
from mmgenre.evaluation.job import EvaluateConfig, Report, evaluate
from mmgenre.labels import GENRES, decode
from mmgenre.scoring.thresholds import fit_thresholds
from mmgenre.tables.manifest import Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.schema import MOVIES, PREDICTIONS, from_per_genre, per_genre
from mmgenre.tables.table import TableWriter

RNG = np.random.default_rng(0)
IDS = [f"tt{number:07}" for number in range(60)]
SPLITS = ["train"] * 20 + ["test"] * 40
LABELS = (RNG.random((60, 9)) < 0.3).astype(np.float32)
CHANCES = np.clip(LABELS * 0.4 + RNG.random((60, 9)) * 0.6, 0, 1).astype(np.float32)
THRESHOLDS = fit_thresholds(CHANCES[:20], LABELS[:20])


def write(directory, schema, columns, notes=None):
    with Output(str(directory), Recipe(job="test", settings={}, inputs={})) as output:
        writer = TableWriter(output, schema)
        writer.write(pa.table(columns, schema=schema))
        writer.finish(rows_in=len(columns["imdb_id"]), notes=notes)
    return str(directory)


@pytest.fixture
def movies(tmp_path):
    nothing = [None] * len(IDS)
    columns = [IDS, SPLITS, ["A title"] * len(IDS), nothing, nothing, per_genre(LABELS)]
    return write(tmp_path / "movies", MOVIES, dict(zip(MOVIES.names, columns, strict=True)))


@pytest.fixture
def tagged(tmp_path):
    """Writes predictions for the movies in some rows; those in `lost` have only a status."""

    def write_predictions(rows=range(60), lost=(), name="predictions", **changes):
        rows = np.array(rows, int)
        known = ~np.isin(rows, lost)
        columns = {
            "imdb_id": [IDS[row] for row in rows],
            "status": ["text_only" if seen else "no_input" for seen in known],
            "probabilities": per_genre(np.where(known[:, None], CHANCES[rows], np.nan)),
            "genres": [decode(CHANCES[row] >= 0.5) if seen else None for row, seen in zip(rows, known, strict=True)],
            "detail": [None] * len(rows),
            "input_digest": [None] * len(rows),
        }
        notes = changes.pop("notes", {"thresholds": THRESHOLDS.model_dump()})
        return write(tmp_path / name, PREDICTIONS, columns | changes, notes)

    return write_predictions


@pytest.fixture
def judge(tmp_path, movies):
    def evaluate_predictions(predictions, **settings):
        folders = {"predictions": predictions, "movies": movies, "output": str(tmp_path / "report")}
        return evaluate(EvaluateConfig(**({"resamples": 50} | folders | settings)))

    return evaluate_predictions


def same_scores(first, second):
    return first.model_copy(update={"predictions_fingerprint": second.predictions_fingerprint}) == second


def test_the_report_is_returned_and_written(judge, tagged, tmp_path):
    report = judge(tagged())

    assert (report.movies, report.unpredicted, report.statuses) == (40, 0, {"text_only": 40})
    assert report.scores.genres[0].support == LABELS[20:, 0].sum()
    assert report.scores.genres[0].predicted == (CHANCES[20:, 0] >= 0.5).sum()
    low, high = report.intervals["macro_f1"]
    assert low < report.scores.macro.f1 < high
    assert Report.model_validate_json((tmp_path / "report/report.json").read_bytes()) == report


def test_evaluating_again_overwrites_the_report(judge, tagged, tmp_path):
    judge(tagged(), split="train")
    report = judge(tagged(name="others", lost=[30]))

    assert Report.model_validate_json((tmp_path / "report/report.json").read_bytes()) == report
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["report.json"]


def test_predictions_are_joined_by_id_in_any_order(judge, tagged):
    in_order = judge(tagged())
    shuffled = judge(tagged(np.random.default_rng(1).permutation(60), name="shuffled"))

    assert same_scores(in_order, shuffled)
    assert in_order.scores.macro.f1 > 0.6


def test_predictions_of_other_movies_are_ignored(judge, tagged):
    assert same_scores(judge(tagged()), judge(tagged(range(20, 60), name="test_only")))


def test_a_movie_without_a_prediction_counts_as_having_no_genre(judge, tagged):
    report = judge(tagged(range(50), lost=[20, 21]))

    assert (report.movies, report.unpredicted) == (40, 12)
    assert report.statuses == {"missing": 10, "no_input": 2, "text_only": 28}
    expected = CHANCES[22:50] >= 0.5
    assert [one.predicted for one in report.scores.genres] == expected.sum(axis=0).tolist()
    assert [one.support for one in report.scores.genres] == LABELS[20:].sum(axis=0).tolist()
    assert "12 of them (30.0%) have no prediction and count as having no genre" in str(report)


def test_genres_in_rows_without_probabilities_are_ignored(judge, tagged):
    report = judge(tagged(lost=range(20, 60), genres=[["Drama"]] * 60))

    assert (report.unpredicted, sum(one.predicted for one in report.scores.genres)) == (40, 0)


def test_null_probabilities_are_nan():
    column = pa.chunked_array([per_genre(CHANCES[:3], np.array([True, False, True]))])

    assert np.isnan(from_per_genre(column)).all(axis=1).tolist() == [False, True, False]
    assert from_per_genre(column)[2] == pytest.approx(CHANCES[2])
    assert np.isnan(from_per_genre(column[1:2])).all()


@pytest.mark.parametrize(("split", "count"), [("train", 20), ("test", 40), ("all", 60)])
def test_a_split_or_all_movies_can_be_scored(judge, tagged, split, count):
    assert judge(tagged(), split=split).movies == count


@pytest.mark.parametrize(
    ("having", "count"),
    [("any", 60), ("plot", 40), ("poster", 30), ("both", 10), ("plot only", 30), ("poster only", 20)],
)
def test_movies_can_be_selected_by_their_inputs(tagged, tmp_path, having, count):
    plots = ["A plot."] * 40 + [None] * 20
    images = [None] * 30 + [b"jpeg"] * 30
    columns = [IDS, SPLITS, ["A title"] * len(IDS), plots, images, per_genre(LABELS)]
    known = write(tmp_path / "known", MOVIES, dict(zip(MOVIES.names, columns, strict=True)))

    report = evaluate(
        EvaluateConfig(
            predictions=tagged(), movies=known, output=str(tmp_path), split="all", having=having, resamples=1
        )
    )

    assert report.movies == count
    assert (f"split all having {having}:" in str(report)) == (having != "any")


def test_selecting_no_movies_is_rejected(judge, tagged):
    with pytest.raises(InputError, match="no movies in split test with poster; the table has "):
        judge(tagged(), having="poster")


def test_decisions_are_the_predicted_genres_instead_of_a_cutoff(judge, tagged):
    report = judge(tagged(genres=[["Drama"]] * 60))

    assert [one.genre for one in report.scores.genres if one.predicted] == ["Drama"]


def test_the_global_threshold_defaults_to_the_recorded_one(judge, tagged):
    predictions = tagged()

    assert judge(predictions).scores.global_threshold == THRESHOLDS.global_threshold
    assert judge(predictions, global_threshold=0.25).scores.global_threshold == 0.25


def test_predictions_without_thresholds_require_one(judge, tagged):
    predictions = tagged(notes={})

    with pytest.raises(InputError, match=r"predictions: no thresholds are recorded.*global_threshold=0\.3"):
        judge(predictions)
    assert judge(predictions, global_threshold=0.3).movies == 40


def test_invalid_recorded_thresholds_are_reported(judge, tagged):
    with pytest.raises(InputError, match=r"(?s)predictions: recorded thresholds.*per_genre.*missing"):
        judge(tagged(notes={"thresholds": {"kind": "global", "global_threshold": 0.4}}))


def test_predictions_of_other_splits_are_rejected(judge, tagged):
    with pytest.raises(InputError) as error:
        judge(tagged(range(20)))

    found = re.search(
        r"predictions: none of its movies \((.*)\) is in split test of .*movies \((.*)\)", str(error.value)
    )
    assert found.groups() == ("tt0000000, tt0000001, tt0000002", "tt0000020, tt0000021, tt0000022")


def test_an_empty_split_is_rejected_with_the_splits_that_exist(judge, tagged):
    with pytest.raises(InputError, match="no movies in split val; the table has train 20, test 40"):
        judge(tagged(), split="val")


def test_an_unknown_genre_is_reported_with_the_known_ones(judge, tagged):
    with pytest.raises(InputError, match=r"unknown genres \['Western'\]; expected some of Action, .*Thriller"):
        judge(tagged(genres=[["Drama", "Western"]] * 60))


def test_a_table_of_another_kind_is_rejected(judge, movies):
    with pytest.raises(InputError, match="without the columns status, probabilities, genres"):
        judge(movies)


def test_the_printed_report_has_a_line_per_average_and_genre(judge, tagged):
    report = judge(tagged())
    lines = str(report).splitlines()

    assert lines[0] == "split test: 40 movies (text_only 40)"
    macro = next(line for line in lines if line.startswith("macro"))
    assert f"{report.scores.macro.f1:.3f}  [{report.intervals['macro_f1'][0]:.3f}, " in macro
    drama = next(line for line in lines if line.startswith("Drama")).split()
    assert drama[-2:] == [str(report.scores.genres[4].support), str(report.scores.genres[4].predicted)]
    assert all(any(line.startswith(genre) for line in lines) for genre in GENRES)


@pytest.fixture
def comparison(tmp_path, movies):
    def compare_predictions(predictions, **settings):
        folders = {"predictions": predictions, "movies": movies, "output": str(tmp_path / "comparison")}
        return compare(CompareConfig(**({"resamples": 200} | folders | settings)))

    return compare_predictions


def rows_of(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_comparison_is_returned_and_written_as_markdown(comparison, judge, tagged, tmp_path):
    good, worse = tagged(), tagged(range(40), name="worse")
    text = comparison({"good": good, "worse": worse})
    heading, table = text.split("\n\n")
    header, rule, first, second = rows_of(table)

    assert heading == "40 movies, split test, having any."
    assert header[:4] == ["model", "macro F1", "mAP", "f1_of_averages"]
    assert set(rule[1:]) == {"---:"}
    report = judge(good, resamples=200)
    assert first[:2] == ["good", f"{report.scores.macro.f1:.3f} {report.interval('macro_f1')}"]
    assert second[0] == "worse"
    assert (tmp_path / "comparison/comparison.md").read_text() == text + "\n"


def test_the_test_of_differences_tells_a_worse_model_from_an_equal_one(comparison, tagged):
    guesses = per_genre(np.random.default_rng(3).random((60, 9)).astype(np.float32))
    folders = {"good": tagged(), "same": tagged(name="same"), "guessed": tagged(name="g", probabilities=guesses)}
    header, _, same, guessed = rows_of(comparison(folders, against="good").split("\n\n")[2])

    assert header == ["difference from good", "macro F1", "mAP", "f1_of_averages"]
    assert same == ["same", *["+0.000 [+0.000, +0.000], p 1.000"] * 3]
    value, _, high, _, p = re.split(r"[ \[\],]+", guessed[2].replace("]", ""))
    assert float(value) < float(high) < 0
    assert float(p) == pytest.approx(2 / 201, abs=0.001)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predictions": {}}, "give a folder per model"),
        ({"predictions": {"one": "IN"}, "against": "two"}, "against: two is not one of the models one"),
    ],
)
def test_a_comparison_needs_named_models(settings, message):
    with pytest.raises(InputError, match=message):
        CompareConfig.parse(settings | {"movies": "IN", "output": "OUT"}, where="test")


@pytest.mark.process
def test_the_job_prints_the_report_and_loads_neither_torch_nor_ray(tagged, movies, tmp_path):
    folders = [f"predictions={tagged()}", f"movies={movies}", f"output={tmp_path / 'report'}", "resamples=20"]
    job = "import runpy, sys; runpy.run_path('jobs/evaluate.py', run_name='__main__'); "
    command = [sys.executable, "-c", job + "print({'torch', 'ray'} & set(sys.modules))"]
    done = subprocess.run(
        [*command, "configs/evaluate/default.yaml", *folders],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("split test: 40 movies")
    assert done.stdout.endswith("\nset()\n")
    assert json.loads((tmp_path / "report/report.json").read_text())["movies"] == 40
