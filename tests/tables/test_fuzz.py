"""Random files of every kind: the rows that come out are the rows that went in, or the file is refused."""

import csv
import gzip
import io
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from mmgenre.errors import InputError
from mmgenre.tables.user_files import UserFile

# bench/fuzz_readers.py asks for more, which differ in every run.
EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
FUZZ = settings(
    max_examples=int(EXAMPLES or 40),
    deadline=None,
    derandomize=EXAMPLES is None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
# Everything that dialects and encodings treat specially is frequent.
_SPECIAL = ['"', '""', ",", ";", "\t", "|", "\n", "\r\n", "\r", "'", "\\", "\\N", "=", "\x00", "\ufeff", "sep=;"]
_WORDS = ["é", "“", "Ж", "幽", "🎬", "tt0000001", "tt0000002,", "\ntt0000003\t", "7", " ", "A plot.", "word " * 30]
PIECES = st.sampled_from([*_SPECIAL, *_WORDS])
CELLS = st.one_of(st.none(), st.lists(PIECES, min_size=1, max_size=6).map("".join), st.text(max_size=20))
NULLS = (None, "", "\\N")


@st.composite
def movies(draw, cells=CELLS):
    """Rows with an id, a title and a plot."""
    ids = draw(st.lists(st.integers(1, 99_999_999), min_size=1, max_size=8, unique=True))
    return [(f"tt{number:07}", draw(cells), draw(cells)) for number in ids]


def read(path, **options):
    """The rows of a file; None if it is refused."""
    try:
        user_file = UserFile(str(path), ("imdb_id", "plot"), ("title",), **options)
        table = pa.Table.from_batches(user_file.batches())
    except InputError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
        event("refused")
        return None
    event("read")
    return [(row["imdb_id"], row.get("title"), row["plot"]) for row in table.to_pylist()], user_file.facts


def with_nulls(rows):
    """Rows as text files hold them: an empty text is null."""
    return [tuple(None if cell in NULLS else cell for cell in row) for row in rows]


HEADER = ("imdb_id", "title", "plot")
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])


def encoded(text, encoding):
    assume("\ufeff" not in text)
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        assume(False)


