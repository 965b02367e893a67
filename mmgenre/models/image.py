"""Posters as pixels: decoding, augmentation for training, and the normalisation of each set of weights."""

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
from mmgenre.models.movies import Batch, Encoded, Movies

# What one image costs beside one token of text: by this, batches are cut for prediction.
_TOKENS_PER_IMAGE = 512


class Normalisation(NamedTuple):
    """Mean and standard deviation of red, green and blue, of values from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class AugmentConfig(Config):
    """Posters are changed at random while a model learns."""

    flip: bool = Field(True, description="left and right, half of the time")
    crop: float = Field(0.8, gt=0, le=1, description="smallest share of the area that is kept; 1: all of it")
    colour: float = Field(0.2, ge=0, lt=1, description="largest change of brightness, contrast and saturation")
    views: int | None = Field(
        None,
        ge=1,
        description="of each poster, kept for all epochs, so that frozen layers compute them once; null: new ones",
    )

    def build(self, height: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Changes one image, uint8, shape (3, H, W)."""
        from torchvision.transforms import v2  # noqa: PLC0415 - slow to import

        steps: list[nn.Module] = []
        if self.crop < 1:
            steps.append(v2.RandomResizedCrop((height, width), scale=(self.crop, 1), ratio=_ratios(height, width)))
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.colour:
            steps.append(v2.ColorJitter(self.colour, self.colour, self.colour))
        return v2.Compose(steps) if steps else nn.Identity()


def _ratios(height: int, width: int) -> tuple[float, float]:
    """Widths per height of a crop, not far from the image's own."""
    return 0.9 * width / height, 1.1 * width / height


@dataclass(frozen=True)
class Pixels:
    """N posters, all of one size.

    Args:
        values: uint8, shape (N, H, W, 3); black where there is none.
    """

    values: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Shape (N,): the cost of each, in tokens of text."""
        return np.full(len(self.values), _TOKENS_PER_IMAGE)

    def take(self, rows: np.ndarray) -> "Pixels":
        """Some of the posters, in the order of the rows."""
        return Pixels(self.values[rows])

    def batch(self, rows: np.ndarray) -> Batch:
        """`pixels`: uint8, shape (B, 3, H, W), a fourth of the bytes of what the model makes of them."""
        return {"pixels": torch.from_numpy(self.values[rows]).permute(0, 3, 1, 2).contiguous()}


class ImageEncoder:
    """Decodes posters, and resizes them to one size whatever their shape.

    Args:
        height: pixels.
        width: pixels.
    """

    def __init__(self, height: int, width: int):
        self._height, self._width = height, width

    def encode(self, movies: Movies) -> Encoded:
        """Pixels; black ones where there is no poster, or none that can be decoded."""
        values = np.zeros((len(movies), self._height, self._width, 3), np.uint8)

        def decode(row: int, content: bytes) -> bool:
            try:
                values[row] = self._decode(content)
            except Exception:  # a broken file makes Pillow raise nearly everything
                return False
            return True

        rows = [row for row, content in enumerate(movies.images) if content]
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            good = list(threads.map(decode, rows, [movies.images[row] for row in rows]))
        has_image = np.zeros(len(movies), bool)
        has_image[rows] = good
        return Encoded(np.zeros(len(movies), bool), has_image, (Pixels(values),))

    def _decode(self, content: bytes) -> np.ndarray:
        """Shape (H, W, 3), uint8."""
        image = Image.open(io.BytesIO(content), formats=("JPEG",))
        # Decoded at 1/2, 1/4 or 1/8 of its size where that is enough.
        image.draft("RGB", (self._width, self._height))
        return np.asarray(image.convert("RGB").resize((self._width, self._height), Image.Resampling.BILINEAR))


class Preparation(nn.Module):
    """Pixels as the weights know them; changed at random in training mode.

    Args:
        normalisation: of the images that the weights were learned from.
        augmentation: changes one image; null: none is changed.
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
        # Convolutions take half the time where the channels lie side by side.
        return ((pixels.float() / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
