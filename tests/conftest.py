"""Fixtures that several test files share: a Ray session, real movies if present, small tables and models."""

import os
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from mmgenre.tables.manifest import Recipe
from mmgenre.tables.output import Output
from mmgenre.tables.table import TableWriter

# Set before huggingface_hub is imported, which reads it once: no test uses the hub.
os.environ["HF_HUB_OFFLINE"] = "1"


# Programs whose start takes long: a job, a Ray node, a browser's driver.
_PROGRAMS = ("python", "ray", "node")
_started: list[str] = []


def _note_processes(event, arguments):
    if event == "subprocess.Popen":
        _started.append(Path(os.fsdecode(arguments[0])).name)


sys.addaudithook(_note_processes)


def pytest_collection_modifyitems(items):
    """Mark the tests that need Ray, and run the files with long tests first."""
    for item in items:
        if "local_ray" in item.fixturenames:
            item.add_marker(pytest.mark.process)
    long = {item.path for item in items if item.get_closest_marker("process")}
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Remember how many processes had been started before the test's fixtures were set up."""
    item.num_started = len(_started)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail a test that starts a process without the marker that keeps it out of `make quick`."""
    result = yield
    names = [name for name in _started[item.num_started :] if name.startswith(_PROGRAMS)]
    if names and item.get_closest_marker("process") is None:
        pytest.fail(f"starts {', '.join(names)}; mark it with pytest.mark.process", pytrace=False)
    return result


@pytest.fixture(scope="session")
def local_ray():
    """A local Ray session, shared by all tests of the process."""
    import ray

    from mmgenre import ray_session

    ray_session.connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real movies: title.basics.tsv.gz, movies.parquet, posters, weights."""
    folder = os.environ.get("MMGENRE_DATA")
    if not folder:
        pytest.skip("needs real movies: set MMGENRE_DATA to the folder that holds them")
    if not Path(folder).is_dir():
        pytest.skip(f"needs real movies: MMGENRE_DATA={folder} is no folder")
    return Path(folder).absolute()


@pytest.fixture(scope="session")
def write_table():
    """Writes columns as a complete table, and returns its folder."""

    def write(directory: Path, schema: pa.Schema, columns: dict) -> str:
        num_rows = len(columns["imdb_id"])
        unknown = {field.name: pa.nulls(num_rows, field.type) for field in schema if field.nullable}
        with Output(str(directory), Recipe(job="test", settings={}, inputs={})) as output:
            writer = TableWriter(output, schema)
            writer.write(pa.table(unknown | columns).select(schema.names).cast(schema))
            writer.finish(rows_in=num_rows)
        return str(directory)

    return write


@pytest.fixture(scope="session")
def tiny_model():
    """A transformer of random weights that computes in milliseconds, and the same numbers every time."""
    import torch

    from mmgenre.models.transformer import TransformerConfig

    # More threads than one would mostly wait for each other.
    torch.set_num_threads(1)
    architecture = {
        "model_type": "electra",
        "embedding_size": 32,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return TransformerConfig(pretrained=None, architecture=architecture, vocab_size=200, max_length=32, dropout=0)


@pytest.fixture(scope="session")
def generated_movies(tmp_path_factory):
    """A MOVIES table of generated movies, made without Ray."""
    from mmgenre.catalog.job import CatalogConfig, catalog
    from mmgenre.dataset.job import DatasetConfig, build_dataset
    from mmgenre.enrich.job import EnrichConfig, enrich
    from mmgenre.sandbox.catalogue import SandboxConfig, generate

    root = tmp_path_factory.mktemp("movies")
    paths = {name: str(root / name) for name in ("sandbox", "catalog", "enriched", "movies")}
    generate(SandboxConfig(movies=1300, other_titles=50), paths["sandbox"])
    dump, plots = f"{paths['sandbox']}/title.basics.tsv.gz", f"{paths['sandbox']}/movies.parquet"
    catalog(CatalogConfig(input=dump, output=paths["catalog"]))
    provider = {"kind": "dump", "path": plots}
    enrich(EnrichConfig.parse({"catalog": paths["catalog"], "output": paths["enriched"], "provider": provider}, "test"))
    build_dataset(DatasetConfig(catalog=paths["catalog"], enriched=paths["enriched"], output=paths["movies"]))
    return paths["movies"]


@pytest.fixture(scope="session")
def undisturbed(local_ray, generated_movies, tmp_path_factory):
    """The output of a training that nothing happened to."""
    from trainings import config

    from mmgenre.training.job import train

    output = tmp_path_factory.mktemp("trained") / "undisturbed"
    train(config(generated_movies, output))
    return output
