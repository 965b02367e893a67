"""A Ray session that cannot start is one line with a remedy, within seconds."""

import time
from types import SimpleNamespace

import pytest
import ray
from clusters import free_port

from mmgenre import ray_session
from mmgenre.errors import InputError


@pytest.fixture(autouse=True)
def before_the_session(monkeypatch):
    """No session runs yet, and none starts."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("started Ray"))


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_the_address_of_a_cluster_that_is_gone_is_refused_within_seconds(monkeypatch, scheme):
    address = f"{scheme}127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    start = time.monotonic()

    with pytest.raises(InputError) as error:
        ray_session.connect()

    assert str(error.value) == (
        f"RAY_ADDRESS={address}: no Ray cluster there (Connection refused); start it, correct the variable, or "
        "unset it to run on this machine"
    )
    assert time.monotonic() - start < 2


def test_no_cluster_to_find_by_auto_is_refused(monkeypatch):
    def init(**_):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "auto")

    with pytest.raises(InputError, match=r"RAY_ADDRESS=auto: no Ray cluster there \(Could not find any running"):
        ray_session.connect()


@pytest.mark.parametrize("value", ["", "local"])
def test_an_empty_address_means_this_machine(monkeypatch, value):
    monkeypatch.setenv("RAY_ADDRESS", value)

    assert ray_session.is_local()


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_too_long_for_sockets_is_refused_with_the_remedy(tmp_path, monkeypatch, variable):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = tmp_path / ("x" * 60)
    monkeypatch.setenv(variable, str(folder))

    with pytest.raises(
        InputError, match=rf"{folder}: Ray's folder for temporary files .* bytes too long .*RAY_TMPDIR=/tmp"
    ):
        ray_session.connect()

    assert not folder.exists()


def test_a_folder_that_cannot_be_created_or_is_full_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_session, "_MAX_SOCKET_PATH", 1000)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(
        InputError, match=r"file: Ray's folder .* cannot be created \(Not a directory\); set RAY_TMPDIR"
    ):
        ray_session.connect()

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    with pytest.raises(InputError, match=r"is on a full disk \(3 MB free\); free space there, or set RAY_TMPDIR"):
        ray_session.connect()


def test_only_the_cpus_of_nodes_with_gpus_are_shared_by_workers_with_a_gpu(monkeypatch):
    nodes = [{"CPU": 64.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 32.0, "GPU": 2.0}, {}]
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")

    assert ray_session.cpus_per_worker(2, 2, with_gpu=True) == 8
    assert ray_session.cpus_per_worker(2, 2) == 52
