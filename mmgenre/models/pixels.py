"""Posters as input of a model: decoded pixels in memory, or JPEGs in Ray's object store that each batch decodes."""

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmgenre.models.movies import Batch, Movies

# Compute cost of one image in text tokens, used to size prediction batches.
_TOKENS_PER_IMAGE = 512


@dataclass(frozen=True)
class Pixels:
    """N posters of one size.

    Args:
        values: uint8, shape (N, H, W, 3); black where there is no poster.
    """

    values: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Compute cost of each poster in text tokens, shape (N,)."""
        return np.full(len(self.values), _TOKENS_PER_IMAGE)

    def take(self, rows: np.ndarray) -> "Pixels":
        """The given rows, in that order."""
        return Pixels(self.values[rows])

    def batch(self, rows: np.ndarray) -> Batch:
        """`pixels`: uint8, shape (B, 3, H, W), a quarter of the size of the floats that the model computes with."""
        return {"pixels": torch.from_numpy(self.values[rows]).permute(0, 3, 1, 2).contiguous()}


@dataclass(frozen=True)
class StoredPosters:
    """N posters as JPEGs in Ray's object store, which every process of a node shares and which spills to disk.

    Decoded, 700,000 posters of 224 x 224 pixels would take 105 GB.

    Args:
        blocks: references to uint8 arrays, each of which holds a few hundred JPEGs.
        positions: int64, shape (N, 3): block, first byte and end of each JPEG; block -1: no poster.
        height: of the decoded posters, in pixels.
        width: of the decoded posters, in pixels.
    """

    blocks: tuple[Any, ...]
    positions: np.ndarray
    height: int
    width: int

    @classmethod
    def of(cls, movies: Movies, height: int, width: int) -> "StoredPosters":
        """Put the JPEGs that can be decoded into the object store, block by block."""
        import ray  # noqa: PLC0415 - slow to import

        positions = np.full((len(movies), 3), -1, np.int64)
        blocks: list[Any] = []
        for rows, contents in movies.image_blocks():
            pixels = decoded(contents, height, width)
            kept = [entry[:2] for entry in zip(rows, contents, pixels, strict=True) if entry[2] is not None]
            ends = np.cumsum([len(content) for _, content in kept], dtype=np.int64)
            for (row, content), end in zip(kept, ends, strict=True):
                positions[row] = len(blocks), end - len(content), end
            blocks.append(ray.put(np.frombuffer(b"".join(content for _, content in kept), np.uint8)))
        return cls(tuple(blocks), positions, height, width)

    @property
    def has_image(self) -> np.ndarray:
        """Shape (N,), bool: the movie has a poster that can be decoded."""
        return self.positions[:, 0] >= 0

    @property
    def lengths(self) -> np.ndarray:
        """Compute cost of each poster in text tokens, shape (N,)."""
        return np.full(len(self.positions), _TOKENS_PER_IMAGE)

    def take(self, rows: np.ndarray) -> "StoredPosters":
        """The given rows, in that order."""
        return replace(self, positions=self.positions[rows])

    def batch(self, rows: np.ndarray) -> Batch:
        """`pixels`, as those of Pixels: uint8, shape (B, 3, H, W)."""
        import ray  # noqa: PLC0415 - slow to import

        blocks, starts, ends = self.positions[rows].T
        values = np.zeros((len(rows), self.height, self.width, 3), np.uint8)
        contents: dict[int, bytes] = {}
        for block in np.unique(blocks[blocks >= 0]):
            # One at a time: while an array is in use, the object store cannot spill it.
            content = ray.get(self.blocks[block])
            for row in np.flatnonzero(blocks == block).tolist():
                contents[row] = content[starts[row] : ends[row]].tobytes()
        for row, pixels in zip(contents, decoded(contents.values(), self.height, self.width), strict=True):
            if pixels is not None:
                values[row] = pixels
        return Pixels(values).batch(np.arange(len(rows)))


def decoded(contents: Iterable[bytes], height: int, width: int) -> Iterator[np.ndarray | None]:
    """Each JPEG's pixels, uint8, shape (height, width, 3); None where it cannot be decoded."""

    def decode(content: bytes) -> np.ndarray | None:
        try:
            image = Image.open(io.BytesIO(content), formats=("JPEG",))
            # Decodes at 1/2, 1/4 or 1/8 of the size where that is enough.
            image.draft("RGB", (width, height))
            return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
        except Exception:  # Pillow raises many kinds of errors for broken files
            return None

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        yield from threads.map(decode, contents)
