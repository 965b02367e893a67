"""The record of a complete output: the recipe it was made from, its rows, and its files."""

import platform
from importlib.metadata import version
from typing import Any

from pydantic import Field, ValidationError

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.tables import storage

MANIFEST = "_run.json"
_INPUT = "input "


class Recipe(Config):
    """Everything an output depends on: equal recipes make equal outputs.

    Args:
        job: name of the job, as in jobs/<job>.py.
        settings: the config fields that change the output.
        inputs: the fingerprint of each input, by its role.
        finish: settings of the last step, which can be repeated on the rows that are already there.
    """

    job: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    finish: dict[str, Any] = Field(default_factory=dict)

    def differences(self, other: "Recipe") -> list[str]:
        """The settings and inputs that differ, as `name: mine, not theirs`."""
        mine, theirs = self._flat, other._flat
        return [
            f"{name}: {_short(name, mine)!r}, not {_short(name, theirs)!r}"
            for name in sorted(mine | theirs)
            if mine.get(name) != theirs.get(name)
        ]

    @property
    def _flat(self) -> dict[str, Any]:
        inputs = {f"{_INPUT}{role}": fingerprint for role, fingerprint in self.inputs.items()}
        return {"job": self.job} | _flatten(self.settings) | _flatten(self.finish) | inputs


class Manifest(Config):
    """The record of a complete output.

    Args:
        recipe: what the output was made from.
        versions: of Python and of the main packages.
        finished_at: ISO 8601, UTC.
        seconds: how long the run took.
        rows_in: rows the stage read.
        rows: rows the stage wrote.
        statuses: rows by status; empty where rows have no status.
        notes: JSON values of the stage's own, such as the curation table.
        fingerprint: identifies this output as an input of later stages.
        files: names of the table's parts, or of the stage's other files.
    """

    recipe: Recipe
    versions: dict[str, str]
    finished_at: str
    seconds: float
    rows_in: int
    rows: int
    statuses: dict[str, int]
    notes: dict[str, Any]
    fingerprint: str
    files: list[str]

    def __str__(self) -> str:
        """One line: the job, its rows, the seconds it took."""
        return f"{self.recipe.job}: {self.account()}, {self.seconds:.1f} s"

    def account(self) -> str:
        """Rows in, rows out, rows per status."""
        statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(self.statuses.items()))
        return f"{self.rows_in:,} rows in, {self.rows:,} out{f' ({statuses})' if statuses else ''}"

    def missing(self, directory: str) -> list[str]:
        """Those of `files` that the folder no longer holds."""
        present = set(storage.names_in(directory))
        return [
            name
            for name in self.files
            if name not in present and ("/" not in name or not storage.exists(storage.join(directory, name)))
        ]


def read_manifest(directory: str) -> Manifest | None:
    """The manifest of a complete output; None if there is none.

    Raises:
        InputError: the manifest is damaged or from another version.
    """
    if MANIFEST not in storage.names_in(directory):
        return None
    location = storage.join(directory, MANIFEST)
    try:
        return Manifest.model_validate_json(storage.read_bytes(location))
    except ValidationError:
        raise InputError(f"{location}: not a manifest of this version of mmgenre; make the table again") from None


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape an output."""
    packages = ("mmgenre", "pyarrow", "ray", "torch", "transformers")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _short(name: str, settings: dict[str, Any]) -> Any:
    """A setting as it is shown; of a fingerprint its start."""
    value = settings.get(name)
    return value[:12] if name.startswith(_INPUT) and isinstance(value, str) else value


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
