"""Tables on disk: bounded Parquet files, and a manifest written last that says the table is complete.

A table directory holds `part-*.parquet` and either `_started.json` (a run is, or was, writing it) or
`_run.json` (complete). Parts appear whole or not at all, so a killed run leaves a valid prefix.
"""

import platform
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pydantic import ValidationError

from mmgenre import storage
from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.schema import conform

MANIFEST = "_run.json"
_STARTED = "_started.json"
Keep = Literal["nothing", "unfinished", "all"]


class Recipe(Config):
    """What a table is made of: the same recipe makes the same table.

    `inputs` holds the fingerprint of each input, by its role.
    """

    job: str
    settings: dict[str, Any]
    inputs: dict[str, str]

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
        return {"job": self.job} | self.settings | inputs


class Manifest(Config):
    """The record of a complete table: `statuses` counts rows by status (empty where rows have none),
    `notes` holds what the stage wants remembered, such as the curation table.
    """

    recipe: Recipe
    versions: dict[str, str]
    finished_at: str
    seconds: float
    rows: int
    statuses: dict[str, int]
    notes: dict[str, Any]
    fingerprint: str
    files: list[str]

    def summary(self) -> str:
        """One line: rows in all, rows for each status, seconds."""
        statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(self.statuses.items()))
        return f"{self.recipe.job}: {self.rows:,} rows{f' ({statuses})' if statuses else ''}, {self.seconds:.1f} s"


class TableWriter:
    """A table directory being written by one run.

    Args:
        directory: path or URI of the table.
        schema: what every part must conform to.
        recipe: what the table is made of.
    """

    def __init__(self, directory: str, schema: pa.Schema, recipe: Recipe):
        self.directory = directory
        self._schema = schema
        self._recipe = recipe
        self._began = time.monotonic()

    def begin(self, *, overwrite: bool = False, keep: Keep = "nothing") -> Manifest | None:
        """Make the directory ready, or return the manifest of a table already complete from the same recipe.

        Args:
            overwrite: replace a table made from another recipe instead of refusing.
            keep: which parts of earlier runs stay: "nothing", those of an "unfinished" run of the same
                recipe, or "all" those made with the same settings, whatever the inputs were: a table that grows.

        Raises:
            InputError: the directory holds a table of another recipe, or something that is no table.
        """
        found = read_manifest(self.directory)
        if found is not None and found.recipe == self._recipe:
            return found
        previous = found.recipe if found is not None else self._started()
        if previous is None:
            self._require_empty()
        elif not self._goes_on(previous, unfinished=found is None, keep=keep):
            if not overwrite and (found is not None or keep != "nothing"):
                raise InputError(_refusal(self.directory, self._recipe, previous))
            self._clear()
        content = self._recipe.model_dump_json(indent=2).encode()
        storage.write_bytes(storage.join(self.directory, _STARTED), content)
        storage.delete(storage.join(self.directory, MANIFEST))
        return None

    def write(self, table: pa.Table) -> None:
        """Add one part; a table without rows adds none."""
        if table.num_rows:
            write_part(table, self.directory, self._schema)

    def done(self, columns: Sequence[str] = ("imdb_id",)) -> pa.Table:
        """Columns of all rows written so far, in this run or in the one it goes on from."""
        return _scan(self.directory, _parts(self.directory), self._schema).to_table(columns=list(columns))

    def finish(self, *, expected_rows: int | None = None, notes: dict[str, Any] | None = None) -> Manifest:
        """Check the rows, write the manifest, and so mark the table complete.

        Args:
            expected_rows: the number of rows the table must have; ids must be distinct in any case.
            notes: JSON values to remember.

        Raises:
            RuntimeError: rows are missing or doubled: a bug, and the table stays incomplete.
        """
        files = _parts(self.directory)
        if not files:
            files = [write_part(self._schema.empty_table(), self.directory, self._schema)]
        columns = ["imdb_id", "status"] if "status" in self._schema.names else ["imdb_id"]
        rows = self.done(columns)
        _check_rows(self.directory, rows["imdb_id"], expected_rows)
        manifest = Manifest(
            recipe=self._recipe,
            versions={"python": platform.python_version()}
            | {name: version(name) for name in ("mmgenre", "ray", "pyarrow")},
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._began, 3),
            rows=rows.num_rows,
            statuses=_counts(rows["status"]) if "status" in columns else {},
            notes=notes or {},
            fingerprint=uuid.uuid4().hex,
            files=files,
        )
        content = manifest.model_dump_json(indent=2).encode()
        storage.write_bytes(storage.join(self.directory, MANIFEST), content)
        storage.delete(storage.join(self.directory, _STARTED))
        return manifest

    def _started(self) -> Recipe | None:
        if _STARTED not in storage.names_in(self.directory):
            return None
        return Recipe.model_validate_json(storage.read_bytes(storage.join(self.directory, _STARTED)))

    def _goes_on(self, previous: Recipe, *, unfinished: bool, keep: Keep) -> bool:
        if keep == "all":
            return previous.job == self._recipe.job and previous.settings == self._recipe.settings
        return keep == "unfinished" and unfinished and previous == self._recipe

    def _require_empty(self) -> None:
        if storage.names_in(self.directory):
            raise InputError(f"{self.directory}: holds files that are no table; choose a new or empty output folder")

    def _clear(self) -> None:
        """Remove what a table consists of, the manifest first, and nothing else."""
        names = storage.names_in(self.directory)
        for name in [name for name in (MANIFEST, _STARTED) if name in names] + _parts(self.directory):
            storage.delete(storage.join(self.directory, name))


