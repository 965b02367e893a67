"""A training that several test files compare theirs with, and what is read off its output."""

import json
from pathlib import Path

import numpy as np

# No dropout: two workers draw other masks than one. fp32: sums in another order stay close.
SETTINGS = {
    "model": {
        "family": "transformer",
        "pretrained": "none",
        "architecture": {
            "model_type": "electra",
            "embedding_size": 64,
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        "vocab_size": 1000,
        "max_length": 96,
        "dropout": 0.0,
    },
    "optimizer": {"lr_backbone": 1e-3, "lr_head": 2e-3},
    "precision": "fp32",
    "epochs": 5,
    "patience": 5,
    "batch_size": 12,
    "accumulate": 2,
    "workers": 2,
}


def config(movies, output, **changes):
    from mmgenre.training.config import TrainConfig

    return TrainConfig.parse({"dataset": movies, "output": str(output)} | SETTINGS | changes, "test")


def history(output):
    return json.loads((Path(output) / "history.json").read_text())["history"]


def step_losses(output):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(Path(output) / "tensorboard"))
    events.Reload()
    return np.array([event.value for event in events.Scalars("train/loss")])


def scores(output):
    from mmgenre.models import checkpoint

    return checkpoint.read_card(str(output)).scores
