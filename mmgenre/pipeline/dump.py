"""Tags a whole IMDb dump with one command: dump → catalogue → plots → posters → tags; prints a plan first."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from PIL import Image
from pydantic import Field, model_validator

from mmgenre.config import Requirements
from mmgenre.enrich import job as enrich_job
from mmgenre.enrich.job import EnrichConfig
from mmgenre.enrich.providers import DumpConfig
from mmgenre.models.checkpoint import read_card
from mmgenre.pipeline.stages import StagesConfig, fill, fill_stages, print_line, run_catalog, run_fetching, run_stage
from mmgenre.posters.job import PostersConfig
from mmgenre.progress import duration
from mmgenre.tables import storage
from mmgenre.tables.manifest import read_manifest
from mmgenre.tables.schema import CATALOG, ENRICHED
from mmgenre.tables.table import Table, count_values
from mmgenre.tagging.actors import measure
from mmgenre.tagging.job import TagConfig, tag
from mmgenre.tagging.output import describe

# Bytes per row on disk, measured on TMDB's plots and on its posters at 384 px.
_BYTES_PER_ROW = {"enriched": 300, "posters": 25_000, "tags": 150}
_SAMPLE_ROWS = 128


class BulkConfig(StagesConfig):
    """Tag every title of an IMDb dump, by plots and posters from TMDB or another provider."""

    input: str | None = Field(None, description="title.basics.tsv, plain or gzipped; null: the sandbox's dump")
    checkpoint: str = Field(description="folder made by jobs/train.py")
    tag: TagConfig
    dry_run: bool = Field(False, description="only build the catalogue and print the plan of the other stages")

    @model_validator(mode="before")
    @classmethod
    def _chain(cls, values: Any) -> Any:
        """Set each stage's inputs and output where they are not given."""
        if not isinstance(values, dict) or not isinstance(values.get("output"), str):
            return values
        chained = dict(values)
        if chained.get("input") is not None:
            fill(chained, "catalog", input=chained["input"])
        chained = fill_stages(chained)
        root = chained["output"]
        tables = {role: storage.join(root, role) for role in ("enriched", "posters")}
        if chained.get("posters") is None:
            tables.pop("posters")
        places = tables | {"movies": storage.join(root, "catalog"), "output": storage.join(root, "tags")}
        if isinstance(chained.get("checkpoint"), str):
            places["checkpoint"] = chained["checkpoint"]
        fill(chained, "tag", **places)
        if isinstance(chained["tag"], dict):
            chained["tag"].setdefault("columns", ["title", "title_type", "year"])
        return chained

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        return (*super().requirements(), *self.tag.requirements())


def tag_dump(config: BulkConfig) -> str:
    """Run every stage that is not complete; prints the plan and a line per stage, and returns the coverage.

    Raises:
        InputError: a stage failed; the stages before it are complete.
    """
    read_card(config.checkpoint)
    run_catalog(config)
    plan = "\n".join(f"plan: {line}" for line in _plan(config))
    if config.dry_run:
        return plan
    print_line(plan)
    run_fetching(config)
    run_stage("tag", lambda: tag(config.tag), config.tag.output)
    manifest = read_manifest(config.tag.output)
    assert manifest is not None, "tag has just written it"  # noqa: S101
    return describe(manifest)


def _plan(config: BulkConfig) -> Iterator[str]:
    """What is to be done, how long it takes and how much disk space it needs; one line each."""
    titles = Table(config.catalog.output, CATALOG)
    in_dump, num_titles = titles.manifest.rows_in, titles.manifest.rows
    types = Counter[str]()
    for batch in titles.dataset.to_batches(columns=["title_type"]):
        types.update(count_values(batch["title_type"].fill_null("unknown")))
    by_type = ", ".join(f"{title_type} {count:,}" for title_type, count in types.most_common())
    yield f"{in_dump:,} rows in the dump, {num_titles:,} titles to tag ({by_type})"
    if isinstance(config.enrich.provider, DumpConfig):
        yield f"plots of {num_titles:,} titles come from {config.enrich.provider.path}"
    else:
        yield str(enrich_job.plan(config.enrich))
    num_posters = 0
    if config.posters is not None:
        num_known = _num_posters(config.posters)
        num_posters = max(0, _num_poster_urls(config.enrich, num_titles) - num_known)
        rate = config.posters.requests_per_second
        yield (
            f"posters: {num_known:,} known, at most {num_posters:,} to download, "
            f"{duration(num_posters / rate)} at {rate:g} requests/s"
        )
    yield _tagging_plan(config, num_titles)
    yield _disk_plan(config.output, {"enriched": num_titles, "posters": num_posters, "tags": num_titles})


def _num_posters(config: PostersConfig) -> int:
    """Posters that have been downloaded."""
    manifest = read_manifest(config.output)
    return manifest.statuses.get("ok", 0) if manifest else 0


def _num_poster_urls(config: EnrichConfig, num_titles: int) -> int:
    """Titles with a poster; before the enrichment all of them, the most there can be."""
    if read_manifest(config.output) is None:
        return num_titles
    batches = Table(config.output, ENRICHED).dataset.to_batches(columns=["poster_url"])
    return sum(len(batch) - batch["poster_url"].null_count for batch in batches)


def _tagging_plan(config: BulkConfig, num_titles: int) -> str:
    done = read_manifest(config.tag.output)
    known = f"{done.rows:,} known and reused if their movies have not changed; " if done else ""
    rate = measure(config.checkpoint, _sample(config), config.tag.precision)
    processes = config.tag.actors or max(1, (os.cpu_count() or 1) // config.tag.cpus_per_actor)
    return (
        f"tags: {known}at most {duration(num_titles / rate / processes)} at {rate:,.0f} rows/s "
        f"(one process of this machine) on {processes} processes"
    )


def _sample(config: BulkConfig) -> pa.Table:
    """Movies to measure the throughput with: real plots if there are any, else generated text of similar length."""
    plots: list[str] = []
    if read_manifest(config.enrich.output) is not None:
        enriched = Table(config.enrich.output, ENRICHED)
        plots = enriched.dataset.head(_SAMPLE_ROWS, columns=["plot"])["plot"].drop_null().to_pylist()
    plots += ["Somebody goes somewhere, and nothing is as it was before. " * 5] * (_SAMPLE_ROWS - len(plots))
    ids = [f"tt{row}" for row in range(len(plots))]
    columns = {"imdb_id": ids, "title": ["A Title"] * len(ids), "plot": plots, "input_digest": [0] * len(ids)}
    if config.posters is not None:
        noise = io.BytesIO()
        Image.effect_noise((256, 384), 64).convert("RGB").save(noise, "JPEG")
        columns["image"] = [noise.getvalue()] * len(ids)
    return pa.table(columns)


def _disk_plan(output: str, rows: dict[str, int]) -> str:
    needed = sum(_BYTES_PER_ROW[table] * count for table, count in rows.items())
    text = f"disk: at most {needed / 1e9:,.1f} GB in {output}"
    if "://" in output:
        return text
    free = shutil.disk_usage(storage.absolute(os.path.dirname(storage.absolute(output)) or "/")).free  # noqa: PTH120
    return f"{text}, {free / 1e9:,.1f} GB free" + (": NOT ENOUGH" if needed > free else "")
