"""A whole dump is planned and tagged by one command."""

import gzip
import json

import dumps
import pytest
import torch
from job_runs import run_job

from mmgenre.errors import InputError
from mmgenre.models import Movies, checkpoint
from mmgenre.models.inference import predict_logits
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.pipeline.dump import BulkConfig
from mmgenre.scoring.thresholds import calibrate
from mmgenre.tables.schema import CATALOG, MOVIES, PREDICTIONS, from_per_genre
from mmgenre.tables.table import Table

pytestmark = pytest.mark.process

SMALL = ["sandbox.catalogue.movies=300", "sandbox.catalogue.other_titles=200", "enrich.requests_per_second=2000"]


@pytest.fixture(scope="module")
def trained(generated_movies, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("bulk") / "checkpoint")
    rows = Table(generated_movies, MOVIES).read()
    labels, movies = from_per_genre(rows["labels"]), Movies.of(rows)
    config = TfidfConfig(title=True)
    model = config.fit(movies, labels).eval()
    found = calibrate(predict_logits(model, model.encoder.encode(movies), torch.device("cpu")), labels)
    card = checkpoint.Card(model=config, thresholds=found.thresholds, temperature=found.temperature)
    checkpoint.save(model, card, directory)
    return directory


def tag_dump(trained, output, *overrides):
    arguments = ["configs/tag/dump.yaml", f"checkpoint={trained}", f"output={output}", "sandbox={}", *SMALL]
    return run_job("tag.py", *arguments, *overrides)


def test_a_truncated_dump_is_refused_or_told_to_the_end(local_ray, trained, tmp_path):
    dump, plots, tags = tmp_path / "title.basics.tsv.gz", tmp_path / "plots.csv", tmp_path / "run/tags/_run.json"
    whole = gzip.compress(dumps.HEADER + b"".join(dumps.many(3000)))
    dump.write_bytes(whole[: len(whole) // 2])
    plots.write_text("imdb_id,plot\n" + "".join(f"{number},A plot.\n" for number in range(1, 100)))
    arguments = ["configs/tag/dump.yaml", f"checkpoint={trained}", f"output={tmp_path / 'run'}", f"input={dump}"]
    arguments += ["posters=null", f"enrich.provider={{kind: dump, path: {plots}}}"]

    refused = run_job("tag.py", *arguments)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(f"error: {dump}: damaged (")
    assert not tags.exists()

    accepted = run_job("tag.py", *arguments, "allow_damaged=true")
    assert accepted.returncode == 0, accepted.stderr
    assert accepted.stdout.splitlines()[-1].startswith(f"warning: {dump}: damaged (")
    notes = json.loads(tags.read_text())["notes"]
    assert notes["warnings"][0].startswith(f"{dump}: damaged (")
    assert notes["files"]["provider"]["normalised_ids"] == 99


def test_a_dump_is_planned_and_tagged_and_its_coverage_printed(local_ray, trained, tmp_path):
    kinds = "catalog.title_types=[movie, tvMovie, short, tvEpisode]"
    planned = tag_dump(trained, tmp_path / "run", "dry_run=true", kinds)

    assert planned.returncode == 0, planned.stderr
    plan = planned.stdout.splitlines()[-5:]
    assert plan[0].startswith("plan: 503 rows in the dump, ")
    assert "titles to tag (movie " in plan[0]
    assert "would be fetched (new " in plan[1]
    assert "0 known, at most " in plan[2]
    assert "rows/s (one process of this machine)" in plan[3]
    assert plan[4].startswith("plan: disk: at most ")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["catalog", "sandbox"]

    done = tag_dump(trained, tmp_path / "run", kinds)

    assert done.returncode == 0, done.stderr
    catalog = Table(str(tmp_path / "run/catalog"), CATALOG).read()
    tags = Table(str(tmp_path / "run/tags"), PREDICTIONS).read()
    assert sorted(tags["imdb_id"].to_pylist()) == sorted(catalog["imdb_id"].to_pylist())
    assert tags.group_by("title_type").aggregate([([], "count_all")]).num_rows == 3
    lines = done.stdout.splitlines()
    (kind,) = (line for line in lines if line.startswith("tvEpisode "))
    assert int(kind.split()[-1]) == catalog["title_type"].to_pylist().count("tvEpisode")
    assert any(line.startswith("title type ") for line in lines)
    assert any(line.startswith("1990s ") for line in lines)
    listed = (tmp_path / "run/tags/_tags.tsv").read_text().splitlines()
    assert listed[0] == "tconst\tgenres\ttitle\ttitle_type\tyear"
    assert len(listed) == len(catalog) + 1

    again = tag_dump(trained, tmp_path / "run", kinds)

    assert "tag: already complete" in again.stdout
    assert "known and reused if their movies have not changed" in again.stdout


def test_a_mistake_is_one_line_before_any_stage_runs(tmp_path):
    missing = tag_dump(tmp_path / "none", tmp_path / "run")
    misspelt = tag_dump(tmp_path / "none", tmp_path / "run", "dryrun=true")

    assert (missing.returncode, misspelt.returncode) == (1, 1)
    assert missing.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/none: no checkpoint.json found")
    assert "dryrun: unknown field; did you mean dry_run?" in misspelt.stderr
    assert not (tmp_path / "run").exists()


def test_each_stage_reads_what_the_one_before_it_wrote():
    config = BulkConfig.parse({"input": "d.tsv", "checkpoint": "c", "output": "o", "catalog": {}}, "test")

    assert (config.catalog.input, config.tag.movies, config.tag.enriched) == ("d.tsv", "o/catalog", "o/enriched")
    assert (config.tag.posters, config.tag.checkpoint, config.tag.output) == (None, "c", "o/tags")
    with pytest.raises(InputError, match="checkpoint: missing"):
        BulkConfig.parse({"input": "d.tsv", "output": "o"}, "test")
