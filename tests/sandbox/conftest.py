"""A small generated catalogue, which the tests of this package read."""

import pyarrow.parquet as pq
import pytest

from mmgenre.sandbox.catalogue import SandboxConfig, generate

SMALL = SandboxConfig(movies=300, other_titles=150)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A catalogue with the settings of `small`."""
    directory = tmp_path_factory.mktemp("catalogue")
    generate(SMALL, str(directory))
    return directory


@pytest.fixture
def small():
    """Settings of the catalogue."""
    return SMALL


@pytest.fixture(scope="module")
def movies(folder):
    """The movies that the server knows."""
    return pq.read_table(folder / "movies.parquet").to_pylist()
