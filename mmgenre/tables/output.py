"""An output folder and the one run that writes it.

A folder holds `_started.json` while a run writes it, or after a run was killed, and `_run.json` once it is complete.
The run that writes it holds its lease.
"""

import contextlib
import enum
import fnmatch
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import ValidationError

from mmgenre.errors import InputError
from mmgenre.tables import storage
from mmgenre.tables.lease import CLAIMS, Lease
from mmgenre.tables.manifest import MANIFEST, Manifest, Recipe, package_versions, read_manifest

STARTED = "_started.json"
PARTS = "part-*.parquet"
Mode = Literal["fresh", "resume", "extend"]


class _State(enum.Enum):
    NEW = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class Output:
    """An output folder and the one run that writes it.

        output = Output(config.output, recipe, overwrite=config.overwrite)
        if output.finished is not None:
            return output.finished
        with output:
            output.write("scores.json", content)
            return output.complete(rows_in, statuses, notes, ["scores.json"])

    Creating it changes nothing and refuses a folder that must not be replaced, before any expensive work. The `with`
    block holds the lease of the folder, so that no other run writes it, deletes what is not kept and marks the folder
    unfinished; outside the block nothing can be written. A block left without `complete` leaves an unfinished output,
    which the same command resumes or replaces.

    Args:
        directory: path or URI.
        recipe: what the output is made from.
        owned: glob patterns of the names that such an output consists of; replacing it deletes nothing else.
        mode: what is kept of earlier runs. "fresh": nothing. "resume": everything from the same recipe.
            "extend": everything from the same settings, whatever the inputs and the last step were.
        overwrite: replace an output of another recipe instead of refusing it.

    Attributes:
        finished: the manifest if the folder holds a complete output of the same recipe, else None.
        keeps: whether the rows and files in the folder count: false until a run that replaces them has started.

    Raises:
        InputError: the folder holds an output of another recipe or job, or other files.
    """

    def __init__(
        self,
        directory: str,
        recipe: Recipe,
        owned: tuple[str, ...] = (PARTS,),
        *,
        mode: Mode = "fresh",
        overwrite: bool = False,
    ):
        self.directory = directory
        self.recipe = recipe
        self._owned, self._mode, self._overwrite = owned, mode, overwrite
        self._began = time.monotonic()
        self._state = _State.NEW
        self._lease: Lease | None = None
        self._stack = contextlib.ExitStack()
        self._read_state()

    def __enter__(self) -> Self:
        """Take the lease, delete what is not kept, and mark the folder unfinished.

        Raises:
            OutputInUseError: another run writes the folder.
        """
        if self._state is not _State.NEW:
            raise RuntimeError(f"{self.directory}: an Output is written once; create another one")
        with contextlib.ExitStack() as stack:
            if self._lease is None:
                stack.enter_context(self.reserved())
            self._open()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing can be written from here on."""
        self._state = _State.CLOSED
        self._stack.close()

    @contextlib.contextmanager
    def reserved(self, *, wait: bool = False) -> Iterator[None]:
        """Keep other runs from writing the folder for longer than the `with` block of the output itself.

        `finished` and `keeps` are read again, because another run may have changed the folder meanwhile.

        Args:
            wait: wait for a run that writes the folder instead of refusing.

        Raises:
            OutputInUseError: another run writes the folder.
        """
        self._lease = Lease.acquire(self.directory, self.recipe.job, wait=wait)
        try:
            self._read_state()
            yield
        finally:
            self._lease.release()
            self._lease = None

    def _read_state(self) -> None:
        existing = read_manifest(self.directory)
        is_finished = existing is not None and existing.recipe == self.recipe and not existing.missing(self.directory)
        self.finished = existing if is_finished else None
        self.keeps = self._check(existing, self._mode, overwrite=self._overwrite)

    def _open(self) -> None:
        if not self.keeps:
            self._clear()
        for name in self._matching(tuple(f".{pattern}.*" for pattern in self._owned)):
            # A killed run had not yet renamed it into place.
            storage.delete(storage.join(self.directory, name))
        self._mark_started(self.recipe)
        storage.delete(storage.join(self.directory, MANIFEST))
        self.keeps, self._state = True, _State.OPEN

    def path(self, name: str) -> str:
        """Location to write a file or a folder of the output to."""
        self.require_open()
        return storage.join(self.directory, name)

    def write(self, name: str, content: bytes) -> None:
        """Write one file of the output, whole or not at all."""
        storage.write_bytes(self.path(name), content)

    def require_open(self) -> None:
        """Raise RuntimeError outside the `with` block and after `complete`, and InputError if the lease is lost."""
        if self._state is not _State.OPEN or self._lease is None:
            raise RuntimeError(f"{self.directory}: written outside `with output:` or after `complete`")
        self._lease.require_held()

    def complete(
        self,
        rows_in: int,
        statuses: dict[str, int],
        notes: dict[str, Any],
        files: list[str],
        fingerprint: str | None = None,
    ) -> Manifest:
        """Write the manifest, which marks the output complete.

        Args:
            rows_in: rows the stage read.
            statuses: rows the stage wrote, by status.
            notes: JSON values of the stage's own.
            files: the names of what was written.
            fingerprint: equal for equal content; default: unique to this run.

        Raises:
            RuntimeError: a file is missing; the output stays incomplete.
            OutputInUseError: another run took the output over.
        """
        self.require_open()
        if self._lease is not None:
            self._lease.require_held(check_storage=True)
        manifest = Manifest(
            recipe=self.recipe,
            versions=package_versions(),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._began, 3),
            rows_in=rows_in,
            rows=sum(statuses.values()),
            statuses={name: count for name, count in statuses.items() if name},
            notes=notes,
            fingerprint=fingerprint or uuid.uuid4().hex,
            files=files,
        )
        if missing := manifest.missing(self.directory):
            raise RuntimeError(f"{self.directory}: {missing[0]} is missing; left incomplete")
        self.write(MANIFEST, manifest.model_dump_json(indent=2).encode())
        storage.delete(self.path(STARTED))
        self._state = _State.CLOSED
        return manifest

    def _check(self, existing: Manifest | None, mode: Mode, *, overwrite: bool) -> bool:
        """Whether the run keeps what is in the folder; raises InputError if it must not be replaced."""
        previous = existing.recipe if existing is not None else self._started_recipe()
        if previous is None:
            if set(storage.names_in(self.directory)).difference(self._matching((CLAIMS,))):
                raise InputError(f"{self.directory}: holds other files; choose a new or empty output folder")
            return True
        if previous.job != self.recipe.job:
            raise InputError(f"{self.directory}: holds the output of jobs/{previous.job}.py; choose another output")
        if mode == "extend":
            keeps = previous.settings == self.recipe.settings
        else:
            keeps = mode == "resume" and previous == self.recipe
        is_other = previous != self.recipe
        if is_other and not keeps and not overwrite and self._is_worth_keeping(existing, mode):
            raise InputError(
                f"{self.directory}: already holds an output made with other settings or inputs "
                f"({'; '.join(self.recipe.differences(previous))}); choose another output, or overwrite=true "
                "to replace it"
            )
        return keeps

    def _is_worth_keeping(self, existing: Manifest | None, mode: Mode) -> bool:
        """Complete outputs are, and unfinished ones of stages that could resume them."""
        return existing is not None or (mode != "fresh" and bool(self._matching(self._owned)))

    def _started_recipe(self) -> Recipe | None:
        if STARTED not in storage.names_in(self.directory):
            return None
        location = storage.join(self.directory, STARTED)
        try:
            return Recipe.model_validate_json(storage.read_bytes(location))
        except ValidationError:
            raise InputError(
                f"{location}: damaged, or from another version of mmgenre; delete the folder and run the job again"
            ) from None

    def _mark_started(self, recipe: Recipe) -> None:
        storage.write_bytes(storage.join(self.directory, STARTED), recipe.model_dump_json(indent=2).encode())

    def _clear(self) -> None:
        """Delete the previous output and nothing else; it is unfinished until all of it is gone."""
        existing = read_manifest(self.directory)
        if existing is not None:
            self._mark_started(existing.recipe)
        for name in (MANIFEST, *self._matching(self._owned), STARTED):
            storage.delete(storage.join(self.directory, name))

    def _matching(self, patterns: tuple[str, ...]) -> list[str]:
        names = storage.names_in(self.directory)
        return [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
