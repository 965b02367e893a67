"""Files by path or URI: local, S3, GCS and HDFS through pyarrow, every other scheme through fsspec."""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mmgenre.errors import InputError

_OBJECT_STORES = ("s3", "gs")


def resolve(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem a path or URI lives on, and its path there.

    Raises:
        InputError: no filesystem is known for the URI.
    """
    if "://" not in location:
        return fs.LocalFileSystem(), str(Path(location).expanduser().absolute())
    scheme, _, path = location.partition("://")
    if scheme in _OBJECT_STORES:
        return _object_store(scheme, path.partition("/")[0]), path
    try:
        return fs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return _resolve_by_fsspec(location)


@functools.lru_cache(maxsize=16)
def _object_store(scheme: str, bucket: str) -> fs.FileSystem:
    """Kept, because a client looks for credentials, for the bucket's region, and opens connections of its own."""
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]


def _resolve_by_fsspec(location: str) -> tuple[fs.FileSystem, str]:
    import fsspec  # noqa: PLC0415 - slow to import, and rarely needed

    try:
        filesystem, path = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as error:
        raise InputError(f"{location}: {error}; expected a local path or a URI such as s3://bucket/key") from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


def absolute(location: str) -> str:
    """The location as another process on this machine finds it, whatever its working directory."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


def join(location: str, *names: str) -> str:
    """A location below another."""
    return "/".join([location.rstrip("/") or "/", *names])


def kind(location: str) -> fs.FileType:
    """Whether a file, a directory or nothing is there."""
    filesystem, path = resolve(location)
    return filesystem.get_file_info(path).type


def exists(location: str) -> bool:
    """Whether a file or a directory is there."""
    return kind(location) != fs.FileType.NotFound


def require_file(location: str, what: str) -> None:
    """Raise InputError unless a file is there; `what` says what was expected."""
    found = kind(location)
    if found == fs.FileType.Directory:
        raise InputError(f"{location}: is a directory; expected {what}")
    if found == fs.FileType.NotFound:
        raise InputError(f"{location}: no such file; expected {what}")


def names_in(directory: str) -> list[str]:
    """Base names in a directory, sorted; empty when there is no such directory.

    Raises:
        InputError: it is a file.
    """
    filesystem, path = resolve(directory)
    if filesystem.get_file_info(path).type == fs.FileType.File:
        raise InputError(f"{directory}: is a file; expected a folder")
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in infos)


def files_below(directory: str) -> list[str]:
    """Paths of all files in a directory and its folders, relative to it, sorted; empty when there is none."""
    filesystem, path = resolve(directory)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    return sorted(info.path.removeprefix(path).lstrip("/") for info in infos if info.type == fs.FileType.File)


def sizes_in(directory: str) -> dict[str, int]:
    """Bytes of each file in a directory, by base name; empty when there is no such directory."""
    filesystem, path = resolve(directory)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return {info.base_name: info.size for info in infos if info.type == fs.FileType.File}


def read_bytes(location: str) -> bytes:
    """A whole file."""
    filesystem, path = resolve(location)
    # Without compression=None, pyarrow would unpack, and pack, what is named .gz.
    with filesystem.open_input_stream(path, compression=None) as stream:
        return stream.read()


def write_bytes(location: str, content: bytes | pa.Buffer) -> None:
    """Write a whole file, or nothing: a reader never sees half of it.

    Local files are renamed into place; object stores show an object only when it is whole.
    """
    filesystem, path = resolve(location)
    parent, _, name = path.rpartition("/")
    filesystem.create_dir(parent or "/", recursive=True)
    if not isinstance(filesystem, fs.LocalFileSystem):
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(content)
        return
    temporary = Path(parent, f".{name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)  # noqa: PTH105 - the target is a plain string
    finally:
        temporary.unlink(missing_ok=True)


def parquet_batches(location: str, columns: Sequence[str] | None, size: int) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, at most so many at once."""
    filesystem, path = resolve(location)
    with filesystem.open_input_file(path) as content:
        file = pq.ParquetFile(content)
        for group in range(file.num_row_groups):
            # Asked for all row groups together, pyarrow holds the content of the whole file.
            yield from file.iter_batches(size, row_groups=[group], columns=None if columns is None else list(columns))


@contextlib.contextmanager
def written_whole(location: str) -> Iterator[IO[bytes]]:
    """A file to write into piece by piece, of which a reader sees nothing until all of it is there."""
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        filesystem, path = resolve(location)
        is_local = isinstance(filesystem, fs.LocalFileSystem)
        parent, _, name = path.rpartition("/")
        target = f"{parent}/.{name}.{uuid.uuid4().hex}" if is_local else path
        try:
            with filesystem.open_output_stream(target, compression=None) as stream:
                shutil.copyfileobj(file, stream, 1 << 20)
            if is_local:
                os.replace(target, path)  # noqa: PTH105 - both are plain strings
        finally:
            if is_local:
                Path(target).unlink(missing_ok=True)


def upload(directory: Path, location: str) -> None:
    """Copy a local directory's files and folders to a location."""
    filesystem, path = resolve(location)
    filesystem.create_dir(path, recursive=True)
    fs.copy_files(str(directory), path, fs.LocalFileSystem(), filesystem)


@contextlib.contextmanager
def local_copy(location: str, names: Iterable[str] | None = None) -> Iterator[Path]:
    """The directory itself if it is local, else a copy of it, or of these files in it, that goes away afterwards."""
    filesystem, path = resolve(location)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as copy:
        present = files_below(location)
        for name in present if names is None else {*names}.intersection(present):
            Path(copy, name).parent.mkdir(parents=True, exist_ok=True)
            fs.copy_files(f"{path}/{name}", f"{copy}/{name}", filesystem, fs.LocalFileSystem())
        yield Path(copy)


def delete(location: str) -> None:
    """Remove a file or a directory with all it holds; nothing there is fine."""
    filesystem, path = resolve(location)
    found = filesystem.get_file_info(path).type
    if found == fs.FileType.Directory:
        filesystem.delete_dir(path)
    elif found == fs.FileType.File:
        filesystem.delete_file(path)


def fingerprint(location: str) -> str:
    """What tells one version of a file from another: its content if local, its size and time if remote."""
    filesystem, path = resolve(location)
    if isinstance(filesystem, fs.LocalFileSystem):
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    info = filesystem.get_file_info(path)
    return f"{info.size}-{info.mtime_ns}"
