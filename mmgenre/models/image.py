"""Posters as pixels: decoding, augmentation, and the pixel normalisation of each set of weights."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import nn

from mmgenre.config import Config
from mmgenre.models.movies import EncodedMovies, Movies
from mmgenre.models.pixels import Pixels, StoredPosters, decoded
from mmgenre.tables.images import StoredImages

# Most pixels of a split that are held decoded.
_MAX_PIXEL_BYTES = 4 * 2**30


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


class ImageEncoder:
    """Decodes posters and resizes them to one size, ignoring their aspect ratio.

    Args:
        height: pixels.
        width: pixels.
    """

    def __init__(self, height: int, width: int):
        self._height, self._width = height, width

    def encode(self, movies: Movies) -> EncodedMovies:
        """Pixels of all movies; black if there is no poster or it cannot be decoded.

        Posters that stay in the files of their table, and that would take more than 4 GiB, are decoded batch by batch.
        """
        has_text = np.zeros(len(movies), bool)
        num_bytes = len(movies) * self._height * self._width * 3
        if isinstance(movies.images, StoredImages) and num_bytes > _MAX_PIXEL_BYTES:
            stored = StoredPosters.of(movies, self._height, self._width)
            return EncodedMovies(has_text, stored.has_image, (stored,))
        values = np.zeros((len(movies), self._height, self._width, 3), np.uint8)
        has_image = np.zeros(len(movies), bool)
        for rows, contents in movies.image_blocks():
            for row, pixels in zip(rows, decoded(contents, self._height, self._width), strict=True):
                if pixels is not None:
                    values[row], has_image[row] = pixels, True
        return EncodedMovies(has_text, has_image, (Pixels(values),))


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
