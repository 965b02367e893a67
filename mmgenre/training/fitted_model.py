"""A trained model with its validation logits, and the calibrated card made from them."""

from dataclasses import dataclass, field

import numpy as np
import torch

from mmgenre.dataset.rows import Rows, Split, encode
from mmgenre.models import DirectlyFittedConfig, EncodedMovies, FusionConfig, GenreModel
from mmgenre.models.checkpoint import Card, SingleInputStatus
from mmgenre.models.inference import Precision, predict_logits
from mmgenre.scoring.metrics import held_out_scores
from mmgenre.scoring.thresholds import calibrate, probabilities
from mmgenre.training.config import TrainConfig

_NOT_ON_CARD = ("dataset", "output", "features", "model", "tracking")


@dataclass(frozen=True)
class FittedModel:
    """A trained model, and its logits for the validation movies that it can read.

    Args:
        model: in evaluation mode, with its best weights.
        logits: shape (N, 9).
        labels: shape (N, 9).
        num_train: number of training movies.
        groups: shape (N,): validation movies with the same number share a fold; see fit_thresholds.
        single_modality: fusions only: logits, labels and groups of the movies with a plot, and of those with a poster,
            when nothing else is given to the model; keyed by the status of such predictions.
    """

    model: GenreModel
    logits: np.ndarray
    labels: np.ndarray
    num_train: int
    groups: np.ndarray | None = None
    single_modality: dict[SingleInputStatus, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = field(
        default_factory=dict
    )

    @classmethod
    def in_closed_form(cls, family: DirectlyFittedConfig, rows: dict[str, Rows]) -> "FittedModel":
        """Fit a family that needs no epochs.

        Args:
            family: the config of the model.
            rows: unencoded movies, "train" and "val".
        """
        train, val = rows["train"], rows["val"]
        model = family.fit(train.movies, train.labels).eval()
        encoded = encode(model.encoder, val)
        logits = predict_logits(model, encoded.movies, torch.device("cpu"))
        return cls(model, logits, encoded.labels, len(train.labels), encoded.groups)

    @classmethod
    def from_epochs(
        cls, config: TrainConfig, model: GenreModel, logits: np.ndarray, splits: dict[str, Split]
    ) -> "FittedModel":
        """A model that holds the weights of its best epoch, whose validation logits are given."""
        model, val = model.eval(), splits["val"]
        is_fusion = isinstance(config.model, FusionConfig)
        single_modality = _single_modality(model, val, config.precision) if is_fusion else {}
        return cls(model, logits, val.labels, len(splits["train"].labels), val.groups, single_modality)

    def card(self, config: TrainConfig, dataset: str) -> Card:
        """The card of the checkpoint: calibrated on the validation movies, and scored on them at held-out thresholds.

        Args:
            config: the resolved config of the training.
            dataset: fingerprint of the MOVIES table.
        """
        calibration = calibrate(self.logits, self.labels, groups=self.groups, seed=config.seed)
        chances = probabilities(self.logits, calibration.temperature)
        return Card(
            model=config.model,
            training=config.to_settings(without=_NOT_ON_CARD),
            thresholds=calibration.thresholds,
            temperature=calibration.temperature,
            alone={
                status: calibrate(logits, labels, groups=groups, seed=config.seed)
                for status, (logits, labels, groups) in self.single_modality.items()
            },
            scores=held_out_scores(chances, self.labels, groups=self.groups, seed=config.seed),
            dataset=dataset,
        )


def _single_modality(
    model: GenreModel, val: Split, precision: Precision
) -> dict[SingleInputStatus, tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """See FittedModel; a modality that no movie has is left out."""
    inputs: dict[SingleInputStatus, tuple[EncodedMovies, np.ndarray]] = {
        "text_only": (val.movies.only("text"), val.movies.has_text),
        "poster_only": (val.movies.only("image"), val.movies.has_image),
    }
    return {
        status: (
            predict_logits(model, movies, torch.device("cpu"), precision),
            val.labels[known],
            None if val.groups is None else val.groups[known],
        )
        for status, (movies, known) in inputs.items()
        if known.any()
    }
