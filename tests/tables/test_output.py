"""An output is complete or unfinished, never half, and never replaces anything else."""

import signal
import subprocess
import sys
import threading
import time

import pyarrow.parquet as pq
import pytest

from mmgenre.errors import InputError
from mmgenre.tables import lease
from mmgenre.tables.lease import OutputInUseError
from mmgenre.tables.manifest import MANIFEST, read_manifest
from mmgenre.tables.output import STARTED
from mmgenre.tables.table import Table, TableWriter, parts_in


def test_the_same_recipe_finds_the_complete_output_and_changes_nothing(tmp_path, tables):
    first = tables.complete(tmp_path, "tt1", seed=1)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    for overwrite in (False, True):
        for mode in ("fresh", "resume", "extend"):
            assert tables.output(tmp_path, seed=1, mode=mode, overwrite=overwrite).finished == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_complete_output_that_is_opened_again_is_written_anew_or_resumed(tmp_path, tables):
    tables.complete(tmp_path, "tt1", seed=1)

    with tables.output(tmp_path, seed=1, mode="resume") as output:
        assert len(TableWriter(output, tables.schema).written()) == 1
        assert read_manifest(str(tmp_path)) is None
    tables.complete(tmp_path, "tt2", seed=1)

    assert tables.ids(tmp_path) == ["tt2"]


def test_another_recipe_is_refused_with_every_difference(tmp_path, tables):
    made = {"job": "dataset", "inputs": {"catalog": "a" * 64}, "seed": 1, "share": {"val": 0.1, "test": 0.2}}
    tables.complete(tmp_path, **made)
    before = tables.names(tmp_path)

    changed = {"inputs": {"catalog": "b" * 64}, "seed": 2, "share": {"val": 0.1, "test": 0.3}}
    with pytest.raises(InputError) as error:
        tables.output(tmp_path, **(made | changed))

    assert str(error.value) == (
        f"{tmp_path}: already holds an output made with other settings or inputs (input catalog: 'bbbbbbbbbbbb', not "
        "'aaaaaaaaaaaa'; seed: 2, not 1; share.test: 0.3, not 0.2); choose another output, or overwrite=true to "
        "replace it"
    )
    assert tables.names(tmp_path) == before


