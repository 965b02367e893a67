"""The dialect and the encoding of a text file are found by its content; a broken row loses no other."""

import csv
import gzip
import io

import pyarrow as pa
import pytest

from mmgenre.errors import InputError
from mmgenre.tables.user_files import UserFile, describe_notes

ROWS = [("tt0000001", "Café … a “plot”; with, everything|else."), ("tt0000002", "Plain."), ("tt0000003", "1984")]


@pytest.fixture
def read(tmp_path):
    """Writes a file; returns its rows and the line about it."""

    def read_back(name, content, **options):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        user_file = UserFile(str(tmp_path / name), ("imdb_id", "plot"), **options)
        rows = pa.Table.from_batches(user_file.batches()).to_pylist()
        return [(row["imdb_id"], row["plot"]) for row in rows], describe_notes(user_file.facts.notes())

    return read_back


def written(rows=ROWS, delimiter=",", line_end="\r\n"):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=line_end).writerows([("imdb_id", "plot"), *rows])
    return text.getvalue()


OPEN_QUOTES = {
    "tt0000001": '"I never killed him, says the widow.',
    "tt0000002": "Two brothers cross the desert.",
    "tt0000003": 'The ship "Argo" and its crew.',
    "tt0000004": '"Swing" band members fall in love.',
    "tt0000005": 'He says "no"',
    "tt0000006": '"Whole cell."',
}


@pytest.mark.parametrize("count", range(1, 7))
@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_quotes_are_ordinary_characters_in_a_file_that_quotes_nothing(read, count, delimiter):
    rows = list(OPEN_QUOTES.items())[:count]
    lines = [delimiter.join(row) for row in [("tconst", "plot"), *rows]]

    assert read("a.tsv", "\n".join([*lines, ""]))[0] == rows


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_quoted_cells_are_unquoted_whatever_the_delimiter(read, name, delimiter):
    plots = ['He said ""no"", left;', "tab\tand, comma | bar", 'a "quoted"\nline\r\nbreak', '"', "plain"]
    rows = [(f"tt000000{row}", plot) for row, plot in enumerate(plots)]

    assert read(name, written(rows, delimiter))[0] == rows


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_line_end_ends_a_row(read, line_end):
    assert read("a.csv", written(line_end=line_end))[0] == ROWS


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("cp1252", "Windows-1252"),
    ],
)
def test_the_encoding_is_found_and_said(read, encoding, said):
    rows, line = read("a.csv", written().encode(encoding))

    assert rows == ROWS
    assert said in line
    assert bool(line) == bool(said)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("Призрак бродит по Европе", "cp1251"), ("Zażółć gęślą jaźń", "cp1250"), ("幽霊が学校を歩く。", "shift-jis")],
)
def test_an_encoding_that_cannot_be_found_is_asked_for(read, text, encoding):
    content = written([("tt0000001", text)]).encode(encoding)

    with pytest.raises(InputError, match=r"neither UTF-8 nor Windows-1252 .*encoding=cp1251"):
        read("a.csv", content)
    assert read("a.csv", content, encoding=encoding)[0] == [("tt0000001", text)]
    with pytest.raises(InputError, match="encoding=nonsense: Python knows no such encoding"):
        read("a.csv", content, encoding="nonsense")


def test_a_few_broken_texts_are_counted_and_many_are_refused(read):
    plots = [("é" * 5).encode()] * 300
    content = b"imdb_id,plot\n" + b"".join(b"%d,%s\n" % (row, plot) for row, plot in enumerate(plots, 1))

    rows, line = read("a.csv", content + b"999,caf\xe9 robot\n")

    assert rows[-1] == ("tt0000999", "caf\ufffd robot")
    assert "1 texts with bytes that are not text (U+FFFD)" in line
    with pytest.raises(InputError, match="10 texts in 310 rows are not UTF8"):
        read("a.csv", content + b"".join(b"%d,caf\xe9 robot\n" % row for row in range(900, 910)))


def test_the_delimiter_is_found_and_said(read):
    rows, line = read("a.csv", written(delimiter=";"))

    assert rows == ROWS
    assert "cells between semicolons" in line


def test_the_first_line_of_excel_that_names_the_delimiter_is_no_header(read):
    assert read("a.csv", "sep=|\r\n" + written(delimiter="|"))[0] == ROWS


def test_a_quote_that_is_never_closed_loses_only_its_own_row(read):
    lines = written().splitlines()
    lines.insert(2, 'tt0000009,"open and "never closed, here')
    lines.insert(4, 'tt0000008,"open')
    content = "\n".join(lines)

    with pytest.raises(InputError, match=r"2 rows .*line 3 .*line 5 "):
        read("a.csv", content)
    rows, line = read("a.csv", content, on_bad_rows="skip")
    assert rows == ROWS
    assert "2 rows skipped" in line


@pytest.mark.parametrize(("first", "second"), [("tt0000007", "tt0000008"), ("7", "8")])
def test_a_cell_that_holds_a_row_is_refused(read, first, second):
    header, known = "imdb_id,plot", '9,"A plot,\nwith ""lines"""\n'
    content = f'{header}\n{known}{first},"Opened\n{second},and closed by accident"\n'

    with pytest.raises(InputError, match=r"1 rows with other rows inside a cell: line 4 \(a cell holds 2 lines"):
        read("a.csv", content)


def test_an_open_quote_between_commas_is_refused(read):
    rows = "".join(f"{imdb_id},{plot.replace(',', '')}\n" for imdb_id, plot in list(OPEN_QUOTES.items())[:3])

    with pytest.raises(InputError, match="1 rows with a misplaced or open quote: line 2"):
        read("a.csv", f"imdb_id,plot\n{rows}")


def test_a_plot_with_lines_that_look_a_bit_like_rows_is_read(read):
    rows = [("tt0000001", "Part one,\n1984, and\n7, 8\n"), ("tt0000002", "As in tt0000003,\nit goes on.")]

    assert read("a.csv", written(rows))[0] == rows


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_gzip_file_is_refused(read, damage):
    content = gzip.compress("".join(f"tt{row:07},{row**9}\n" for row in range(9000)).encode())
    half = len(content) // 2

    with pytest.raises(InputError, match="damaged"):
        read("a.csv.gz", b"imdb" if damage == "none" else content[:half] + b"\xff" * half * (damage != "cut"))


def test_a_zip_archive_is_named(read):
    with pytest.raises(InputError, match="is a ZIP archive; unpack it first"):
        read("a.csv", b"PK\x03\x04" + bytes(40))
