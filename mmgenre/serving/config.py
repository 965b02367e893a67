"""How the service answers: its queues, time-outs and limits."""

from pydantic import Field

from mmgenre.serving.limits import Limits
from mmgenre.tagging.decisions import DecisionConfig


class ServiceConfig(DecisionConfig):
    """How requests are answered."""

    checkpoint: str = Field(description="folder made by jobs/train.py")
    replicas: int = Field(1, ge=1, description="processes with a model each")
    max_batch: int = Field(32, ge=1, description="movies that a replica computes on together; 1: one at a time")
    batch_wait_s: float = Field(
        0.0, ge=0, description="how long a batch that is not full waits for more; a busy replica's fills in any case"
    )
    max_waiting: int = Field(128, ge=1, description="movies in the line before a replica; more are turned away: 503")
    timeout_s: float = Field(30, gt=0, description="of one request; then 503")
    explain: bool = Field(
        True, description="whether /explain is there; it takes one more process, and a model's memory"
    )
    explain_waiting: int = Field(4, ge=1, description="movies in the line before it; more are turned away: 503")
    explain_timeout_s: float = Field(60, gt=0, description="of one explanation; then 503")
    tables_at_once: int = Field(2, ge=1, description="CSV files worked on; more are turned away: 503")
    table_timeout_s: float = Field(300, gt=0, description="of one CSV file; then 503")
    poster_side: int = Field(384, ge=16, description="px; longest side of the posters that the model was trained on")
    limits: Limits = Limits()
