"""The lease of an output: one run at a time writes a folder, on local disks, shared disks and object stores alike.

Each run that wants to write puts a claim, a small file, into the folder and renews it every few seconds. A run holds
the folder once it sees no other claim. Of two runs that see each other wait, the later one withdraws. This needs only
what local disks, NFS, S3 and GCS all give: a listing shows every file that was written before. Machines do not compare
their clocks: a run is dead if its claim does not change while another run watches it.

Source: Lamport's bakery algorithm (doi:10.1145/361082.361093), with a timeout for runs that die.
"""

import contextlib
import fnmatch
import logging
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from mmgenre.config import Config
from mmgenre.errors import InputError
from mmgenre.tables import storage

CLAIMS = "_claim-*.json"
# A claim is renewed every _BEAT_S seconds; one that stays the same for _DEAD_S seconds belongs to a dead run.
_BEAT_S, _DEAD_S, _POLL_S, _WAIT_S = 10.0, 60.0, 0.2, 1.0
_log = logging.getLogger(__name__)


class Claim(Config):
    """A run that writes a folder, or wants to.

    Args:
        run: unique to the run.
        job: name of the job, as in jobs/<job>.py.
        host: name of its machine.
        system: identifies the running system in which `pid` is valid.
        pid: process id.
        process_start: tells the process from a later one with the same id.
        since: when the run claimed the folder, ISO 8601, UTC.
        holds: whether the run writes the folder.
        beat: number of renewals.
    """

    run: str
    job: str
    host: str
    system: str
    pid: int
    process_start: str
    since: str
    holds: bool = False
    beat: int = 0

    @classmethod
    def of_this_process(cls, job: str) -> Self:
        """A new claim."""
        return cls(
            run=uuid.uuid4().hex,
            job=job,
            host=socket.gethostname(),
            system=_system(),
            pid=os.getpid(),
            process_start=_process_start(os.getpid()),
            since=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    def comes_before(self, other: "Claim") -> bool:
        """Whether this run takes the folder if both wait for it."""
        return (self.since, self.run) < (other.since, other.run)

    def __str__(self) -> str:
        """Who it is, for an error message."""
        return f"jobs/{self.job}.py, process {self.pid} on {self.host}, since {self.since[:19]} UTC"


class OutputInUseError(InputError):
    """Another run writes the output."""


class Lease:
    """The right to write a folder, from `acquire` to `release`.

    Args:
        directory: path or URI.
        job: name of the job.
    """

    def __init__(self, directory: str, job: str):
        self._directory = directory
        self._claim = Claim.of_this_process(job)
        self._released = threading.Event()
        self._write_lock = threading.Lock()
        self._is_lost = False

    @classmethod
    def acquire(cls, directory: str, job: str, *, wait: bool = False) -> Self:
        """Take the lease, if need be from a dead run.

        Args:
            directory: path or URI.
            job: name of the job.
            wait: wait for a live run to end instead of refusing.

        Raises:
            OutputInUseError: a live run holds it.
        """
        while True:
            lease = cls(directory, job)
            try:
                lease._acquire()
                return lease
            except OutputInUseError:
                if not wait:
                    raise
            time.sleep(_WAIT_S)

    def release(self) -> None:
        """Give the lease back."""
        self._released.set()
        # A claim that cannot be deleted now counts as dead soon.
        with self._write_lock, contextlib.suppress(OSError):
            storage.delete(self._location(self._claim))

    def require_held(self, *, check_storage: bool = False) -> None:
        """Raise OutputInUseError if another run has taken the lease over, which it does when a run stops responding."""
        if check_storage:
            self._check_storage()
        if self._is_lost:
            raise OutputInUseError(
                f"{self._directory}: another run took over this output, because this one did not respond for "
                f"{_DEAD_S:.0f} seconds; wait for that run, or choose another output"
            )

    def _acquire(self) -> None:
        self._put()
        threading.Thread(target=self._renew, name="lease", daemon=True).start()
        try:
            watch = _Watch(self._directory)
            while others := self._live_others(watch):
                time.sleep(_POLL_S)
                watch.tell(others)
            self._claim = self._claim.model_copy(update={"holds": True})
            self._put()
        except BaseException:
            self.release()
            raise

    def _live_others(self, watch: "_Watch") -> list[Claim]:
        """Claims of other runs that may be alive; deletes those of dead runs.

        Raises:
            OutputInUseError: a live run holds the folder, or waits for it and came first.
        """
        others = []
        for claim in self._others():
            is_live = watch.is_live(claim)
            if is_live is False:
                storage.delete(self._location(claim))
            elif is_live and (claim.holds or claim.comes_before(self._claim)):
                raise OutputInUseError(
                    f"{self._directory}: another run writes this output ({claim}); wait for it or stop it, or choose "
                    "another output"
                )
            else:
                others.append(claim)
        return others

    def _others(self) -> list[Claim]:
        return [claim for claim in claims_in(self._directory) if claim.run != self._claim.run]

    def _renew(self) -> None:
        while not self._released.wait(_BEAT_S) and not self._is_lost:
            # A disk or network that fails for a moment: the next renewal is early enough.
            with contextlib.suppress(OSError):
                self._check_storage()
                self._put()

    def _check_storage(self) -> None:
        successors = (claim for claim in self._others() if claim.holds and self._claim.comes_before(claim))
        if not storage.exists(self._location(self._claim)) or any(successors):
            self._is_lost = True

    def _put(self) -> None:
        """Write the claim with a new beat, unless it was released or lost."""
        with self._write_lock:
            if not self._released.is_set() and not self._is_lost:
                self._claim = self._claim.model_copy(update={"beat": self._claim.beat + 1})
                storage.write_bytes(self._location(self._claim), self._claim.model_dump_json().encode())

    def _location(self, claim: Claim) -> str:
        return storage.join(self._directory, f"_claim-{claim.run}.json")


class _Watch:
    """Tells from processes of this machine and from renewals whether other runs are alive."""

    def __init__(self, directory: str):
        self._directory = directory
        self._seen: dict[str, tuple[int, float]] = {}
        self._has_told = False

    def is_live(self, claim: Claim) -> bool | None:
        """Whether the run of a claim is alive; None: not known yet."""
        if claim.system == _system():
            return bool(claim.process_start) and _process_start(claim.pid) == claim.process_start
        beat, since = self._seen.setdefault(claim.run, (claim.beat, time.monotonic()))
        if claim.beat != beat:
            return True
        return False if time.monotonic() - since > _DEAD_S else None

    def tell(self, others: list[Claim]) -> None:
        """Say once why the run waits."""
        if not self._has_told and any(claim.holds for claim in others):
            _log.warning("%s: waiting up to %.0f s to see whether %s is alive", self._directory, _DEAD_S, others[0])
            self._has_told = True


def claims_in(directory: str) -> list[Claim]:
    """The claims in a folder."""
    claims = []
    for name in fnmatch.filter(storage.names_in(directory), CLAIMS):
        with contextlib.suppress(FileNotFoundError):
            claims.append(_read(storage.join(directory, name)))
    return claims


def _read(location: str) -> Claim:
    try:
        return Claim.model_validate_json(storage.read_bytes(location))
    except ValidationError:
        # Of another version: the watch decides, by its never being renewed.
        run = location.rpartition("/_claim-")[2].removesuffix(".json")
        return Claim(run=run, job="?", host="?", system="", pid=0, process_start="", since="?", holds=True)


def _system() -> str:
    """Identifies the running system, and the container if it numbers its processes itself."""
    names = [socket.gethostname()]
    with contextlib.suppress(OSError):
        names.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        names.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(names)


def _process_start(pid: int) -> str:
    """Tells a live process from a later one with its id; empty if there is none."""
    try:
        # After the command in brackets: the state, and as its twentieth value the start in clock ticks since boot.
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self").exists() or not _answers(pid) else "alive"
    return "" if values[0] in "ZX" else values[19]


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
