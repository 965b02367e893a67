"""What a run needs from the cluster and the outside world: the requirements of its stages, combined."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from mmgenre.catalog.job import CatalogConfig
from mmgenre.config import Config, Requirements
from mmgenre.dataset.job import DatasetConfig
from mmgenre.enrich.job import EnrichConfig
from mmgenre.evaluation.compare import CompareConfig
from mmgenre.evaluation.job import EvaluateConfig
from mmgenre.explain.config import ExplainMovieConfig, ExplainTableConfig
from mmgenre.export.job import ExportConfig
from mmgenre.pipeline.dump import BulkConfig
from mmgenre.pipeline.job import PipelineConfig
from mmgenre.posters.job import PostersConfig
from mmgenre.report.job import ReportConfig
from mmgenre.search.config import TuneConfig
from mmgenre.serving.job import ServingConfig
from mmgenre.tables import storage
from mmgenre.tagging.job import TagConfig
from mmgenre.topics.job import TopicsConfig
from mmgenre.training.config import TrainConfig

# The config types of each job that doctor can check, by the job's name.
JOBS: dict[str, tuple[type[Config], ...]] = {
    "catalog": (CatalogConfig,),
    "compare": (CompareConfig,),
    "dataset": (DatasetConfig,),
    "enrich": (EnrichConfig,),
    "evaluate": (EvaluateConfig,),
    "explain": (ExplainTableConfig, ExplainMovieConfig),
    "export": (ExportConfig,),
    "pipeline": (PipelineConfig,),
    "posters": (PostersConfig,),
    "report": (ReportConfig,),
    "serve": (ServingConfig,),
    "tag": (TagConfig, BulkConfig),
    "topics": (TopicsConfig,),
    "train": (TrainConfig,),
    "tune": (TuneConfig,),
}


@dataclass(frozen=True)
class RunRequirements:
    """What all stages of a run need together.

    Args:
        inputs: files and folders that it reads and does not create itself; absolute.
        outputs: folders that it writes; absolute, without those inside another one.
        cpus: the most that a stage needs at the same time.
        gpus: likewise.
        hosts: names and ports of the servers that it sends requests to.
        keys: by web service, what is wrong with its API key in the environment; None when nothing is.
        packages: modules of optional dependencies.
        mistakes: by input, why a stage would refuse it.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cpus: float
    gpus: float
    hosts: tuple[tuple[str, int], ...]
    keys: Mapping[str, str | None]
    packages: tuple[str, ...]
    mistakes: Mapping[str, str]


def requirements_of(config: Config) -> RunRequirements:
    """The requirements of a run with this config."""
    stages = config.requirements() or (Requirements(),)
    outputs = {location for stage in stages for location in _absolute(stage.outputs)}
    inputs = {location for stage in stages for location in _external_inputs(stage, stages)}
    mistakes = {storage.absolute(place): error for stage in stages for place, error in stage.mistakes.items()}
    return RunRequirements(
        inputs=tuple(sorted(inputs)),
        outputs=tuple(sorted(folder for folder in outputs if not _is_inside(folder, outputs - {folder}))),
        cpus=max(stage.cpus for stage in stages),
        gpus=max(stage.gpus for stage in stages),
        hosts=tuple(sorted({_host(url) for stage in stages for url in stage.urls})),
        keys={service: error for stage in stages for service, error in stage.keys.items()},
        packages=tuple(sorted({name for stage in stages for name in stage.packages})),
        mistakes={place: error for place, error in mistakes.items() if place in inputs},
    )


def _external_inputs(stage: Requirements, stages: Iterable[Requirements]) -> set[str]:
    """The inputs of a stage that no other stage writes."""
    others = {location for other in stages if other is not stage for location in _absolute(other.outputs)}
    return {location for location in _absolute(stage.inputs) if not _is_inside(location, others)}


def _absolute(locations: Iterable[str | None]) -> set[str]:
    return {storage.absolute(location) for location in locations if location is not None}


def _is_inside(location: str, folders: set[str]) -> bool:
    return any(f"{location}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)


def _host(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or url, parts.port or (80 if parts.scheme == "http" else 443)
