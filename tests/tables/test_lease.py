"""One run at a time writes an output: another one is refused, and takes over from a dead one."""

import signal
import subprocess
import sys
import threading
import time

import object_store
import pytest

from mmgenre.errors import InputError
from mmgenre.tables import lease, storage
from mmgenre.tables.lease import Lease, OutputInUseError, claims_in

HOLD = """
import sys, time
from mmgenre.tables.lease import Lease
Lease.acquire(sys.argv[1], "tag")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def fast(monkeypatch):
    """Renewals every 50 ms, and a run is dead after 600 ms without one."""
    for name, seconds in {"_BEAT_S": 0.05, "_DEAD_S": 0.6, "_POLL_S": 0.01, "_WAIT_S": 0.02}.items():
        monkeypatch.setattr(lease, name, seconds)


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes this process another machine for the claims that it finds."""
    return lambda: monkeypatch.setattr(lease, "_system", lambda: "another machine")


@pytest.fixture
def other_run(tmp_path):
    """A process that holds the lease of tmp_path."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.process
def test_a_second_run_is_refused_with_who_writes_and_since_when(tmp_path, other_run):
    before = sorted(tmp_path.iterdir())

    with pytest.raises(OutputInUseError) as error:
        Lease.acquire(str(tmp_path), "tag")

    assert f"{tmp_path}: another run writes this output (jobs/tag.py, process {other_run.pid} on " in str(error.value)
    assert time.strftime(", since %Y-%m-%dT", time.gmtime()) in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.process
def test_the_lease_of_a_killed_run_is_taken_over_at_once(tmp_path, other_run):
    other_run.send_signal(signal.SIGKILL)
    start = time.monotonic()

    Lease.acquire(str(tmp_path), "tag").release()

    assert time.monotonic() - start < 5
    assert claims_in(str(tmp_path)) == []


@pytest.mark.process
def test_one_run_at_a_time_writes_to_a_bucket(monkeypatch, fast, elsewhere):
    location = f"s3://{object_store.BUCKET}/tags"
    with object_store.serving() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        storage._object_store.cache_clear()
        held = Lease.acquire(location, "tag")
        elsewhere()
        with pytest.raises(OutputInUseError, match=r"s3://bucket/tags: another run writes this output"):
            Lease.acquire(location, "tag")
        monkeypatch.setattr(held, "_check_storage", lambda: time.sleep(60))

        Lease.acquire(location, "tag").release()

        assert claims_in(location) == []
    storage._object_store.cache_clear()


def test_a_live_run_on_another_machine_is_known_by_its_renewals(tmp_path, fast, elsewhere):
    held = Lease.acquire(str(tmp_path), "tag")
    elsewhere()

    for _ in range(3):
        with pytest.raises(OutputInUseError, match=r"another run writes this output"):
            Lease.acquire(str(tmp_path), "tag")
    held.require_held(check_storage=True)
    held.release()

    Lease.acquire(str(tmp_path), "tag").release()


def test_a_run_that_no_longer_renews_is_taken_over_and_may_not_go_on(tmp_path, fast, elsewhere, monkeypatch):
    monkeypatch.setattr(lease.Lease, "_renew", lambda self: None)
    frozen = Lease.acquire(str(tmp_path), "tag")
    elsewhere()
    start = time.monotonic()

    successor = Lease.acquire(str(tmp_path), "tag")

    assert time.monotonic() - start > 0.6
    frozen.require_held()
    with pytest.raises(InputError, match="another run took over this output"):
        frozen.require_held(check_storage=True)
    with pytest.raises(InputError, match="another run took over this output"):
        frozen.require_held()
    successor.require_held(check_storage=True)
    successor.release()


def test_a_disk_that_fails_for_a_moment_does_not_cost_the_lease(tmp_path, fast, monkeypatch):
    write, failures = storage.write_bytes, []

    def fail(location, content):
        if len(failures) < 3:
            failures.append(location)
            raise OSError("input/output error")
        write(location, content)

    held = Lease.acquire(str(tmp_path), "tag")
    monkeypatch.setattr(storage, "write_bytes", fail)
    beat = claims_in(str(tmp_path))[0].beat
    deadline = time.monotonic() + 5
    while claims_in(str(tmp_path))[0].beat == beat and time.monotonic() < deadline:
        time.sleep(0.02)

    assert len(failures) == 3
    held.require_held(check_storage=True)
    held.release()


def test_runs_that_start_at_the_same_moment_write_one_after_the_other(tmp_path, fast):
    writers, most = [], []

    def run():
        held = Lease.acquire(str(tmp_path), "tag", wait=True)
        writers.append(held)
        most.append(len(writers))
        time.sleep(0.01)
        writers.remove(held)
        held.release()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert most == [1] * 8


def test_of_runs_that_start_at_the_same_moment_one_is_never_refused(tmp_path, fast):
    for number in range(10):
        folder, barrier, outcomes = str(tmp_path / str(number)), threading.Barrier(3), []

        def run(folder=folder, barrier=barrier, outcomes=outcomes):
            barrier.wait()
            try:
                outcomes.append(Lease.acquire(folder, "tag"))
            except OutputInUseError:
                outcomes.append(None)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        held = [outcome for outcome in outcomes if outcome]
        assert len(held) == 1
        held[0].release()


def test_a_damaged_claim_counts_as_a_run_that_never_renews(tmp_path, fast):
    (tmp_path / "_claim-abc.json").write_text("{")

    Lease.acquire(str(tmp_path), "tag").release()

    assert list(tmp_path.iterdir()) == []
