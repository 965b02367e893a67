"""The section on training: loss and scores per epoch, and learning rates per step."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from mmgenre.errors import InputError
from mmgenre.models.checkpoint import Card, read_card
from mmgenre.report import charts
from mmgenre.report.blocks import Block, Chart, DataTable, MissingInput, Panel, Paragraph, Section, Subsection
from mmgenre.tables import storage
from mmgenre.text_tables import three_decimals
from mmgenre.training.state import EpochMetrics, TrainingProgress

HISTORY = "history.json"
_TENSORBOARD = "tensorboard"
# Tags of TensorBoard, and what they are called on the page.
_RATE_TAGS = {"train/lr_head": "head", "train/lr_bottom": "lowest layer"}
_MAX_POINTS = 300
Curve = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class TrainingRecord:
    """The record of a training that its checkpoint holds.

    Args:
        card: of the checkpoint.
        history: one entry per epoch; empty for families without epochs; None: the file is missing.
        rates: steps and learning rates of each part of the model; empty if they were not logged.
    """

    card: Card
    history: tuple[EpochMetrics, ...] | None
    rates: Mapping[str, Curve]

    @classmethod
    def read(cls, directory: str) -> "TrainingRecord":
        """Read a checkpoint's folder.

        Raises:
            InputError: the folder is not a checkpoint, or its history cannot be parsed.
        """
        card, names = read_card(directory), storage.names_in(directory)
        if HISTORY not in names:
            return cls(card, None, {})
        location = storage.join(directory, HISTORY)
        try:
            progress = TrainingProgress.model_validate_json(storage.read_bytes(location))
        except ValueError:
            raise InputError(f"{location}: not a training history; train again, or delete the file") from None
        rates = _read_rates(storage.join(directory, _TENSORBOARD)) if _TENSORBOARD in names else {}
        return cls(card, progress.history, rates)

    @property
    def reads(self) -> str:
        """The model's inputs: plot, poster or both."""
        columns = self.card.model.columns
        return " + ".join(name for name, column in (("plot", "plot"), ("poster", "image")) if column in columns)


def training_section(records: Mapping[str, TrainingRecord | None]) -> Section:
    """One subsection per model; None: no checkpoint was given for it."""
    if not records:
        remedy = "Give a model's predictions and checkpoint: models.NAME.predictions=DIR models.NAME.checkpoint=DIR."
        return Section("training", "Training", [MissingInput("Training", remedy)])
    parts = [
        Subsection(f"training-{index}", name, _blocks(index, name, record))
        for index, (name, record) in enumerate(records.items())
    ]
    return Section("training", "Training", subsections=parts)


def _blocks(index: int, name: str, record: TrainingRecord | None) -> list[Block]:
    content = f"Training of {name}"
    if record is None:
        return [MissingInput(content, f"Give its checkpoint: models.{name}.checkpoint=DIR.")]
    if record.history is None:
        return [MissingInput(content, f"The checkpoint has no {HISTORY}, which jobs/train.py writes.")]
    if not record.history:
        return [Paragraph(f"{name} ({record.card.model.family}) is fitted in one step, without epochs.")]
    return [_chart(index, name, record.history, record.rates), _table(record.history)]


def _chart(index: int, name: str, history: Sequence[EpochMetrics], rates: Mapping[str, Curve]) -> Chart:
    lowest = min(history, key=lambda epoch: epoch.val_loss)
    best = max(history, key=lambda epoch: epoch.macro_f1)
    panels = [
        Panel(
            "loss",
            f"{name}: validation loss is lowest after epoch {lowest.epoch} of {len(history)}: {lowest.val_loss:.4f}.",
            _by_epoch(history, {"training": "loss", "validation": "val_loss"}, "loss"),
        ),
        Panel(
            "scores",
            f"{name}: macro F1 is highest after epoch {best.epoch} of {len(history)}: {best.macro_f1:.3f}.",
            _by_epoch(history, {"macro F1": "macro_f1", "mAP": "mean_average_precision"}, "validation score"),
        ),
    ]
    caption = f"{name}: loss (mean binary cross-entropy) and validation scores per epoch. Thresholds are cross-fitted."
    if rates:
        peaks = ", ".join(f"{part} {max(values):.2g}" for part, (_, values) in rates.items())
        alt = f"{name}: peak learning rates: {peaks}."
        panels.append(Panel("rates", alt, lambda axes: charts.draw_lines(axes, rates, "step", "learning rate")))
        caption += " Learning rates per step."
    return Chart(f"training-{index}-{charts.slug(name)}", caption, panels)


def _by_epoch(history: Sequence[EpochMetrics], fields: Mapping[str, str], ylabel: str) -> Callable[[Axes], None]:
    """Draw fields of EpochMetrics, given by the name of their line."""
    numbers = [epoch.epoch for epoch in history]
    lines = {name: (numbers, [getattr(epoch, field) for epoch in history]) for name, field in fields.items()}
    return lambda axes: charts.draw_lines(axes, lines, "epoch", ylabel)


def _table(history: Sequence[EpochMetrics]) -> DataTable:
    header = ["epoch", "loss", "val loss", "macro F1", "mAP", "micro F1", "rows/s", "seconds"]
    rows = [
        [
            str(epoch.epoch),
            f"{epoch.loss:.4f}",
            f"{epoch.val_loss:.4f}",
            *three_decimals(epoch.macro_f1, epoch.mean_average_precision, epoch.micro_f1),
            f"{epoch.rows_per_second:,.0f}",
            f"{epoch.seconds:,.1f}",
        ]
        for epoch in history
    ]
    return DataTable("Loss and scores per epoch.", header, rows, collapsed=True)


def _read_rates(directory: str) -> dict[str, Curve]:
    """Learning rates from TensorBoard event files, thinned to at most _MAX_POINTS steps."""
    # TensorBoard warns about steps that were repeated after a resume.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped] # noqa: PLC0415

    with storage.local_copy(directory) as folder:
        events: Any = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        rates: dict[str, Curve] = {}
        for tag, part in _RATE_TAGS.items():
            scalars = events.Scalars(tag) if tag in events.Tags()["scalars"] else []
            thinned = scalars[:: max(1, -(-len(scalars) // _MAX_POINTS))]
            if thinned:
                rates[part] = ([event.step for event in thinned], [event.value for event in thinned])
    return rates
