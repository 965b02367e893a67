"""The section on training: what each epoch brought, and the rates that weights were changed with."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmgenre.errors import InputError
from mmgenre.models.checkpoint import Card, read_card
from mmgenre.report import charts as axes
from mmgenre.report.blocks import Block, Chart, Missing, Panel, Part, Section, Table, Text
from mmgenre.tables import storage
from mmgenre.training.state import Epoch, Progress

HISTORY = "history.json"
_TENSORBOARD = "tensorboard"
# What a journal calls them, and people.
_RATES = {"train/lr_head": "head", "train/lr_bottom": "lowest layer"}
_MOST_POINTS = 300


@dataclass(frozen=True)
class Trained:
    """What a checkpoint tells of its training.

    Args:
        card: of the checkpoint.
        history: an epoch after the other; None: the file is not there.
        rates: steps and learning rates, by what they are of; empty where there are none.
    """

    card: Card
    history: tuple[Epoch, ...] | None
    rates: Mapping[str, tuple[Sequence[float], Sequence[float]]]

    @classmethod
    def of(cls, directory: str) -> "Trained":
        """Read from a checkpoint's folder.

        Raises:
            InputError: there is none, or its history is none.
        """
        card, names = read_card(directory), storage.names_in(directory)
        if HISTORY not in names:
            return cls(card, None, {})
        location = storage.join(directory, HISTORY)
        try:
            progress = Progress.model_validate_json(storage.read_bytes(location))
        except ValueError:
            raise InputError(f"{location}: not the history of a training; train again, or take the file away") from None
        rates = _rates(storage.join(directory, _TENSORBOARD)) if _TENSORBOARD in names else {}
        return cls(card, progress.history, rates)

    @property
    def reads(self) -> str:
        """What the model reads of a movie, in words."""
        columns = self.card.model.columns
        return " + ".join([*(["plot"] if "plot" in columns else []), *(["poster"] if "image" in columns else [])])


def training_section(trained: Mapping[str, Trained | None]) -> Section:
    """A part for each model; None: no checkpoint was given."""
    parts = [
        Part(f"training-{place}", name, _model(place, name, one)) for place, (name, one) in enumerate(trained.items())
    ]
    if not parts:
        return Section(
            "training", "Training", [Missing("Training", "Give the checkpoint of a model: models.NAME.checkpoint=DIR.")]
        )
    return Section("training", "Training", parts=parts)


def _model(place: int, name: str, found: Trained | None) -> list[Block]:
    if found is None:
        return [Missing(f"How {name} was trained", f"Give its checkpoint: models.{name}.checkpoint=DIR.")]
    if found.history is None:
        way = f"The checkpoint has no {HISTORY}; jobs/train.py writes it beside the weights."
        return [Missing(f"How {name} was trained", way)]
    if not found.history:
        return [Text(f"{name} ({found.card.model.family}) is fitted at once: there are no epochs to show.")]
    return [_chart(place, name, found), _table(found.history)]


def _chart(place: int, name: str, found: Trained) -> Chart:
    history = found.history or ()
    numbers = [epoch.epoch for epoch in history]
    best = max(history, key=lambda epoch: epoch.macro_f1)
    lowest = min(history, key=lambda epoch: epoch.val_loss)
    losses = {
        "training": (numbers, [one.loss for one in history]),
        "validation": (numbers, [one.val_loss for one in history]),
    }
    scores = {
        "macro F1": (numbers, [one.macro_f1 for one in history]),
        "mAP": (numbers, [one.mean_average_precision for one in history]),
    }
    says_loss = (
        f"The validation loss of {name} is lowest after epoch {lowest.epoch} of {len(history)}: {lowest.val_loss:.4f}."
    )
    says_scores = f"The macro F1 of {name} is highest after epoch {best.epoch} of {len(history)}: {best.macro_f1:.3f}, "
    says_scores += f"with a mAP of {best.mean_average_precision:.3f}."
    panels = [
        Panel("loss", says_loss, lambda drawn: axes.draw_curves(drawn, losses, ("epoch", "loss"))),
        Panel(
            "scores",
            says_scores,
            lambda drawn: axes.draw_curves(drawn, scores, ("epoch", "score of the validation split")),
        ),
    ]
    if found.rates:
        tops = ", ".join(f"{what} {max(values):.2g}" for what, (_, values) in found.rates.items())
        says_rates = f"Learning rates of {name} at their highest: {tops}."
        panels.append(Panel("rates", says_rates, lambda drawn: axes.draw_rates(drawn, found.rates)))
    caption = (
        f"{name}: by epoch, the loss (mean binary cross-entropy), and the scores of the validation split at thresholds "
        "fitted on other folds of it." + (" By step, the learning rates." if found.rates else "")
    )
    return Chart(f"training-{place}-{axes.slug(name)}", caption, panels)


def _table(history: Sequence[Epoch]) -> Table:
    header = ["epoch", "loss", "val loss", "macro F1", "mAP", "micro F1", "rows/s", "seconds"]
    rows = [
        [
            str(one.epoch),
            f"{one.loss:.4f}",
            f"{one.val_loss:.4f}",
            f"{one.macro_f1:.3f}",
            f"{one.mean_average_precision:.3f}",
            f"{one.micro_f1:.3f}",
            f"{one.rows_per_second:,.0f}",
            f"{one.seconds:,.1f}",
        ]
        for one in history
    ]
    return Table("What each epoch brought.", header, rows, folded=True)


def _rates(directory: str) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """Learning rates of TensorBoard's events, at no more steps than can be seen."""
    # Steps that a training did again after it was stopped are left out without a word.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped] # noqa: PLC0415

    with storage.local_copy(directory) as folder:
        events: Any = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        found: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
        for tag, what in _RATES.items():
            scalars = events.Scalars(tag) if tag in events.Tags()["scalars"] else []
            kept = scalars[:: max(1, -(-len(scalars) // _MOST_POINTS))]
            if kept:
                found[what] = ([one.step for one in kept], [one.value for one in kept])
    return found
