"""Images by position: rows hold the Parquet file and the row in it instead of the image, which is read when needed."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmgenre.tables import storage

# Index of the Parquet file, among those of its table, and of the row that hold the image; null: no image.
IMAGE_FILE, IMAGE_ROW = "image_file", "image_row"
# About 8 MB of posters.
_IMAGES_PER_BLOCK = 400


class ImageReader:
    """Reads images by their positions.

    Args:
        image_files: the files that the positions refer to.
    """

    def __init__(self, image_files: Sequence[str]):
        self._image_files = list(image_files)
        self._groups: dict[tuple[int, int], pa.ChunkedArray] = {}

    def add_images(self, rows: pa.Table) -> pa.Table:
        """The rows with a column `image`, if they have image positions."""
        if IMAGE_FILE not in rows.column_names:
            return rows
        files, places = (rows[name].fill_null(-1).to_numpy() for name in (IMAGE_FILE, IMAGE_ROW))
        return rows.append_column("image", pa.array(self.read(files, places), pa.binary()))

    def read(self, files: np.ndarray, places: np.ndarray) -> list[bytes | None]:
        """The images at N positions; None where the file is -1."""
        images: list[bytes | None] = [None] * len(files)
        for file in np.unique(files[files >= 0]):
            starts = _row_group_starts(self._image_files[file])
            groups = np.searchsorted(starts, places, side="right") - 1
            for group in np.unique(groups[files == file]):
                selected = np.flatnonzero((files == file) & (groups == group))
                found = self._group(int(file), int(group)).take(pa.array(places[selected] - starts[group]))
                for row, image in zip(selected, found.to_pylist(), strict=True):
                    images[row] = image
        return images

    def _group(self, file: int, group: int) -> pa.ChunkedArray:
        """The images of a row group; the last group is cached, because the next unit continues where this one ends."""
        if (file, group) not in self._groups:
            filesystem, path = storage.resolve(self._image_files[file])
            with filesystem.open_input_file(path) as content:
                images = pq.ParquetFile(content).read_row_group(group, columns=["image"])["image"]
            self._groups = {(file, group): images}
        return self._groups[file, group]


class StoredImages(Sequence[bytes | None]):
    """N images of a table, which stay in its files until they are read.

    Args:
        image_files: the files of the table.
        files: int, shape (N,): index of each image's file; -1: no image.
        places: int, shape (N,): row of each image in its file.
    """

    def __init__(self, image_files: Sequence[str], files: np.ndarray, places: np.ndarray):
        self._reader = ImageReader(image_files)
        self._files, self._places = files, places

    def __len__(self) -> int:
        """Number of images, missing ones included."""
        return len(self._files)

    @overload
    def __getitem__(self, row: int) -> bytes | None: ...

    @overload
    def __getitem__(self, row: slice) -> list[bytes | None]: ...

    def __getitem__(self, row: int | slice) -> bytes | list[bytes | None] | None:
        """Read one image, or several; use `blocks` to read many."""
        rows = np.atleast_1d(np.arange(len(self))[row])
        images = self._reader.read(self._files[rows], self._places[rows])
        return images if isinstance(row, slice) else images[0]

    def blocks(self) -> Iterator[tuple[np.ndarray, list[bytes]]]:
        """Row numbers and images, without the missing ones, in the order in which the files hold them."""
        order = np.lexsort((self._places, self._files))
        order = order[self._files[order] >= 0]
        for start in range(0, len(order), _IMAGES_PER_BLOCK):
            rows = order[start : start + _IMAGES_PER_BLOCK]
            contents = zip(rows, self._reader.read(self._files[rows], self._places[rows]), strict=True)
            found = [(row, content) for row, content in contents if content]
            yield np.array([row for row, _ in found], np.int64), [content for _, content in found]


def with_positions(rows: pa.Table, file_number: int, start: int) -> pa.Table:
    """Append the positions of consecutive rows of a file.

    Args:
        rows: without positions.
        file_number: index of their file in its table.
        start: number of the first row in the file.
    """
    numbers = pa.array(np.arange(start, start + len(rows), dtype=np.int32))
    file = pa.array(np.full(len(rows), file_number, np.int32))
    return rows.append_column(IMAGE_FILE, file).append_column(IMAGE_ROW, numbers)


def without_images(rows: pa.Table) -> pa.Table:
    """Drop the images of rows that have positions; where there is no image, the position becomes null."""
    has_image = rows["image"].is_valid()
    for name in (IMAGE_FILE, IMAGE_ROW):
        position = pc.if_else(has_image, rows[name], None)
        rows = rows.set_column(rows.column_names.index(name), name, position)
    return rows.drop_columns("image")


def row_group_sizes(file: str) -> list[int]:
    """Rows of each row group of a Parquet file."""
    filesystem, path = storage.resolve(file)
    metadata = pq.read_metadata(path, filesystem=filesystem)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


@lru_cache(64)
def _row_group_starts(file: str) -> np.ndarray:
    """Number of the first row of each row group."""
    return np.cumsum([0, *row_group_sizes(file)])[:-1]
