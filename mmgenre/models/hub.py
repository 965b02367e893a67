"""Hugging Face backbones: from the hub, from a local folder, or with random weights."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from mmgenre.config import Config
from mmgenre.errors import InputError, one_line

# Where weights come from. On the command line `none` is easier to type than null.
WeightSource = Annotated[str | None, BeforeValidator(lambda value: None if value == "none" else value)]


class BackboneConfig(Config):
    """Where a backbone comes from."""

    pretrained: WeightSource = Field(description="hub name or local folder; none: random weights")
    architecture: dict[str, Any] | None = Field(
        None,
        description="transformers config with its model_type, for random weights; only with pretrained=none",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.pretrained is None and "model_type" not in (self.architecture or {}):
            raise ValueError(
                "pretrained is none, so architecture must give model_type (for example electra) and its sizes"
            )
        if self.pretrained is not None and self.architecture is not None:
            raise ValueError("architecture is for random weights; add pretrained=none, or remove architecture")
        return self

    def random_backbone(self, **defaults: Any) -> Any:
        """A backbone with random weights. `architecture` overrides the defaults.

        Raises:
            InputError: transformers cannot build the architecture.
        """
        from transformers import AutoConfig, AutoModel  # noqa: PLC0415 - slow to import

        try:
            return AutoModel.from_config(AutoConfig.for_model(**(defaults | (self.architecture or {}))))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"model.architecture: {one_line(error)}") from None


def restored_backbone(assets: Path) -> Any:
    """The backbone that the `config.json` in a checkpoint's assets describes; the caller loads its weights."""
    from transformers import AutoConfig, AutoModel  # noqa: PLC0415 - slow to import

    return AutoModel.from_config(AutoConfig.from_pretrained(assets, trust_remote_code=False))


def without_pooler(backbone: Any) -> Any:
    """The backbone, its unused pooler removed: DDP fails on parameters that get no gradient."""
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    return backbone


@contextlib.contextmanager
def loading_from_hub(field: str, source: str) -> Iterator[None]:
    """Turn errors while loading from the hub or a folder into an InputError that names the config field.

    Raises:
        InputError: loading failed; the message says how to work offline.
    """
    try:
        with quiet_hub():
            yield
    except (OSError, ValueError, KeyError) as error:
        reason = one_line(error)
        reason = reason if len(reason) < 200 else f"{reason[:200]}…"
        raise InputError(
            f"{field}: {source!r} could not be loaded ({reason}); offline, give a local folder in Hugging Face format, "
            "or model.pretrained=none with model.architecture for random weights"
        ) from None


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Silence the hub client's progress bars and retry messages; the final error says everything."""
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
