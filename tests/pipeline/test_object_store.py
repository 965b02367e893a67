"""A pipeline with all paths on a real S3 server: killed, resumed, and read back by another program."""

import subprocess
import sys

import dumps
import pytest
from job_runs import ROOT, run_job
from object_store import BUCKET, serving

pytestmark = pytest.mark.process

RUN = f"s3://{BUCKET}/run"
SMALL = ["sandbox.catalogue.movies=250", "sandbox.catalogue.other_titles=40", "models.tiny.train.epochs=3"]
SMALL += ["models.tiny.evaluate.resamples=50", "report.resamples=50"]
READ_BACK = f"""
import pyarrow.dataset as ds
from mmgenre.tables.manifest import read_manifest
names = ("catalog", "enriched", "posters", "movies", "tiny/predictions")
for name in names:
    rows = ds.dataset("{RUN}/" + name, format="parquet", exclude_invalid_files=True).count_rows()
    assert rows == read_manifest("{RUN}/" + name).rows > 0, name
tagged = read_manifest("{RUN}/tiny/predictions")
assert tagged.rows == read_manifest("{RUN}/catalog").rows
print(sorted(tagged.statuses))
"""


@pytest.fixture(scope="module")
def environment():
    with serving() as found:
        yield found


def run(environment, *command, **options):
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=400
    )


def test_a_killed_pipeline_in_a_bucket_is_resumed(environment):
    command = ["jobs/pipeline.py", "configs/pipeline/demo.yaml", f"output={RUN}", *SMALL]
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as first:
        seen = ""
        for line in first.stdout:
            seen += line
            if line.startswith("epoch 2/"):
                first.kill()
    assert "epoch 2/" in seen, seen

    second = run(environment, *command)

    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("already complete") == 4
    assert "epoch 1/" not in second.stdout
    assert "epoch 3/3" in second.stdout
    read = run(environment, "-c", READ_BACK)
    assert read.returncode == 0, read.stderr
    assert "text_only" in read.stdout


def test_a_missing_bucket_is_an_error_of_one_line(environment, tmp_path):
    dump = dumps.write(tmp_path / "title.basics.tsv", dumps.many(50))
    arguments = ["configs/catalog/default.yaml", f"input={dump}"]

    missing = run(environment, "jobs/catalog.py", *arguments, "output=s3://no-such-bucket/x")
    unknown = run_job("catalog.py", *arguments, "output=nowhere://x/y")

    for result, message in ((missing, "no-such-bucket"), (unknown, "expected a local path or a URI")):
        assert result.returncode == 1
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