@FUZZ
@given(
    rows=movies(),
    dialect=st.fixed_dictionaries(
        {
            "delimiter": st.sampled_from(",;\t|"),
            "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
            "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]),
        }
    ),
    encoding=ENCODINGS,
    name=st.sampled_from(["a.csv", "a.tsv", "a.txt", "A.CSV", "a.csv.gz"]),
)
def test_quoted_text(tmp_path, rows, dialect, encoding, name):
    if dialect["quoting"] == csv.QUOTE_MINIMAL and dialect["lineterminator"] != "\r\n":
        # The writer leaves the other line ends unquoted.
        rows = [tuple(cell and cell.replace("\r", "").replace("\n", "") for cell in row) for row in rows]
    if dialect["quoting"] == csv.QUOTE_MINIMAL and dialect["delimiter"] != ",":
        # A cell with a line that is a whole row could be two rows of a file that quotes nothing.
        assume(not any(re.search(r"[\r\n].*tt\d{7}", cell or "") for row in rows for cell in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, **dialect)
    writer.writerows([HEADER, *(["" if cell is None else cell for cell in row] for row in rows)])
    content = encoded(text.getvalue(), encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    found = read(path)

    assert found is None or found[0] == with_nulls(rows)


# A cell such as """" is a quoted one to any reader.
QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
UNQUOTED = CELLS.map(lambda cell: cell and "".join(c for c in cell if c not in "\t\r\n")).filter(
    lambda cell: not QUOTED.fullmatch(cell or "")
)


@FUZZ
@given(rows=movies(UNQUOTED), encoding=ENCODINGS, line_end=st.sampled_from(["\n", "\r\n"]))
def test_unquoted_text_as_imdb_writes_it(tmp_path, rows, encoding, line_end):
    lines = ["\t".join("\\N" if cell is None else cell for cell in row) for row in [HEADER, *rows]]
    path = tmp_path / "a.tsv"
    path.write_bytes(encoded(line_end.join([*lines, ""]), encoding))

    found = read(path)

    assert found is None or found[0] == with_nulls(rows)


BROKEN = ["tt0000009,only two", "tt0000009,a,b,c", ",no id,plot", 'tt0000009,"open,plot', 'tt0000009,"a"b,plot']


@FUZZ
@given(
    rows=movies(CELLS.map(lambda cell: cell and "".join(c for c in cell if c not in '"\r\n'))),
    broken=st.lists(st.tuples(st.integers(0, 8), st.sampled_from(BROKEN)), min_size=1, max_size=4),
)
def test_broken_rows_are_skipped_alone(tmp_path, rows, broken):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([HEADER, *rows])
    lines = text.getvalue().split("\n")[:-1]
    for place, line in broken:
        lines.insert(1 + min(place, len(lines) - 1), line)
    path = tmp_path / "a.csv"
    path.write_bytes(encoded("\n".join(lines), "utf-8"))

    found, facts = read(path, on_bad_rows="skip")

    assert read(path) is None
    assert found == with_nulls(rows)
    assert facts.faults.total() == len(broken)


@FUZZ
@given(rows=movies(), size=st.integers(0, 200))
def test_a_cut_file_never_gives_other_rows(tmp_path, rows, size):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([HEADER, *rows])
    content = encoded(text.getvalue(), "utf-8")
    path = tmp_path / "a.csv"
    path.write_bytes(content[: max(0, len(content) - size)])

    found = read(path)

    if found is not None:
        whole = [row[:2] for row in with_nulls(rows)]
        assert [row[:2] for row in found[0]][:-1] == whole[: len(found[0]) - 1]


@FUZZ
@given(rows=movies(), nulls=st.booleans(), name=st.sampled_from(["a.jsonl", "a.ndjson", "a.jsonl.gz"]))
def test_json_lines(tmp_path, rows, nulls, name):
    objects = [dict(zip(HEADER, row, strict=True)) for row in rows]
    objects = [{key: value for key, value in row.items() if nulls or value is not None} for row in objects]
    content = "\n".join(json.dumps(row, ensure_ascii=nulls) for row in objects).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)

    found = read(path)

    assert found is None or found[0] == with_nulls(rows)


KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()]
KINDS += [pa.dictionary(pa.int32(), pa.string())]


@FUZZ
@given(rows=movies(), kinds=st.tuples(*[st.sampled_from(KINDS)] * 2), group=st.integers(1, 9))
def test_parquet(tmp_path, rows, kinds, group):
    ids, titles, plots = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
    texts = [
        text.dictionary_encode() if pa.types.is_dictionary(kind) else text.cast(kind)
        for text, kind in zip((titles, plots), kinds, strict=True)
    ]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"imdb_id": ids, "title": texts[0], "plot": texts[1]}), path, row_group_size=group)

    assert read(path)[0] == rows


@FUZZ
@given(rows=movies())
def test_excel(tmp_path, rows):
    openpyxl = pytest.importorskip("openpyxl")
    workbook = openpyxl.Workbook()
    workbook.active.append(HEADER)
    try:
        for row in rows:
            workbook.active.append(row)
    except openpyxl.utils.exceptions.IllegalCharacterError:
        assume(False)
    path = Path(tmp_path / "a.xlsx")
    workbook.save(path)

    # XML has one line end.
    lines = [tuple(cell and re.sub("\r\n?", "\n", cell) for cell in row) for row in rows]
    assert read(path)[0] == with_nulls(lines)


@FUZZ
@given(content=st.one_of(st.binary(max_size=400), CELLS.map(lambda cell: (cell or "").encode())), head=st.booleans())
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz"])
def test_any_bytes_are_rows_or_refused(tmp_path, name, content, head):
    path = tmp_path / name
    path.write_bytes((b"imdb_id,title,plot\n" if head else b"") + content)

    read(path)
    read(path, on_bad_rows="skip")
