"""A whole IMDb dump, tagged by one command: dump → catalogue → plots → posters → tags, with a plan of it first."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from PIL import Image
from pydantic import Field, model_validator

from mmgenre.enrich import job as enrich
from mmgenre.enrich.providers import DumpConfig
from mmgenre.models.checkpoint import read_card
from mmgenre.pipeline.stages import StagesConfig, catalogue, fetch_all, fill, fill_stages, stage
from mmgenre.progress import duration
from mmgenre.tables import storage
from mmgenre.tables.manifest import read_manifest
from mmgenre.tables.schema import CATALOG, ENRICHED
from mmgenre.tables.table import Table, count_values
from mmgenre.tagging.actors import measure
from mmgenre.tagging.job import TagConfig, tag
from mmgenre.tagging.output import describe

# What rows take on disk, where no table says: measured on TMDB's plots, and on its posters at 384 px.
_BYTES_OF = {"enriched": 300, "posters": 25_000, "tags": 150}
_MEASURED_ROWS = 128


class BulkConfig(StagesConfig):
    """Tag every title of an IMDb dump, with the plots and posters that TMDB or another source has of them."""

    input: str | None = Field(None, description="title.basics.tsv, plain or gzipped; null: the sandbox's")
    checkpoint: str = Field(description="folder made by jobs/train.py")
    tag: TagConfig
    dry_run: bool = Field(False, description="only make the catalogue, and say what the rest would take")

    @model_validator(mode="before")
    @classmethod
    def _chain(cls, values: Any) -> Any:
        """Fill in each stage's inputs and output, where they are not given."""
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


def tag_dump(config: BulkConfig) -> str:
    """Run every stage that is not complete; prints the plan and a line for each, and returns the coverage.

    Raises:
        InputError: from the stage that met it; the stages before it are complete.
    """
    read_card(config.checkpoint)
    catalogue(config)
    plan = "\n".join(f"plan: {line}" for line in _plan(config))
    if config.dry_run:
        return plan
    print(plan, flush=True)  # noqa: T201 - before hours of work
    fetch_all(config)
    stage("tag", lambda: tag(config.tag), config.tag.output)
    manifest = read_manifest(config.tag.output)
    assert manifest is not None, "tagged just now"  # noqa: S101
    return describe(manifest)


def _plan(config: BulkConfig) -> Iterator[str]:
    """What there is to be done, how long it takes and what room it needs, a line each."""
    titles = Table(config.catalog.output, CATALOG)
    in_dump, num_titles = titles.manifest.rows_in, titles.manifest.rows
    kinds = Counter[str]()
    for batch in titles.dataset.to_batches(columns=["title_type"]):
        kinds.update(count_values(batch["title_type"].fill_null("unknown")))
    text = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common())
    yield f"{in_dump:,} rows in the dump, {num_titles:,} titles to tag ({text})"
    known = _known(config)
    if isinstance(config.enrich.provider, DumpConfig):
        yield f"plots of {num_titles:,} titles come from {config.enrich.provider.path}"
    else:
        yield str(enrich.plan(config.enrich))
    num_posters = 0 if config.posters is None else known.get("addresses", num_titles) - known.get("posters", 0)
    if config.posters is not None:
        pace = config.posters.requests_per_second
        yield (
            f"posters: {known.get('posters', 0):,} known, at most {num_posters:,} to download, "
            f"{duration(num_posters / pace)} at {pace:g} requests/s"
        )
    yield _tagging(config, num_titles)
    yield _room(config, {"enriched": num_titles, "posters": max(0, num_posters), "tags": num_titles})


def _known(config: BulkConfig) -> dict[str, int]:
    """Rows of complete tables: posters, and addresses of posters."""
    known = {}
    if read_manifest(config.enrich.output) is not None:
        enriched = Table(config.enrich.output, ENRICHED)
        known["addresses"] = sum(
            len(batch) - batch["poster_url"].null_count for batch in enriched.dataset.to_batches(columns=["poster_url"])
        )
    if config.posters is not None:
        manifest = read_manifest(config.posters.output)
        known["posters"] = manifest.statuses.get("ok", 0) if manifest else 0
    return known


def _tagging(config: BulkConfig, num_titles: int) -> str:
    done = read_manifest(config.tag.output)
    held = f"tags: {done.rows:,} known, which hold while their movies stay as they are; " if done else "tags: "
    rate = measure(config.checkpoint, _sample(config), config.tag.precision)
    processes = config.tag.actors or max(1, (os.cpu_count() or 1) // config.tag.cpus_per_actor)
    return (
        f"{held}at most {duration(num_titles / rate / processes)} at {rate:,.0f} rows/s (one process of this machine) "
        f"on {processes} processes"
    )


def _sample(config: BulkConfig) -> pa.Table:
    """Movies to measure with: real plots where there are any, else as many words."""
    plots: list[str] = []
    if read_manifest(config.enrich.output) is not None:
        enriched = Table(config.enrich.output, ENRICHED)
        plots = enriched.dataset.head(_MEASURED_ROWS, columns=["plot"])["plot"].drop_null().to_pylist()
    plots += ["Somebody goes somewhere, and nothing is as it was before. " * 5] * (_MEASURED_ROWS - len(plots))
    image = io.BytesIO()
    Image.effect_noise((256, 384), 64).convert("RGB").save(image, "JPEG")
    ids = [f"tt{row}" for row in range(len(plots))]
    images = [image.getvalue()] * (len(plots) if config.posters is not None else 0)
    columns = {"imdb_id": ids, "title": ["A Title"] * len(ids), "plot": plots, "input_digest": [0] * len(ids)}
    return pa.table(columns | ({"image": images} if images else {}))


def _room(config: BulkConfig, rows: dict[str, int]) -> str:
    needed = sum(_BYTES_OF[what] * count for what, count in rows.items())
    text = f"disk: at most {needed / 1e9:,.1f} GB below {config.output}"
    if "://" in config.output:
        return text
    free = shutil.disk_usage(storage.absolute(os.path.dirname(storage.absolute(config.output)) or "/")).free  # noqa: PTH120
    return f"{text}, {free / 1e9:,.1f} GB are free" + (": TOO FEW" if needed > free else "")
