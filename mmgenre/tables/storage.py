"""Files by path or URI: pyarrow for local files, S3, GCS and HDFS, fsspec for every other scheme."""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mmgenre.errors import InputError

_OBJECT_STORES = ("s3", "gs")
_THREADS = 8


def resolve(location: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path or URI, and the path in that filesystem.

    Raises:
        InputError: the URI has an unknown scheme.
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
    """Cached, because each client looks up credentials and the bucket's region, and opens its own connections."""
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]


def _resolve_by_fsspec(location: str) -> tuple[fs.FileSystem, str]:
    import fsspec  # noqa: PLC0415 - slow to import and rarely needed

    try:
        filesystem, path = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as error:
        raise InputError(f"{location}: {error}; expected a local path or a URI such as s3://bucket/key") from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


def absolute(location: str) -> str:
    """The location, independent of the working directory."""
    return location if "://" in location else str(Path(location).expanduser().absolute())


def join(location: str, *names: str) -> str:
    """Location of something inside a folder."""
    return "/".join([location.rstrip("/") or "/", *names])


def kind(location: str) -> fs.FileType:
    """Whether the location is a file, a directory or missing."""
    filesystem, path = resolve(location)
    return filesystem.get_file_info(path).type


def exists(location: str) -> bool:
    """Whether the location is a file or a directory."""
    return kind(location) != fs.FileType.NotFound


def require_file(location: str, what: str) -> None:
    """Raise InputError unless the location is a file; the message says that `what` was expected."""
    file_type = kind(location)
    if file_type == fs.FileType.Directory:
        raise InputError(f"{location}: is a directory; expected {what}")
    if file_type == fs.FileType.NotFound:
        raise InputError(f"{location}: no such file; expected {what}")


def names_in(directory: str) -> list[str]:
    """Sorted base names in a directory; empty if it does not exist.

    Raises:
        InputError: the location is a file.
    """
    filesystem, path = resolve(directory)
    if filesystem.get_file_info(path).type == fs.FileType.File:
        raise InputError(f"{directory}: is a file; expected a folder")
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in infos)


def files_below(directory: str) -> list[str]:
    """Sorted relative paths of all files below a directory; empty if it does not exist."""
    filesystem, path = resolve(directory)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    return sorted(info.path.removeprefix(path).lstrip("/") for info in infos if info.type == fs.FileType.File)


def sizes_in(directory: str) -> dict[str, int]:
    """Size in bytes of each file in a directory, by base name; empty if the directory does not exist."""
    filesystem, path = resolve(directory)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return {info.base_name: info.size for info in infos if info.type == fs.FileType.File}


def read_bytes(location: str) -> bytes:
    """Read a whole file."""
    filesystem, path = resolve(location)
    # By default, pyarrow decompresses files named .gz.
    with filesystem.open_input_stream(path, compression=None) as stream:
        return stream.read()


def write_bytes(location: str, content: bytes | pa.Buffer) -> None:
    """Write a whole file atomically: readers see all of it or nothing."""
    with _atomic_stream(location) as stream:
        stream.write(content)


@contextlib.contextmanager
def written_whole(location: str) -> Iterator[IO[bytes]]:
    """A file to write in pieces, which readers see only after the block has ended."""
    # Closing an object store's stream publishes the object, even after an error: the pieces go to disk first.
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        with _atomic_stream(location) as stream:
            shutil.copyfileobj(file, stream, 1 << 20)


