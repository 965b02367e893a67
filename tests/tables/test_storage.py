"""Files by path or URI are written whole or not at all."""

import errno
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmgenre.errors import InputError
from mmgenre.tables import storage
from mmgenre.tables.table import Table


@pytest.mark.parametrize("scheme", ["file://{folder}", "memory://{folder}"])
def test_a_table_can_be_stored_at_a_uri(tmp_path, tables, scheme):
    location = scheme.format(folder=tmp_path / "table")

    tables.complete(location, "tt1", "tt2")

    assert tables.ids(location) == ["tt1", "tt2"]
    with tables.output(location, seed=2, overwrite=True), pytest.raises(InputError, match="not complete"):
        Table(location)


def test_a_uri_of_an_unknown_scheme_is_refused():
    with pytest.raises(InputError, match=r"gopher://hole: .*expected a local path or a URI such as s3://bucket/key"):
        storage.resolve("gopher://hole")


def test_a_relative_path_is_relative_to_the_working_directory(tmp_path, tables, monkeypatch):
    monkeypatch.chdir(tmp_path)

    tables.complete("runs/table", "tt1")

    assert tables.ids(tmp_path / "runs/table") == ["tt1"]
    assert storage.absolute("runs/table") == str(tmp_path / "runs/table")
    assert storage.absolute("s3://bucket/key") == "s3://bucket/key"


def test_a_file_is_written_whole_or_not_at_all(tmp_path, tables, monkeypatch):
    storage.write_bytes(str(tmp_path / "a.json"), b"old")

    def no_space(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="no space left"):
        storage.write_bytes(str(tmp_path / "a.json"), b"new")

    assert tables.names(tmp_path) == ["a.json"]
    assert storage.read_bytes(str(tmp_path / "a.json")) == b"old"


def test_a_file_named_gz_is_not_compressed_on_the_way(tmp_path):
    storage.write_bytes(str(tmp_path / "a.gz"), b"plain")

    assert (tmp_path / "a.gz").read_bytes() == storage.read_bytes(str(tmp_path / "a.gz")) == b"plain"


@pytest.fixture
def web_server(tmp_path):
    """Serves the files of tmp_path; yields its URL and the headers that it adds."""
    added = {}

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def end_headers(self):
            for name, value in added.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", added
        server.shutdown()
        thread.join()


def test_a_file_on_a_web_server_that_changes_has_another_fingerprint_even_of_the_same_size(tmp_path, web_server):
    url, headers = web_server

    def fingerprint_of(content, **added):
        (tmp_path / "dump.tsv").write_bytes(content)
        headers.clear()
        headers.update(added)
        return storage.fingerprint(f"{url}/dump.tsv")

    assert fingerprint_of(b"first") == fingerprint_of(b"first") != fingerprint_of(b"other")
    assert fingerprint_of(b"first", ETag='"1"') == fingerprint_of(b"first", ETag='"1"')
    assert fingerprint_of(b"first", ETag='"1"') != fingerprint_of(b"other", ETag='"2"')
    assert fingerprint_of(b"first", ETag='W/"1"') != fingerprint_of(b"other", ETag='W/"1"')


def test_a_fingerprint_identifies_the_content(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        storage.write_bytes(str(tmp_path / name), content)
    first, same, other = (storage.fingerprint(str(tmp_path / name)) for name in "abc")

    assert first == same != other


def test_a_full_disk_is_named_with_the_file(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)

    with pytest.raises(OSError, match=rf"{tmp_path}/a\.txt: No space left on device") as error:
        storage.write_bytes(str(tmp_path / "a.txt"), b"a")

    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
