"""The output folder of a stage: what it is made of, whether it is complete, and when it may be replaced.

A folder holds `_started.json` while a run is, or was, writing it, and `_run.json` once it is complete.
"""

import fnmatch
import platform
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from pydantic import Field, ValidationError

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.tables import storage

MANIFEST = "_run.json"
STARTED = "_started.json"
Keep = Literal["nothing", "unfinished", "all"]


class Recipe(Config):
    """What an output is made of: the same recipe makes the same output.

    `inputs` holds the fingerprint of each input, by its role; `finish` the settings of a last step that can be done
    again on what is there.
    """

    job: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    finish: dict[str, Any] = Field(default_factory=dict)

    def differences(self, other: "Recipe") -> list[str]:
        """Each setting or input in which two recipes differ, as `name: this, not that`."""
        mine, theirs = self._flat, other._flat
        return [
            f"{name}: {mine.get(name)!r}, not {theirs.get(name)!r}"
            for name in sorted(mine | theirs)
            if mine.get(name) != theirs.get(name)
        ]

    @property
    def _flat(self) -> dict[str, Any]:
        inputs = {f"input {role}": fingerprint[:12] for role, fingerprint in self.inputs.items()}
        return {"job": self.job} | _flatten(self.settings) | _flatten(self.finish) | inputs


class Manifest(Config):
    """The record of a complete output.

    `statuses` counts rows by status (empty where rows have none), `notes` holds what the stage wants
    remembered, such as the curation table, `files` the parts of a table.
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
        """One line: what it is, its rows, the seconds it took."""
        return f"{self.recipe.job}: {self.account()}, {self.seconds:.1f} s"

    def account(self) -> str:
        """Rows in, rows out, rows for each status."""
        statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(self.statuses.items()))
        return f"{self.rows_in:,} rows in, {self.rows:,} out{f' ({statuses})' if statuses else ''}"


class Output:
    """An output folder being written by one run.

    Args:
        directory: path or URI.
        recipe: what the output is made of.
        owned: glob patterns of the names that make up such an output: all that replacing it deletes.
    """

    def __init__(self, directory: str, recipe: Recipe, owned: tuple[str, ...]):
        self.directory = directory
        self.recipe = recipe
        self._owned = owned
        self._began = time.monotonic()

    def begin(self, *, overwrite: bool = False, keep: Keep = "nothing") -> Manifest | None:
        """Make the folder ready, or return the manifest of an output already complete from the same recipe.

        Args:
            overwrite: replace an output made from another recipe instead of refusing.
            keep: what of earlier runs stays: "nothing", all of an "unfinished" run of the same recipe,
                or "all" that was made with the same settings, whatever the inputs and the last step were: an output
                that grows.

        Raises:
            InputError: the folder holds an output of another recipe, or something else altogether.
        """
        found = self.finished()
        if found is None:
            self.start(keeps=self.keeps(overwrite=overwrite, keep=keep))
        return found

    def finished(self) -> Manifest | None:
        """The manifest of an output that is complete, and made from the same recipe."""
        found = read_manifest(self.directory)
        return found if found is not None and found.recipe == self.recipe else None

    def keeps(self, *, overwrite: bool, keep: Keep) -> bool:
        """Whether a run would keep what is there; changes nothing. Arguments and errors are those of `begin`."""
        found = read_manifest(self.directory)
        previous = found.recipe if found is not None else self._started()
        if previous is None:
            self._require_empty()
            return True
        if previous.job != self.recipe.job:
            raise InputError(f"{self.directory}: holds what jobs/{previous.job}.py made; choose another output")
        keeps = self._goes_on(previous, unfinished=found is None, keep=keep)
        if not keeps and not overwrite and (found is not None or (keep != "nothing" and self._owned_names())):
            raise InputError(self._refusal(previous))
        return keeps

    def start(self, *, keeps: bool) -> None:
        """Mark the folder as being written, after clearing it of what is not kept."""
        if not keeps:
            self._clear()
        for name in self._torn_names():
            storage.delete(self.path(name))
        storage.write_bytes(self.path(STARTED), self.recipe.model_dump_json(indent=2).encode())
        storage.delete(self.path(MANIFEST))

    def path(self, name: str) -> str:
        """The location of something inside the folder."""
        return storage.join(self.directory, name)

    def complete(
        self,
        rows_in: int,
        statuses: dict[str, int],
        notes: dict[str, Any],
        files: list[str],
        fingerprint: str | None = None,
    ) -> Manifest:
        """Write the manifest, and so mark the output complete.

        Args:
            rows_in: the rows that the stage read.
            statuses: its own rows, counted by status.
            notes: JSON values to remember.
            files: the parts of a table.
            fingerprint: equal for equal content; by default every run makes another output.
        """
        manifest = Manifest(
            recipe=self.recipe,
            versions=_versions(),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._began, 3),
            rows_in=rows_in,
            rows=sum(statuses.values()),
            statuses={name: count for name, count in statuses.items() if name},
            notes=notes,
            fingerprint=fingerprint or uuid.uuid4().hex,
            files=files,
        )
        storage.write_bytes(self.path(MANIFEST), manifest.model_dump_json(indent=2).encode())
        storage.delete(self.path(STARTED))
        return manifest

    def _started(self) -> Recipe | None:
        if STARTED not in storage.names_in(self.directory):
            return None
        return Recipe.model_validate_json(storage.read_bytes(self.path(STARTED)))

    def _goes_on(self, previous: Recipe, *, unfinished: bool, keep: Keep) -> bool:
        if keep == "all":
            return previous.settings == self.recipe.settings
        return keep == "unfinished" and unfinished and previous == self.recipe

    def _require_empty(self) -> None:
        if storage.names_in(self.directory):
            raise InputError(f"{self.directory}: holds other files; choose a new or empty output folder")

    def _refusal(self, found: Recipe) -> str:
        return (
            f"{self.directory}: already holds an output made otherwise ({'; '.join(self.recipe.differences(found))}); "
            "choose another output, or overwrite=true to replace it"
        )

    def _clear(self) -> None:
        """Remove what such an output consists of and nothing else: an unfinished output until all of it is gone."""
        found = read_manifest(self.directory)
        if found is not None:
            storage.write_bytes(self.path(STARTED), found.recipe.model_dump_json(indent=2).encode())
        for name in (MANIFEST, *self._owned_names(), STARTED):
            storage.delete(self.path(name))

    def _owned_names(self) -> list[str]:
        names = storage.names_in(self.directory)
        return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in self._owned)]

    def _torn_names(self) -> list[str]:
        """Files that a killed run was writing, not yet under their own names."""
        names = storage.names_in(self.directory)
        return [name for name in names if any(fnmatch.fnmatch(name, f".{pattern}.*") for pattern in self._owned)]


def read_manifest(directory: str) -> Manifest | None:
    """The manifest of a complete output, or None.

    Raises:
        InputError: there is a manifest, and it cannot be understood.
    """
    if MANIFEST not in storage.names_in(directory):
        return None
    location = storage.join(directory, MANIFEST)
    try:
        return Manifest.model_validate_json(storage.read_bytes(location))
    except ValidationError:
        raise InputError(f"{location}: not a manifest of this version of mmgenre; make the table again") from None


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _versions() -> dict[str, str]:
    packages = ("mmgenre", "pyarrow", "ray", "torch", "transformers")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
