"""Users' files are read as text columns, or refused with a one-line error that names all faults."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmgenre.enrich.providers import DumpConfig
from mmgenre.errors import InputError
from mmgenre.tables.user_files import UserFile, describe_notes, read_movies

PLOT = 'He said "no",\nleft, and\tcame back.'


@pytest.fixture
def file(tmp_path):
    """Writes a file, gzipped if its name says so; returns its path."""

    def write(name, content):
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(tmp_path / name)

    return write


@pytest.fixture
def parquet(tmp_path):
    def write(columns, name="movies.parquet"):
        pq.write_table(pa.table(columns), tmp_path / name)
        return str(tmp_path / name)

    return write


def read(path, required=("imdb_id", "plot"), optional=("language", "poster_url")):
    return pa.Table.from_batches(read_movies(path, required, optional)).to_pylist()


def complaint(path, **columns):
    with pytest.raises(InputError) as error:
        read(path, **columns)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def quoted(tmp_path, delimiter):
    with (tmp_path / "quoted").open("w", newline="") as made:
        csv.writer(made, delimiter=delimiter).writerows([["imdb_id", "plot"], ["tt1", PLOT], ["tt2", "Plain."]])
    return (tmp_path / "quoted").read_text()


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv.gz", ",")])
def test_quotes_commas_and_line_breaks_in_a_plot_survive(file, tmp_path, name, delimiter):
    path = file(name, quoted(tmp_path, delimiter))

    assert read(path) == [{"imdb_id": "tt1", "plot": PLOT}, {"imdb_id": "tt2", "plot": "Plain."}]


def test_file_suffixes_are_case_insensitive(file):
    assert read(file("A.CSV", "id,plot\ntt1,a\n")) == [{"imdb_id": "tt1", "plot": "a"}]


def test_all_values_are_text_and_empty_ones_are_null(file):
    path = file("a.csv", 'imdb_id,plot\n0111161,1984\n0111162,true\n0111163,""\n0111164,\n0111165,\\N\n0111166,NA\n')

    assert read(path)[0]["imdb_id"] == "tt0111161"
    assert [row["plot"] for row in read(path)] == ["1984", "true", None, None, None, "NA"]


def test_any_text_type_is_read_from_parquet(parquet):
    columns = {"id": [1, 2], "overview": pa.array(["a", None], pa.large_string()), "original_language": ["en", None]}

    assert read(parquet(columns)) == [
        {"imdb_id": "1", "plot": "a", "language": "en"},
        {"imdb_id": "2", "plot": None, "language": None},
    ]


@pytest.mark.parametrize("imdb_id", ["imdb_id", "tconst", "id"])
@pytest.mark.parametrize("plot", ["plot", "overview", "synopsis", "description"])
def test_columns_have_aliases(file, imdb_id, plot):
    path = file("a.csv", f"year,{plot},{imdb_id}\n1999,A plot.,tt1\n")

    assert read(path) == [{"imdb_id": "tt1", "plot": "A plot."}]


def test_our_own_column_name_takes_precedence(file):
    path = file("a.csv", "id,tconst,imdb_id,overview,plot\n1,2,3,4,5\n")

    assert read(path) == [{"imdb_id": "tt0000003", "plot": "5"}]


def test_missing_optional_columns_are_left_out(file):
    path = file("a.csv", "imdb_id,plot,poster\ntt1,a,http://b\n")

    assert read(path) == [{"imdb_id": "tt1", "plot": "a", "poster_url": "http://b"}]


def test_batches_of_a_long_file_do_not_split_plots(file):
    plot = "many words, and\na line\n" * 4
    rows = "".join(f'tt{number},"{plot}"\n' for number in range(30_000))

    batches = list(read_movies(file("a.csv", f"imdb_id,plot\n{rows}"), ("imdb_id", "plot")))

    assert len(batches) > 1
    table = pa.Table.from_batches(batches)
    assert table["imdb_id"].to_pylist() == [f"tt{number}" for number in range(30_000)]
    assert table["plot"].unique().to_pylist() == [plot]


def test_the_error_for_a_missing_column_lists_the_existing_ones(file):
    assert complaint(file("a.csv", "tconst,genres\ntt1,Drama\n")) == (
        "no column plot or overview or synopsis or description; found tconst, genres"
    )
    assert complaint(file("a.csv", "tconst,plot\ntt1,a\n"), required=("imdb_id", "plot", "title")) == (
        "no column title or primaryTitle; found tconst, plot"
    )


def test_a_duplicated_column_is_refused(file):
    assert complaint(file("a.csv", "id,plot,plot\ntt1,a,b\n")) == "more than one column plot; keep one of each name"


@pytest.mark.parametrize(("values", "kind"), [([7], "int64"), ([["a"]], "list<element: string>")])
def test_a_plot_column_that_is_not_text_is_refused(parquet, values, kind):
    assert complaint(parquet({"imdb_id": ["tt1"], "plot": values})) == f"column plot is {kind}; expected text"


def test_an_id_column_of_lists_is_refused(parquet):
    assert "list" in complaint(parquet({"imdb_id": [["tt1"]], "plot": ["a"]}))


@pytest.mark.parametrize("name", ["movies.ods", "movies", "movies.parquet.gz"])
def test_the_error_for_an_unknown_suffix_lists_the_known_ones(file, name):
    assert complaint(file(name, "imdb_id,plot\n")) == (
        "unknown kind of file; expected one of .csv, .tsv, .txt, .jsonl, .csv.gz, .tsv.gz, .txt.gz, .jsonl.gz, "
        ".parquet, .xlsx"
    )


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.parquet"])
def test_an_empty_file_is_refused(file, name):
    assert complaint(file(name, ""))


def test_a_file_with_only_a_header_is_refused(file, parquet):
    assert "no rows in it; expected columns imdb_id, plot" in complaint(file("a.csv", "imdb_id,plot\n"))
    empty = pa.array([], pa.string())
    assert "no rows in it; expected columns imdb_id, plot" in complaint(parquet({"imdb_id": empty, "plot": empty}))


def test_a_row_with_too_many_cells_is_refused_in_any_batch(file):
    good = "".join(f"tt{number},{'word ' * 20}\n" for number in range(30_000))

    assert "Expected 2 columns, got 3" in complaint(file("a.csv", "imdb_id,plot\ntt1,a,b\n"))
    assert "Expected 2 columns, got 3" in complaint(file("b.csv", f"imdb_id,plot\n{good}tt1,a,b\n"))


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz"])
def test_a_file_with_the_wrong_suffix_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"imdb_id,plot\ntt1,a\n")

    assert complaint(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz"])
def test_a_truncated_file_is_refused(tmp_path, file, name):
    if name == "a.parquet":
        pq.write_table(pa.table({"imdb_id": ["tt1"] * 100, "plot": ["a"] * 100}), tmp_path / name)
    else:
        file(name, "imdb_id,plot\n" + "".join(f"tt{number},{number**9}\n" for number in range(10_000)))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])

    assert complaint(str(tmp_path / name))


def test_a_missing_file_and_a_folder_have_different_errors(tmp_path):
    assert complaint(str(tmp_path / "none.csv")).startswith("no such file; expected a file of movies (.csv, ")
    assert complaint(str(tmp_path)).startswith("is a directory; expected a file of movies")


def test_an_enriched_file_has_a_plot_and_optional_columns(file):
    path = file("a.csv", "tconst,overview,tmdb_id,genres\ntt1,A plot.,0278,Drama\n")

    table = pa.Table.from_batches(DumpConfig(path=path).open().batches())

    assert table.to_pylist() == [{"imdb_id": "tt1", "plot": "A plot.", "provider_id": "0278"}]


def facts(path, **options):
    """The rows of a file, and the line about it."""
    user_file = UserFile(path, ("imdb_id", "plot"), ("title", "language"), **options)
    return pa.Table.from_batches(user_file.batches()).to_pylist(), describe_notes(user_file.facts.notes())


def test_names_of_columns_and_files_may_be_in_capitals(file):
    expected = [{"imdb_id": "tt0000007", "plot": "A plot."}]

    assert read(file("A.CSV", "IMDB_ID,Plot\ntt0000007,A plot.\n")) == expected
    assert read(file("B.Tsv", "imdbId\tPLOT\ntt0000007\tA plot.\n")) == expected
    assert read(file("c.csv", " IMDb ID , plot \ntt0000007,A plot.\n")) == expected


@pytest.mark.parametrize(
    ("written", "imdb_id"),
    [
        ("7", "tt0000007"),
        ("7.0", "tt0000007"),
        ("0000007", "tt0000007"),
        ("12345678", "tt12345678"),
        (" tt0000007 ", "tt0000007"),
        ("TT0000007", "tt0000007"),
        ("https://www.imdb.com/title/tt0000007/", "tt0000007"),
        ("http://m.imdb.com/de/title/tt0000007/reviews?ref=x", "tt0000007"),
        ("imdb.com/title/tt0000007", "tt0000007"),
    ],
)
def test_ids_are_completed_where_that_is_certain_and_counted(file, written, imdb_id):
    rows, line = facts(file("a.csv", f'imdb_id,plot\n"{written}",a\ntt0000009,b\n'))

    assert [row["imdb_id"] for row in rows] == [imdb_id, "tt0000009"]
    assert "1 ids completed" in line


def test_numbers_in_a_column_id_may_be_another_service_s_and_stay(file):
    rows, line = facts(file("a.csv", "id,plot\n7,a\n"))

    assert (rows, line) == ([{"imdb_id": "7", "plot": "a"}], "")


BROKEN = "imdb_id,plot\n1,a\n2,b,c\n3,d\n,e\n1,f\n5\n"


def test_all_faults_of_a_file_are_in_one_message_with_their_lines(file):
    assert complaint(file("a.csv", BROKEN)) == (
        "2 rows with the wrong number of cells: line 3 (Expected 2 columns, got 3), line 7 (Expected 2 columns, got 1)"
        "; 1 rows without an id: line 5; 1 rows with the id of another row: line 6 (tt0000001); fix them, or leave "
        "them out: on_bad_rows=skip"
    )


def test_bad_rows_can_be_skipped_and_are_counted_by_reason(file):
    rows, line = facts(file("a.csv", BROKEN), on_bad_rows="skip")

    assert [(row["imdb_id"], row["plot"]) for row in rows] == [("tt0000001", "a"), ("tt0000003", "d")]
    assert (
        "2 rows; 4 rows skipped (2 with the wrong number of cells, 1 without an id, 1 with the id of another row)"
        in line
    )


def test_bad_rows_of_other_kinds_of_files_are_found_too(file, parquet):
    lines = [
        {"imdb_id": 7, "plot": "a"},
        {"plot": "b"},
        {"imdb_id": 8, "plot": ["c"]},
        [1],
        {"imdb_id": 7.0, "plot": "d"},
    ]
    path = file("a.jsonl", "\n".join([*map(json.dumps, lines), "{", ""]))

    assert complaint(path).startswith(
        "2 rows that are not JSON objects: line 4 (not an object), line 6 (Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1)); 1 rows with a list or an object in place of text: line 3 (column plot "
        "holds a list); 1 rows without an id: line 2; 1 rows with the id of another row: line 5 (tt0000007); "
    )
    assert facts(path, on_bad_rows="skip")[0] == [{"imdb_id": "tt0000007", "plot": "a"}]
    assert complaint(parquet({"imdb_id": ["1", "1", None], "plot": ["a", "b", "c"]})).startswith(
        "1 rows without an id: row 3; 1 rows with the id of another row: row 2 (tt0000001); "
    )


def test_a_file_of_which_every_row_is_skipped_is_refused(file):
    with pytest.raises(InputError, match="no rows in it"):
        facts(file("a.csv", "imdb_id,plot\n1\n"), on_bad_rows="skip")


def test_json_lines_are_read(file):
    path = file("a.jsonl.gz", '{"id": "tt0000001", "genres": []}\n\n{"Plot": "A\\nplot.", "id": "tt0000002"}\n')

    assert read(path) == [{"imdb_id": "tt0000001", "plot": None}, {"imdb_id": "tt0000002", "plot": "A\nplot."}]


def test_excel_workbooks_are_read(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    workbook = openpyxl.Workbook()
    for row in [[], ["IMDb ID", "Plot", "Year"], [7, "A\nplot.", 1999], [], ["tt0000008", None, None]]:
        workbook.active.append(row)
    workbook.save(tmp_path / "a.xlsx")

    assert read(str(tmp_path / "a.xlsx")) == [
        {"imdb_id": "tt0000007", "plot": "A\nplot."},
        {"imdb_id": "tt0000008", "plot": None},
    ]


def test_a_workbook_that_is_none_is_refused(file):
    assert "openpyxl" in (message := complaint(file("a.xlsx", "imdb_id"))) or "not an Excel workbook" in message


def test_a_plot_of_several_megabytes_is_read(file):
    plot = 'many "" words,\n' * 200_000

    rows = read(file("a.csv", f'imdb_id,plot\ntt0000001,"{plot}"\ntt0000002,short\n'))

    assert [row["plot"] for row in rows] == [plot.replace('""', '"'), "short"]


@pytest.mark.parametrize(
    "kind",
    [pa.dictionary(pa.int32(), pa.string()), pa.binary(), pa.large_binary(), pa.large_string(), pa.string_view()],
)
def test_text_of_every_type_is_read_from_parquet(parquet, kind):
    texts = pa.array(["A plot.", None, "Caf\xe9."])
    column = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts.cast(kind)

    rows = read(parquet({"imdb_id": [1, 2, 3], "plot": column}))

    assert rows == [{"imdb_id": f"tt000000{row + 1}", "plot": plot} for row, plot in enumerate(texts.to_pylist())]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("English", "en"),
        ("English, French", "en"),
        ("fra", "fr"),
        ("EN", "en"),
        ("pt-BR", "pt"),
        ("cn", "cn"),
        ("", None),
    ],
)
def test_languages_are_read_as_iso_codes(file, name, code):
    assert read(file("a.csv", f'imdb_id,plot,language\n1,a,"{name}"\n'))[0]["language"] == code
