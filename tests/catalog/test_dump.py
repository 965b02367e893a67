"""IMDb dumps, valid and damaged: the rows that are read, and how the rest is reported."""

import gzip

import pytest
from dumps import HEADER, ids, make, movies, row, steps

from mmgenre.catalog import dump
from mmgenre.catalog.job import describe
from mmgenre.errors import InputError
from mmgenre.tables.manifest import MANIFEST


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"tt0000002\tmovie\tToo few\n", "wrong_number_of_columns"),
        (row("tt0000002").replace(b"\n", b"\tmore\n"), "wrong_number_of_columns"),
        (b"x" * (9 << 20) + row("tt0000002"), "wrong_number_of_columns"),
        (row("tt0000002", title="t" * (20 << 20)), "wrong_number_of_columns"),
        (b"\n", "empty_line"),
        (row("nm0000002"), "bad_id"),
        (row("tt000002"), "bad_id"),
        (row("tt00000002"), "bad_id"),
        (row("tt12345678901234567890"), "bad_id"),
        (row(r"\N"), "bad_id"),
        (row("tt0000002", title=""), "no_title"),
        (row("tt0000002", title=r"\N"), "no_title"),
        (row("tt0000002", title=b"Caf\xe9"), "not_utf8"),
        (row("tt0000002", adult="1987"), "bad_adult_flag"),
        (row("tt0000001", title="Again"), "duplicate_id"),
    ],
)
def test_a_malformed_row_is_dropped_and_counted_by_reason(tmp_path, bad, reason):
    manifest = make(tmp_path, HEADER + row("tt0000001") + (row("tt0000003") if bad.endswith(b"\n") else b"") + bad)

    assert manifest.notes["malformed"] == {reason: 1}
    assert movies(tmp_path)[0]["title"] == "A Title"
    assert set(ids(tmp_path)) <= {"tt0000001", "tt0000003"}
    assert steps(manifest)["rows in the dump"] - manifest.rows == 1


def test_an_invalid_number_becomes_null_and_is_counted(tmp_path):
    manifest = make(tmp_path, HEADER + row(year="19x9", runtime="Reality-TV") + row("tt0000002", year=r"\N"))

    assert [(movie["year"], movie["runtime"]) for movie in movies(tmp_path)] == [(None, None), (None, 90)]
    assert manifest.notes["repaired"] == {"bad_year": 1, "bad_runtime": 1}


def test_an_unknown_genre_is_counted(tmp_path):
    manifest = make(tmp_path, HEADER + row(genres="Drama,SciFi") + row("tt0000002", genres="SciFi"))

    assert manifest.notes["unknown_genres"] == {"SciFi": 2}
    assert ids(tmp_path) == ["tt0000001"]


def test_quotes_byte_order_marks_windows_line_ends_and_long_ids_are_read(tmp_path):
    titles = ['"', 'The "Best', '"Whole"', "it's", "a\\tb"]
    rows = [row(f"tt{number}", title=title) for number, title in enumerate(titles, start=10_000_000)]

    manifest = make(tmp_path, b"\xef\xbb\xbf" + (HEADER + b"".join(rows)).replace(b"\n", b"\r\n"))

    assert [movie["title"] for movie in movies(tmp_path)] == titles
    assert movies(tmp_path)[0]["genres"] == ["Drama"]
    assert manifest.notes["malformed"] == {}


def test_gzip_is_detected_by_content(tmp_path):
    plain, zipped = tmp_path / "plain.tsv.gz", tmp_path / "zipped.tsv"
    plain.write_bytes(HEADER + row())
    # Two members, as parallel compressors write them.
    zipped.write_bytes(gzip.compress(HEADER) + gzip.compress(row()))

    make(tmp_path / "a", plain)
    make(tmp_path / "b", zipped)

    assert ids(tmp_path / "a") == ids(tmp_path / "b") == ["tt0000001"]


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_gzip_is_refused_unless_the_rows_before_the_damage_will_do(tmp_path, damage):
    whole = HEADER + b"".join(row(f"tt{number:07}", title=f"{number * 7919}") for number in range(1, 20_000))
    content = bytearray(gzip.compress(whole))
    middle = len(content) // 2
    content[middle:] = b"" if damage == "cut" else b"\xff" * middle
    path = tmp_path / "dump.gz"
    path.write_bytes(content)

    with pytest.raises(
        InputError, match=r"dump\.gz: damaged .* only the [\d,]+ rows before the damage .* allow_damaged=true"
    ):
        make(tmp_path, path)
    manifest = make(tmp_path, path, allow_damaged=True)

    assert 1000 < manifest.rows < 19_000
    assert ids(tmp_path) == [f"tt{number:07}" for number in range(1, manifest.rows + 1)]
    assert manifest.notes["malformed"]["truncated_file"] == 1
    assert steps(manifest)["rows in the dump"] > manifest.rows
    assert describe(manifest).splitlines()[-1].startswith(f"warning: {path}: damaged")
    with pytest.raises(InputError, match="allow_damaged=true"):
        make(tmp_path, path)


def test_a_last_line_that_is_cut_off_is_damage(tmp_path):
    content = HEADER + row() + row("tt0000002")

    with pytest.raises(InputError, match=r"damaged \(its last line is cut off\); only the 2 rows before the damage"):
        make(tmp_path, content[:-20])
    assert make(tmp_path, content[:-20], allow_damaged=True).rows == 1


def test_the_first_row_of_an_id_is_kept_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(dump, "_CHUNK_BYTES", 256)
    monkeypatch.setattr(dump, "_BLOCK_BYTES", 1024)
    rows = [row(f"tt{number:07}") for number in range(1, 100)]

    manifest = make(tmp_path, HEADER + b"".join(rows) + row("tt0000001", title="Again") + rows[50], rows_per_file=10)

    assert ids(tmp_path) == sorted(ids(tmp_path))
    assert manifest.rows == 99
    assert len(manifest.files) == 10
    assert manifest.notes["malformed"] == {"duplicate_id": 2}


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"", "empty"),
        (gzip.compress(HEADER + row(), mtime=0)[:10], "empty .Compressed file ended"),
        (HEADER, "a header and no rows"),
        (HEADER[:-1], "a header and no rows"),
        (HEADER + b"torn\n", "no complete row"),
        (b"nconst\tprimaryName\tbirthYear\nnm1\tA\t1\n", "starts with the columns nconst, primaryName, birthYear"),
        (b"tconst\taverageRating\tnumVotes\ntt1\t5\t9\n", "starts with the columns tconst, averageRating"),
        (b"PAR1\x15\x04\x15\x10", "starts with 'PAR1"),
        (b"PK\x03\x04\x14\x00", "starts with 'PK"),
        (b"\x00" * 2_000_000, "starts with"),
        (b"<!DOCTYPE html>\n<html></html>\n", "starts with '<!DOCTYPE html>'"),
    ],
)
def test_a_file_that_is_not_a_dump_is_an_error_with_its_path(tmp_path, content, expected_text):
    path = tmp_path / "dump.tsv"
    path.write_bytes(content)

    with pytest.raises(InputError, match=f"{path}: {expected_text}.*; expected IMDb's title.basics") as caught:
        make(tmp_path, path)

    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "catalog" / MANIFEST).exists()