@contextlib.contextmanager
def _atomic_stream(location: str) -> Iterator[Any]:
    """A stream to a new file: a local one is renamed into place, object stores publish whole objects only."""
    filesystem, path = resolve(location)
    parent, _, name = path.rpartition("/")
    is_local = isinstance(filesystem, fs.LocalFileSystem)
    target = f"{parent}/.{name}.{uuid.uuid4().hex}" if is_local else path
    try:
        filesystem.create_dir(parent or "/", recursive=True)
        # By default, pyarrow compresses files named .gz.
        with filesystem.open_output_stream(target, compression=None) as stream:
            yield stream
        if is_local:
            # Without this, a file can be empty after a power failure although its name is there.
            _flush_to_disk(target)
            os.replace(target, path)  # noqa: PTH105 - both are plain strings
            _flush_to_disk(parent or "/")
    except OSError as error:
        # A full disk or a lost network: Arrow's message does not say where.
        raise OSError(error.errno, f"{location}: {error.strerror or error}") from error
    finally:
        if is_local:
            Path(target).unlink(missing_ok=True)


def _flush_to_disk(path: str) -> None:
    """Wait until a file, or the names in a folder, are on the disk; some file systems cannot say so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parquet_batches(location: str, columns: Sequence[str] | None, size: int) -> Iterator[pa.RecordBatch]:
    """Read a Parquet file in batches of at most `size` rows."""
    filesystem, path = resolve(location)
    with filesystem.open_input_file(path) as content:
        file = pq.ParquetFile(content)
        for group in range(file.num_row_groups):
            # Given all row groups at once, pyarrow holds the content of the whole file.
            yield from file.iter_batches(size, row_groups=[group], columns=None if columns is None else list(columns))


def unreadable_parquet(locations: Iterable[str]) -> list[str]:
    """Those of the Parquet files that have no valid footer, as a machine leaves them that loses power."""
    locations = list(locations)
    # Each footer is a round trip to the object store.
    with ThreadPoolExecutor(_THREADS) as threads:
        readable = threads.map(_has_footer, locations)
        return [location for location, is_readable in zip(locations, readable, strict=True) if not is_readable]


def _has_footer(location: str) -> bool:
    filesystem, path = resolve(location)
    try:
        pq.read_metadata(path, filesystem=filesystem)
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        # An object store publishes whole objects only: there it is the network.
        if isinstance(error, OSError) and not isinstance(filesystem, fs.LocalFileSystem):
            raise
        return False
    return True


def upload(directory: Path, location: str) -> None:
    """Copy the files and folders in a local directory to a location."""
    filesystem, path = resolve(location)
    filesystem.create_dir(path, recursive=True)
    fs.copy_files(str(directory), path, fs.LocalFileSystem(), filesystem)


@contextlib.contextmanager
def local_copy(location: str, names: Iterable[str] | None = None) -> Iterator[Path]:
    """A local directory with the same files: the directory itself, or a temporary copy of a remote one.

    Args:
        location: path or URI of the directory.
        names: the files to copy, relative to it; default: all.
    """
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
    """Delete a file, or a directory with its content; a missing one is ignored."""
    filesystem, path = resolve(location)
    file_type = filesystem.get_file_info(path).type
    if file_type == fs.FileType.Directory:
        filesystem.delete_dir(path)
    elif file_type == fs.FileType.File:
        filesystem.delete_file(path)


def fingerprint(location: str) -> str:
    """Identifies a version of a file: SHA-256 of a local file; of a remote one its address, size and version.

    The version is the modification time, or the ETag of a web server. Without either, the content is read.
    """
    filesystem, path = resolve(location)
    if isinstance(filesystem, fs.LocalFileSystem):
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    info = filesystem.get_file_info(path)
    version = info.mtime_ns or _etag(filesystem, path)
    if version is None:
        with filesystem.open_input_stream(path, compression=None) as stream:
            digest = hashlib.sha256()
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
            return digest.hexdigest()
    return hashlib.sha256(f"{location} {info.size} {version}".encode()).hexdigest()


def _etag(filesystem: fs.FileSystem, path: str) -> str | None:
    """The ETag of a file, if fsspec's file system gives one."""
    handler = getattr(filesystem, "handler", None)
    if not isinstance(handler, fs.FSSpecHandler):
        return None
    etag = handler.fs.info(path).get("ETag")
    # A weak one promises only that the content means the same.
    return etag if isinstance(etag, str) and not etag.startswith("W/") else None
