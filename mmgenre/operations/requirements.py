"""What a run of a config asks of a cluster and of the world, read off the config."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from mmgenre.catalog.job import CatalogConfig
from mmgenre.config import Config
from mmgenre.dataset.job import DatasetConfig
from mmgenre.enrich.job import EnrichConfig
from mmgenre.enrich.providers import OmdbConfig, TmdbConfig
from mmgenre.errors import InputError
from mmgenre.evaluation.compare import CompareConfig
from mmgenre.evaluation.job import EvaluateConfig
from mmgenre.explain.config import ExplainMovieConfig, ExplainTableConfig
from mmgenre.export.job import ExportConfig
from mmgenre.pipeline.dump import BulkConfig
from mmgenre.pipeline.job import PipelineConfig
from mmgenre.pipeline.stages import StagesConfig
from mmgenre.posters.job import PostersConfig
from mmgenre.report.job import ReportConfig
from mmgenre.search.config import TuneConfig
from mmgenre.serving.job import ServingConfig
from mmgenre.tables import storage
from mmgenre.tagging.job import TagConfig
from mmgenre.topics.job import TopicsConfig
from mmgenre.training.setup import TrainConfig

# What can be asked for.
RUNS: tuple[type[Config], ...] = (
    PipelineConfig,
    CatalogConfig,
    EnrichConfig,
    PostersConfig,
    DatasetConfig,
    TrainConfig,
    TuneConfig,
    TagConfig,
    BulkConfig,
    EvaluateConfig,
    CompareConfig,
    ReportConfig,
    ExportConfig,
    ExplainTableConfig,
    ExplainMovieConfig,
    TopicsConfig,
    ServingConfig,
)
_OUTPUTS = ("output", "export_dir", "features", "embeddings")
_INPUTS = (
    *("input", "path", "data", "dataset", "catalog", "enriched", "posters", "movies", "checkpoint", "predictions"),
    *("report", "genres"),
)


@dataclass(frozen=True)
class Needs:
    """What a run asks for.

    Args:
        outputs: folders that it writes to.
        inputs: files and folders that it reads, and does not make itself.
        cpus: that it waits for.
        gpus: that it waits for.
        hosts: names and ports that it fetches from.
        keys: for each provider what it says of a missing one; None where it has it.
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    cpus: float
    gpus: float
    hosts: tuple[tuple[str, int], ...]
    keys: dict[str, str | None]


def needs_of(config: Config) -> Needs:
    """All that a run of a config needs."""
    parts = [*_parts(config)]
    outputs = {storage.absolute(location) for part in parts for location in _locations(part, _OUTPUTS)}
    processors = [_processors(part) for part in parts]
    in_sandbox = isinstance(config, StagesConfig) and config.sandbox is not None
    asked = [] if in_sandbox else parts
    services = [part for part in asked if isinstance(part, TmdbConfig | OmdbConfig)]
    return Needs(
        outputs=tuple(sorted(one for one in outputs if not _is_in(one, outputs - {one}))),
        inputs=tuple(sorted(_inputs(parts))),
        cpus=max(cpus for cpus, _ in processors),
        gpus=max(gpus for _, gpus in processors),
        hosts=tuple(sorted({_host(url) for part in asked for url in _urls(part)})),
        keys={service.kind: _refusal(service) for service in services},
    )


def _parts(config: Config) -> Iterator[Config]:
    """A config and all that are in it."""
    yield config
    for name in type(config).model_fields:
        value = getattr(config, name)
        for one in value.values() if isinstance(value, dict) else [value]:
            if isinstance(one, Config):
                yield from _parts(one)


def _locations(part: Config, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = getattr(part, name, None)
        for one in value.values() if isinstance(value, dict) else [value]:
            if isinstance(one, str) and one != "none":
                yield one


def _inputs(parts: list[Config]) -> set[str]:
    """What stages read that no other stage makes."""
    made = [(part, storage.absolute(location)) for part in parts for location in _locations(part, _OUTPUTS)]
    return {
        storage.absolute(location)
        for part in parts
        for location in _locations(part, _INPUTS)
        if not _is_in(storage.absolute(location), {output for maker, output in made if maker is not part})
    }


def _is_in(location: str, folders: set[str]) -> bool:
    return any(f"{location}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)


def _processors(part: Config) -> tuple[float, float]:
    """CPUs and GPUs without which a stage does not begin, or has fewer processes than it is told to have."""
    match part:
        case TuneConfig():
            return part.cpus_per_trial, part.gpus_per_trial or 0
        case TrainConfig():
            processes, cpus = part.fewest_workers, part.cpus_per_worker or 1
        case TagConfig() | ExplainTableConfig():
            processes, cpus = part.actors or 1, part.cpus_per_actor
        case ServingConfig():
            processes, cpus = part.replicas, part.cpus_per_replica
        case EnrichConfig() | PostersConfig():
            processes, cpus = part.actors or 1, 1
        case TopicsConfig():
            processes, cpus = 1, 1
        case _:
            return 0, 0
    return processes * cpus, processes * (getattr(part, "accelerator", None) == "gpu")


def _urls(part: Config) -> Iterator[str]:
    """Of the servers that a stage asks."""
    match part:
        case TmdbConfig() | OmdbConfig():
            yield part.base_url
        case PostersConfig():
            yield from (f"https://{host}" for host in part.allowed_hosts)


def _host(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or url, parts.port or (80 if parts.scheme == "http" else 443)


def _refusal(service: TmdbConfig | OmdbConfig) -> str | None:
    try:
        service.build(os.environ)
    except InputError as error:
        return str(error)
    return None
