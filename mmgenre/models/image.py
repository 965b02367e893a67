"""Posters as pixels: decoding, augmentation, and the pixel normalisation of each set of weights."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import nn

from mmgenre.config import Config
from mmgenre.models.movies import Batch, EncodedMovies, Movies

# Compute cost of one image in text tokens, used to size prediction batches.
_TOKENS_PER_IMAGE = 512


class Normalisation(NamedTuple):
    """Mean and standard deviation per RGB channel, for values from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class AugmentConfig(Config):
    """Random augmentation of posters during training."""

    flip: bool = Field(True, description="flip horizontally with probability 0.5")
    crop: float = Field(0.8, gt=0, le=1, description="smallest share of the area kept by a random crop; 1: no crop")
    colour: float = Field(0.2, ge=0, lt=1, description="largest change of brightness, contrast and saturation")
    views: int | None = Field(
        None,
        ge=1,
        description="fixed augmented views per poster, so that frozen layers run once per view; null: new ones each "
        "epoch",
    )

    def build(self, height: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function that augments one image, uint8, shape (3, H, W)."""
        from torchvision.transforms import v2  # noqa: PLC0415 - slow to import

        steps: list[nn.Module] = []
        if self.crop < 1:
            # Keep the crop's aspect ratio close to the image's own.
            ratios = (0.9 * width / height, 1.1 * width / height)
            steps.append(v2.RandomResizedCrop((height, width), scale=(self.crop, 1), ratio=ratios))
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.colour:
            steps.append(v2.ColorJitter(self.colour, self.colour, self.colour))
        return v2.Compose(steps) if steps else nn.Identity()


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


class ImageEncoder:
    """Decodes posters and resizes them to one size, ignoring their aspect ratio.

    Args:
        height: pixels.
        width: pixels.
    """

    def __init__(self, height: int, width: int):
        self._height, self._width = height, width

    def encode(self, movies: Movies) -> EncodedMovies:
        """Pixels of all movies; black if there is no poster or it cannot be decoded."""
        values = np.zeros((len(movies), self._height, self._width, 3), np.uint8)

        def decode(row: int) -> bool:
            try:
                values[row] = self._decode(movies.images[row])
            except Exception:  # Pillow raises many kinds of errors for broken files
                return False
            return True

        rows = [row for row, content in enumerate(movies.images) if content]
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            decoded = list(threads.map(decode, rows))
        has_image = np.zeros(len(movies), bool)
        has_image[rows] = decoded
        return EncodedMovies(np.zeros(len(movies), bool), has_image, (Pixels(values),))

    def _decode(self, content: bytes | None) -> np.ndarray:
        """Shape (H, W, 3), uint8."""
        image = Image.open(io.BytesIO(content or b""), formats=("JPEG",))
        # Decodes at 1/2, 1/4 or 1/8 of the size where that is enough.
        image.draft("RGB", (self._width, self._height))
        return np.asarray(image.convert("RGB").resize((self._width, self._height), Image.Resampling.BILINEAR))


class Preprocessing(nn.Module):
    """Augments pixels in training mode, then normalizes them.

    Args:
        normalisation: the one that the weights were trained with.
        augmentation: augments one image; None: no augmentation.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, normalisation: Normalisation, augmentation: Callable[[torch.Tensor], torch.Tensor] | None = None
    ):
        super().__init__()
        self.augmentation = augmentation
        for name, values in normalisation._asdict().items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Float, shape (B, 3, H, W), from uint8 of the same shape."""
        if self.training and self.augmentation is not None:
            pixels = torch.stack([self.augmentation(image) for image in pixels])
        # Convolutions are twice as fast in channels-last layout.
        return ((pixels.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
