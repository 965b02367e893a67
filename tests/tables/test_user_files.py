"""Users' files are read as text columns, or refused with a one-line error."""

import csv
import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmgenre.enrich.providers import DumpConfig
from mmgenre.errors import InputError
from mmgenre.tables.user_files import read_movies

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

    assert read(path)[0]["imdb_id"] == "0111161"
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

    assert read(path) == [{"imdb_id": "3", "plot": "5"}]


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


@pytest.mark.parametrize(("values", "kind"), [([7], "int64"), ([["a"]], "list<element: string>"), ([b"a"], "binary")])
def test_a_plot_column_that_is_not_text_is_refused(parquet, values, kind):
    assert complaint(parquet({"imdb_id": ["tt1"], "plot": values})) == f"column plot is {kind}; expected text"


def test_an_id_column_of_lists_is_refused(parquet):
    assert "list" in complaint(parquet({"imdb_id": [["tt1"]], "plot": ["a"]}))


@pytest.mark.parametrize("name", ["movies.xlsx", "movies", "movies.parquet.gz"])
def test_the_error_for_an_unknown_suffix_lists_the_known_ones(file, name):
    assert complaint(file(name, "imdb_id,plot\n")) == (
        "unknown kind of file; expected one of .csv, .tsv, .csv.gz, .tsv.gz, .parquet"
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


def test_other_encodings_than_utf8_are_refused(file):
    assert "UTF8" in complaint(file("a.csv", "imdb_id,plot\ntt1,Caf\xe9\n".encode("latin-1")))


def test_a_missing_file_and_a_folder_have_different_errors(tmp_path):
    assert complaint(str(tmp_path / "none.csv")).startswith("no such file; expected a file of movies (.csv, ")
    assert complaint(str(tmp_path)).startswith("is a directory; expected a file of movies")


def test_an_enriched_file_has_a_plot_and_optional_columns(file):
    path = file("a.csv", "tconst,overview,tmdb_id,genres\ntt1,A plot.,0278,Drama\n")

    table = pa.Table.from_batches(DumpConfig(path=path).batches())

    assert table.to_pylist() == [{"imdb_id": "tt1", "plot": "A plot.", "provider_id": "0278"}]