class Table:
    """A complete table.

    Raises:
        InputError: nothing is there, it is not complete, or it is a table of another kind.
    """

    def __init__(self, directory: str, schema: pa.Schema | None = None):
        self.directory = directory
        self.manifest = _require_manifest(directory)
        if schema is not None:
            self._check(schema)

    @property
    def files(self) -> list[str]:
        """Locations of the parts."""
        return [storage.join(self.directory, name) for name in self.manifest.files]

    @cached_property
    def dataset(self) -> pads.Dataset:
        """The parts as one pyarrow dataset."""
        return _scan(self.directory, self.manifest.files, None)

    def read(self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None) -> pa.Table:
        """The rows, or some columns of some rows, in memory."""
        return self.dataset.to_table(columns=None if columns is None else list(columns), filter=filter)

    def _check(self, schema: pa.Schema) -> None:
        missing = [name for name in schema.names if name not in self.dataset.schema.names]
        if missing:
            raise InputError(
                f"{self.directory}: a table made by jobs/{self.manifest.recipe.job}.py, without the columns "
                f"{', '.join(missing)}; expected the columns {', '.join(schema.names)}"
            )


def read_manifest(directory: str) -> Manifest | None:
    """The manifest of a complete table, or None.

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


def write_part(table: pa.Table, directory: str, schema: pa.Schema) -> str:
    """Write one part, whole or not at all; returns its file name."""
    name = f"part-{uuid.uuid4().hex}.parquet"
    sink = pa.BufferOutputStream()
    pq.write_table(conform(table, schema), sink, compression="zstd")
    storage.write_bytes(storage.join(directory, name), sink.getvalue())
    return name


def _parts(directory: str) -> list[str]:
    return [name for name in storage.names_in(directory) if name.startswith("part-") and name.endswith(".parquet")]


def _scan(directory: str, names: Iterable[str], schema: pa.Schema | None) -> pads.Dataset:
    filesystem, path = storage.resolve(directory)
    files = [storage.join(path, name) for name in names]
    if not files and schema is not None:
        return pads.dataset(schema.empty_table())
    return pads.dataset(files, filesystem=filesystem, format="parquet", schema=schema)


def _require_manifest(directory: str) -> Manifest:
    manifest = read_manifest(directory)
    if manifest is not None:
        return manifest
    if _STARTED in storage.names_in(directory):
        raise InputError(f"{directory}: not complete; run the job that makes it again, it goes on where it was")
    raise InputError(f"{directory}: no table there; expected a folder with {MANIFEST}, as the jobs write it")


def _refusal(directory: str, recipe: Recipe, found: Recipe) -> str:
    return (
        f"{directory}: already holds a table made otherwise ({'; '.join(recipe.differences(found))}); "
        "choose another output, or overwrite=true to replace it"
    )


def _check_rows(directory: str, ids: pa.ChunkedArray, expected: int | None) -> None:
    distinct = pc.count_distinct(ids).as_py()
    if distinct != len(ids) or (expected is not None and expected != len(ids)):
        wanted = "" if expected is None else f", expected {expected:,}"
        raise RuntimeError(f"{directory}: {len(ids):,} rows with {distinct:,} distinct ids{wanted}; left incomplete")


def _versions() -> dict[str, str]:
    packages = ("mmgenre", "pyarrow", "ray", "torch", "transformers")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _counts(statuses: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in statuses.value_counts().to_pylist()}