def test_overwrite_replaces_the_output_and_nothing_else(tmp_path, tables):
    tables.complete(tmp_path, "tt1", "tt2", seed=1)
    (tmp_path / "notes.txt").write_text("mine")

    output = tables.output(tmp_path, seed=2, overwrite=True)
    assert output.finished is None
    assert tables.ids(tmp_path) == ["tt1", "tt2"]
    with output:
        assert tables.names(tmp_path) == [STARTED, "notes.txt"]
        writer = TableWriter(output, tables.schema)
        writer.write(tables.rows("tt3"))
        writer.finish(rows_in=1)

    assert tables.ids(tmp_path) == ["tt3"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


# Use of the context manager


def test_nothing_is_written_before_the_block_after_it_or_after_completion(tmp_path, tables):
    output = tables.output(tmp_path)
    attempts = [
        lambda: output.write("a.txt", b"a"),
        lambda: output.path("a.txt"),
        lambda: output.complete(0, {}, {}, []),
        lambda: TableWriter(output, tables.schema).write(tables.rows("tt1")),
    ]

    def all_are_refused():
        for attempt in attempts:
            with pytest.raises(RuntimeError, match="written outside `with output:` or after `complete`"):
                attempt()

    all_are_refused()
    with output:
        output.write("a.txt", b"a")
        manifest = output.complete(1, {"ok": 1}, {}, ["a.txt"])
        all_are_refused()
    all_are_refused()

    assert tables.names(tmp_path) == [MANIFEST, "a.txt"]
    assert read_manifest(str(tmp_path)) == manifest
    with pytest.raises(RuntimeError, match="an Output is written once"), output:
        pass


def test_a_block_left_early_leaves_an_unfinished_output(tmp_path, tables):
    with tables.output(tmp_path / "returned") as output:
        output.write("a.txt", b"a")
    with pytest.raises(ZeroDivisionError), tables.output(tmp_path / "raised") as output:
        output.write("a.txt", b"a")
        raise ZeroDivisionError

    for folder in (tmp_path / "returned", tmp_path / "raised"):
        assert tables.names(folder) == [STARTED, "a.txt"]
        assert read_manifest(str(folder)) is None


# Two runs


def test_a_second_run_is_refused_and_leaves_the_first_ones_files(tmp_path, tables):
    with tables.output(tmp_path, seed=1) as first:
        writer = TableWriter(first, tables.schema)
        writer.write(tables.rows("tt1"))
        (tmp_path / ".part-1-a.parquet.abc").write_bytes(b"being written")
        before = sorted(tmp_path.iterdir())

        for settings in ({"seed": 1}, {"seed": 2, "overwrite": True}, {"seed": 1, "mode": "resume"}):
            second = tables.output(tmp_path, **settings)
            with pytest.raises(OutputInUseError, match="another run writes this output"), second:
                pass

        assert sorted(tmp_path.iterdir()) == before
        writer.finish(rows_in=1)

    assert tables.ids(tmp_path) == ["tt1"]


def test_a_run_that_waited_finds_what_the_other_one_finished(tmp_path, tables, monkeypatch):
    monkeypatch.setattr(lease, "_WAIT_S", 0.01)
    second, outcomes = tables.output(tmp_path, seed=1), []

    def wait():
        with second.reserved(wait=True):
            outcomes.append(second.finished)

    with tables.output(tmp_path, seed=1) as first:
        thread = threading.Thread(target=wait)
        thread.start()
        manifest = first.complete(0, {}, {}, [])
        assert outcomes == []
    thread.join(10)

    assert outcomes == [manifest]


def test_a_run_whose_output_another_one_took_over_writes_and_completes_nothing(tmp_path, tables):
    with tables.output(tmp_path, seed=1) as output:
        for claim in tmp_path.glob("_claim-*"):
            claim.unlink()
        with pytest.raises(OutputInUseError, match="another run took over"):
            output.complete(0, {}, {}, [])
        with pytest.raises(OutputInUseError, match="another run took over"):
            output.write("a.txt", b"a")

    assert read_manifest(str(tmp_path)) is None


# Files that are gone


def test_an_output_is_not_completed_without_a_file_that_it_lists(tmp_path, tables):
    with tables.output(tmp_path) as output, pytest.raises(RuntimeError, match=r"b\.txt is missing; left incomplete"):
        output.write("a.txt", b"a")
        output.complete(0, {}, {}, ["a.txt", "b.txt"])

    assert read_manifest(str(tmp_path)) is None


@pytest.mark.parametrize("mode", ["fresh", "resume", "extend"])
def test_an_output_whose_files_are_gone_is_not_finished_and_is_made_again(tmp_path, tables, mode):
    tables.complete(tmp_path, "tt1", seed=1, mode=mode)
    for part in parts_in(str(tmp_path)):
        (tmp_path / part).unlink()

    with pytest.raises(InputError, match=r"1 of the 1 files in _run\.json are missing, such as part-.*; run the job"):
        Table(str(tmp_path))
    assert tables.output(tmp_path, seed=1, mode=mode).finished is None
    tables.complete(tmp_path, "tt1", seed=1, mode=mode)

    assert tables.ids(tmp_path) == ["tt1"]


def test_a_damaged_record_of_a_started_run_is_named(tmp_path, tables):
    tables.unfinished(tmp_path, "tt1")
    (tmp_path / STARTED).write_text("{")

    with pytest.raises(InputError, match=r"_started\.json: damaged, .*; delete the folder and run the job again"):
        tables.output(tmp_path)


# Unfinished outputs


def test_a_fresh_run_clears_what_an_unfinished_one_left(tmp_path, tables):
    tables.unfinished(tmp_path, "tt1")

    tables.complete(tmp_path, "tt2", seed=2)

    assert tables.ids(tmp_path) == ["tt2"]


@pytest.mark.parametrize("mode", ["resume", "extend"])
def test_an_unfinished_run_is_resumed(tmp_path, tables, mode):
    tables.unfinished(tmp_path, "tt1", "tt2", seed=1)

    with tables.output(tmp_path, mode=mode, seed=1) as output:
        writer = TableWriter(output, tables.schema)
        assert writer.written()["imdb_id"].to_pylist() == ["tt1", "tt2"]
        writer.write(tables.rows("tt3"))
        writer.finish(rows_in=3, expected_rows=3)

    assert tables.ids(tmp_path) == ["tt1", "tt2", "tt3"]


@pytest.mark.parametrize("mode", ["resume", "extend"])
def test_an_unfinished_run_of_another_recipe_is_not_thrown_away(tmp_path, tables, mode):
    tables.unfinished(tmp_path, "tt1", seed=1)

    with pytest.raises(InputError, match="seed: 2, not 1"):
        tables.output(tmp_path, mode=mode, seed=2)
    assert len(parts_in(str(tmp_path))) == 1

    with tables.output(tmp_path, mode=mode, seed=2, overwrite=True):
        assert parts_in(str(tmp_path)) == []


def test_a_run_that_wrote_nothing_does_not_stand_in_the_way(tmp_path, tables):
    tables.unfinished(tmp_path, mode="resume", seed=1)

    assert tables.output(tmp_path, mode="resume", seed=2).finished is None


def test_an_extended_table_keeps_its_rows_when_the_input_changes(tmp_path, tables):
    tables.complete(tmp_path, "tt1", inputs={"catalog": "old"})

    with tables.output(tmp_path, mode="extend", inputs={"catalog": "new"}) as output:
        with pytest.raises(InputError, match="not complete"):
            Table(str(tmp_path))
        writer = TableWriter(output, tables.schema)
        writer.write(tables.rows("tt2"))
        writer.finish(rows_in=2)

    assert tables.ids(tmp_path) == ["tt1", "tt2"]
    with pytest.raises(InputError, match="input catalog: 'newer', not 'new'"):
        tables.output(tmp_path, mode="resume", inputs={"catalog": "newer"})


def test_rows_of_other_settings_are_not_extended(tmp_path, tables):
    tables.complete(tmp_path, "tt1", provider="tmdb")

    with pytest.raises(InputError, match="provider: 'omdb', not 'tmdb'"):
        tables.output(tmp_path, mode="extend", provider="omdb")


@pytest.mark.process
def test_a_killed_run_leaves_readable_parts_and_no_manifest(tmp_path, tables):
    program = f"""
import pyarrow as pa
from mmgenre.tables.manifest import Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.table import TableWriter
schema = pa.schema([pa.field("imdb_id", pa.string(), nullable=False), pa.field("plot", pa.string())])
with Output({str(tmp_path / "table")!r}, Recipe(job="test", settings={{}}, inputs={{}}), mode="resume") as output:
    writer, number = TableWriter(output, schema), 0
    while True:
        ids = [f"tt{{number + row}}" for row in range(2000)]
        writer.write(pa.table({{"imdb_id": ids, "plot": ["words " * 50] * 2000}}))
        number += 2000
"""
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("table/part-*"))) < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)

    with pytest.raises(InputError, match="not complete"):
        Table(str(tmp_path / "table"))
    with tables.output(tmp_path / "table", mode="resume") as output:
        writer = TableWriter(output, tables.schema)
        ids = writer.written()["imdb_id"].to_pylist()
        assert len(ids) >= 10_000
        assert ids == [f"tt{number}" for number in range(len(ids))]
        assert len(ids) % 2000 == 0
        assert writer.finish(rows_in=len(ids), expected_rows=len(ids)).rows == len(ids)


