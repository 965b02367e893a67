"""Jobs on a cluster of several nodes that come and go: what they make is what one machine makes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clusters import until
from nodes import autoscaled_cluster, cluster
from trainings import SETTINGS, history, scores

from mmgenre.catalog.job import CatalogConfig, catalog
from mmgenre.models import checkpoint
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.sandbox.catalogue import DUMP, SandboxConfig, generate
from mmgenre.sandbox.server import Sandbox, ServerConfig
from mmgenre.scoring.thresholds import Thresholds
from mmgenre.tables.schema import PREDICTIONS
from mmgenre.tables.table import Table

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
KEY = "a-key"
NUM_ROWS = 200_000
IDS = [f"tt{row:07}" for row in range(NUM_ROWS)]
PLOTS = [" ".join(np.random.default_rng(row).choice(["ghost", "kiss", "heist", "joke"], 40)) for row in range(300)]


@pytest.fixture(scope="module")
def nodes():
    """A head, and two nodes of one CPU each."""
    with cluster(1, 1) as (found, _):
        yield found


def start(nodes, job, *arguments, **environment):
    command = [sys.executable, f"jobs/{job}.py", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=nodes.environment | environment, **streams)


def output_of(process, on_line=lambda line: None):
    """All that a job says, when it has ended well."""
    said = ""
    for line in process.stdout:
        said += line
        on_line(line)
    assert process.wait() == 0, said
    return said


def test_actors_on_several_nodes_keep_one_rate_limit(nodes, tmp_path):
    generate(SandboxConfig(movies=900, other_titles=0), str(tmp_path))
    catalog(CatalogConfig(input=str(tmp_path / DUMP), output=str(tmp_path / "catalog"), keep_unlabelled=True))
    with Sandbox(ServerConfig(data=str(tmp_path)), KEY) as sandbox:
        urls = [f"provider.base_url={sandbox.base_url}", f"provider.image_url={sandbox.image_url}"]
        places = [f"catalog={tmp_path / 'catalog'}", f"output={tmp_path / 'enriched'}"]
        rate = ["requests_per_second=40", "actors=2"]
        output_of(start(nodes, "enrich", "configs/enrich/default.yaml", *urls, *places, *rate, TMDB_TOKEN=KEY))
        stats = sandbox.stats()

    by_second = list(stats["requests_per_second"].values())
    assert stats["max_finds_per_id"] == 1
    # No second has more than the limit and a quarter of it; nearly all of it is used.
    assert max(by_second) <= 50
    assert np.median(by_second) >= 36


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """Arguments of a tagging: a file of many plots, and a model."""
    folder = tmp_path_factory.mktemp("catalogue")
    table = pa.table({"imdb_id": IDS, "plot": [PLOTS[row % 300] for row in range(NUM_ROWS)]})
    pq.write_table(table, folder / "movies.parquet")
    model = TfidfConfig().fit(Movies.of_plots(PLOTS), np.eye(9, dtype=np.float32)[np.arange(300) % 9]).eval()
    thresholds = Thresholds(per_genre=(0.5,) * 9, global_threshold=0.5, kind="global")
    checkpoint.save(model, checkpoint.Card(model=TfidfConfig(), thresholds=thresholds), str(folder / "model"))
    return [f"checkpoint={folder / 'model'}", f"movies={folder / 'movies.parquet'}", "precision=fp32"]


def require_exact(output):
    """One row for each movie, and the same genres for the same plot."""
    found = Table(str(output), PREDICTIONS).read(["imdb_id", "genres"])
    assert sorted(found["imdb_id"].to_pylist()) == IDS
    genres = dict(zip(*(found[name].to_pylist() for name in ("imdb_id", "genres")), strict=True))
    assert len({(row % 300, tuple(genres[imdb_id])) for row, imdb_id in enumerate(IDS)}) == 300


def units_done(output):
    return len([*output.glob("_work/*/units/unit-*")])


def test_a_node_that_is_killed_costs_a_tagging_nothing_and_one_that_joins_helps(nodes, catalogue, tmp_path):
    output, third = tmp_path / "tags", nodes.add()

    job = start(nodes, "tag", "configs/tag/default.yaml", *catalogue, f"output={output}", "actors=3")
    until(lambda: job.poll() is not None or units_done(output) >= 3, timeout_s=120)
    nodes.kill(third)
    nodes.add()
    output_of(job)

    require_exact(output)


def test_an_autoscaled_cluster_grows_for_a_tagging_and_shrinks_after_it(catalogue, tmp_path):
    with autoscaled_cluster(tmp_path, max_workers=2) as nodes:
        assert len(nodes.alive()) == 1
        seen = []

        job = start(nodes, "tag", "configs/tag/default.yaml", *catalogue, f"output={tmp_path / 'tags'}", "actors=2")
        until(lambda: job.poll() is not None or seen.append(len(nodes.alive())) or seen[-1] == 3, timeout_s=120)
        output_of(job)
        require_exact(tmp_path / "tags")

        assert seen[-1] == 3
        until(lambda: len(nodes.alive()) == 1, timeout_s=120)


def test_a_training_over_nodes_is_the_training_of_one_and_goes_on_without_the_node_that_is_killed(
    nodes, undisturbed, generated_movies, tmp_path
):
    (tmp_path / "train.yaml").write_text(json.dumps(SETTINGS | {"workers": [1, 2], "cpus_per_worker": 1}))
    killed = []

    def kill_after_an_epoch(line):
        if line.startswith("epoch 2/") and not killed:
            killed.append(nodes.kill_one())

    places = [f"dataset={generated_movies}", f"output={tmp_path / 'run'}", "checkpoint_every=4"]
    said = output_of(start(nodes, "train", tmp_path / "train.yaml", *places), kill_after_an_epoch)

    assert killed
    assert said.count("epoch 1/5") == 1
    for there, here in zip(history(tmp_path / "run"), history(undisturbed), strict=True):
        assert there["loss"] == pytest.approx(here["loss"], abs=2e-3)
    assert scores(tmp_path / "run") == pytest.approx(scores(undisturbed), abs=5e-3)
