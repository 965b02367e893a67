"""Backbones of Hugging Face's: by hub name, from a local folder, or with random weights."""

import contextlib
from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from mmgenre.config import Config
from mmgenre.errors import InputError, one_line


class BackboneConfig(Config):
    """Where a backbone comes from."""

    pretrained: str | None = Field(description="hub name or local folder; none: random weights")
    architecture: dict[str, Any] | None = Field(
        None, description="transformers' config of the random weights, with its model_type; only without pretrained"
    )

    @field_validator("pretrained", mode="before")
    @classmethod
    def _none_is_null(cls, value: Any) -> Any:
        return None if value == "none" else value

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.pretrained is None and "model_type" not in (self.architecture or {}):
            raise ValueError("pretrained is none, so architecture must say model_type (such as electra) and its sizes")
        if self.pretrained is not None and self.architecture is not None:
            raise ValueError("architecture is for random weights; give pretrained=none with it, or leave it out")
        return self

    def random_backbone(self, **defaults: Any) -> Any:
        """A backbone with random weights; what its architecture does not say is taken from the defaults.

        Raises:
            InputError: it is none of transformers'.
        """
        from transformers import AutoConfig, AutoModel  # noqa: PLC0415 - slow to import

        try:
            return AutoModel.from_config(AutoConfig.for_model(**(defaults | (self.architecture or {}))))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"model.architecture: {one_line(error)}") from None


@contextlib.contextmanager
def fetching(field: str, source: str) -> Iterator[None]:
    """Within it something is loaded from the hub or a folder, which stands in a field of the configuration.

    Raises:
        InputError: it cannot be had; says how to go on without a hub.
    """
    try:
        with hub_in_silence():
            yield
    except (OSError, ValueError, KeyError) as error:
        raise InputError(_unavailable(field, source, error)) from None


@contextlib.contextmanager
def hub_in_silence() -> Iterator[None]:
    """Keep the hub's client from printing bars and each of its attempts: the error at the end says it all."""
    from huggingface_hub.utils import logging as hub  # noqa: PLC0415 - slow to import
    from transformers.utils import logging as library  # noqa: PLC0415

    verbosity = hub.get_verbosity()
    hub.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        hub.set_verbosity(verbosity)
        library.enable_progress_bar()


def _unavailable(field: str, source: str, error: Exception) -> str:
    """One line for a model or tokenizer that could not be loaded."""
    reason = one_line(error)
    reason = reason if len(reason) < 200 else f"{reason[:200]}…"
    return (
        f"{field}: {source!r} could not be loaded ({reason}); offline, give a local folder in Hugging Face format, "
        "or model.pretrained=none with model.architecture for random weights"
    )