# Folders that hold something else


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path, tables):
    (tmp_path / "thesis.docx").write_text("years of work")

    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds other files; choose a new or empty output folder"):
            tables.output(tmp_path, overwrite=overwrite)

    assert tables.names(tmp_path) == ["thesis.docx"]


def test_parts_without_a_record_of_a_run_are_left_alone(tmp_path, tables):
    pq.write_table(tables.rows("tt1"), tmp_path / "part-0.parquet")

    with pytest.raises(InputError, match="holds other files"):
        tables.output(tmp_path, overwrite=True)

    assert tables.names(tmp_path) == ["part-0.parquet"]


def test_the_output_of_another_job_is_not_replaced(tmp_path, tables):
    tables.complete(tmp_path / "complete", "tt1", job="dataset")
    tables.unfinished(tmp_path / "unfinished", "tt1", job="dataset")

    for folder in (tmp_path / "complete", tmp_path / "unfinished"):
        before = tables.names(folder)
        with pytest.raises(InputError, match=r"holds the output of jobs/dataset\.py; choose another output"):
            tables.output(folder, job="topics", overwrite=True)
        assert tables.names(folder) == before


def test_a_file_is_not_a_folder(tmp_path, tables):
    (tmp_path / "movies").write_text("a file")

    with pytest.raises(InputError, match="movies: is a file; expected a folder"):
        tables.output(tmp_path / "movies", overwrite=True)
    with pytest.raises(InputError, match="movies: is a file; expected a folder"):
        Table(str(tmp_path / "movies"))


def test_an_unknown_manifest_is_neither_read_nor_replaced(tmp_path, tables):
    (tmp_path / MANIFEST).write_text('{"job": "somebody else\'s"}')

    for attempt in (lambda: Table(str(tmp_path)), lambda: tables.output(tmp_path, overwrite=True)):
        with pytest.raises(InputError, match="not a manifest of this version"):
            attempt()
