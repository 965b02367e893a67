"""The config of jobs/serve.py: address, replicas, queues, timeouts and request limits."""

from typing import Self

from pydantic import Field, model_validator

from mmgenre.config import Config, Requirements
from mmgenre.models import checkpoint
from mmgenre.models.inference import Precision
from mmgenre.ray_session import Accelerator
from mmgenre.tagging.decisions import DecisionConfig, trained_thresholds

# Room in a multipart body for everything but the uploaded file.
_FORM_OVERHEAD_BYTES = 500_000


class Limits(Config):
    """Size limits of one request; a request that exceeds one is answered with 413."""

    text_characters: int = Field(20_000, gt=0, description="characters in a title or plot; not applied to CSV cells")
    poster_bytes: int = Field(5_000_000, gt=0, description="bytes in an uploaded poster")
    poster_pixels: int = Field(25_000_000, gt=0, description="width times height; larger posters are not decoded")
    batch_movies: int = Field(64, ge=1, description="movies in one JSON request")
    table_rows: int = Field(1000, ge=1, description="rows in a CSV file")
    table_columns: int = Field(500, ge=1, description="columns in a CSV file")
    table_bytes: int = Field(5_000_000, gt=0, description="bytes in a CSV file")
    body_bytes: int = Field(8_000_000, gt=0, description="bytes in any request body; base64 makes a poster 1/3 larger")

    @model_validator(mode="after")
    def _require_room_for_files(self) -> Self:
        needed = max(self.poster_bytes * 4 // 3, self.table_bytes) + _FORM_OVERHEAD_BYTES
        if self.body_bytes < needed:
            raise ValueError(
                f"body_bytes={self.body_bytes}: too small for a poster or table of the allowed size; "
                f"set it to at least {needed}, or lower poster_bytes and table_bytes"
            )
        return self


class ServingConfig(DecisionConfig):
    """Serve a model over HTTP, with a demo page."""

    checkpoint: str = Field(description="checkpoint folder written by jobs/train.py")
    replicas: int = Field(1, ge=1, description="replica processes, each with its own copy of the model")
    max_batch: int = Field(32, ge=1, description="maximum movies per batch; 1 turns batching off")
    batch_wait_s: float = Field(
        0.0, ge=0, description="seconds a partial batch waits for more movies; under load batches fill without it"
    )
    max_waiting: int = Field(128, ge=1, description="movies queued for the replicas; beyond that, requests get a 503")
    timeout_s: float = Field(30, gt=0, description="seconds per /predict request; then 503")
    explain: bool = Field(True, description="serve /explain; needs one more process with its own copy of the model")
    explain_waiting: int = Field(4, ge=1, description="queued explanations; beyond that, requests get a 503")
    explain_timeout_s: float = Field(60, gt=0, description="seconds per /explain request; then 503")
    tables_at_once: int = Field(2, ge=1, description="CSV files tagged concurrently; beyond that, requests get a 503")
    table_timeout_s: float = Field(300, gt=0, description="seconds per CSV file; then 503")
    safe_cells: bool = Field(
        False, description="put ' before the cells of a CSV file that spreadsheets take for formulas (= + - @)"
    )
    poster_side: int = Field(
        384, ge=16, description="longest side, in px, that uploaded posters are resized to; use the training value"
    )
    limits: Limits = Limits()
    host: str = Field("127.0.0.1", description="address to listen on; other than loopback, it is open to the network")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="host names that clients may use, besides IP addresses, localhost and this machine's names"
    )
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0: any free port")
    cpus_per_replica: int = Field(1, ge=1, description="CPUs and torch threads per replica")
    accelerator: Accelerator = Field("auto", description="auto: one GPU per replica if the cluster has any")
    precision: Precision = Field("fp32", description="fp32 matches jobs/tag.py in fp32 to five decimals")

    def requirements(self) -> tuple[Requirements, ...]:
        """See Config."""
        needs = Requirements(
            inputs=(self.checkpoint,),
            cpus=self.replicas * self.cpus_per_replica,
            gpus=self.replicas * (self.accelerator == "gpu"),
            packages=self.packages,
            mistakes=checkpoint.mistakes(self.checkpoint, trained_thresholds),
        )
        return (needs,)

    @property
    def packages(self) -> tuple[str, ...]:
        """The modules of optional dependencies that the service imports."""
        return ("fastapi", "python_multipart", "uvicorn", *(("captum",) if self.explain else ()))
