"""Several workers train one model: what they validate is what rank 0 saves."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from mmgenre.dataset.rows import Split
from mmgenre.labels import GENRES
from mmgenre.models import EncodedMovies
from mmgenre.models.checkpoint import load_weights
from mmgenre.models.efficientnet import EfficientNetConfig
from mmgenre.models.inference import predict_logits
from mmgenre.models.movies import Movies
from mmgenre.models.pixels import Pixels
from mmgenre.training.config import FitConfig
from mmgenre.training.trainer import ProcessGroup, Trainer

CPU = torch.device("cpu")
SIZE, WORKERS = 32, 2


class PlainGroup(ProcessGroup):
    """Workers without Ray Train."""

    def wrap(self, model):
        return torch.nn.parallel.DistributedDataParallel(model)


def split():
    """Posters in one of two shades; the workers of an uneven split see different ones."""
    random = np.random.default_rng(0)
    shade = np.repeat([20, 230], 9)[:, None, None, None]
    values = (shade + random.integers(0, 20, (18, SIZE, SIZE, 3))).astype(np.uint8)
    labels = random.integers(0, 2, (18, len(GENRES))).astype(np.float32)
    known = np.ones(18, bool)
    return Split(EncodedMovies(~known, known, (Pixels(values),)), labels)


def build():
    torch.manual_seed(0)
    config = EfficientNetConfig(weights=None, augment=None, height=SIZE, width=SIZE)
    return config.build(Movies([], [], []))


def work(rank, folder):
    """One epoch of one worker; writes its validation logits."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORKERS)
    config = FitConfig(batch_size=3, epochs=1, precision="fp32")
    trainer = Trainer(config, build(), {"train": split(), "val": split()}, PlainGroup(CPU, rank, WORKERS, WORKERS))
    logits = trainer.run_epoch()
    np.save(f"{folder}/logits-{rank}.npy", logits)
    if rank == 0:
        trainer.save(folder)
    dist.destroy_process_group()


@pytest.mark.process
def test_every_worker_validates_with_the_batch_norm_statistics_that_are_saved(tmp_path):
    multiprocessing.spawn(work, (tmp_path,), nprocs=WORKERS)

    saved = build()
    load_weights(saved, tmp_path)
    expected = predict_logits(saved.eval(), split().movies, CPU, "fp32")

    for rank in range(WORKERS):
        np.testing.assert_allclose(np.load(tmp_path / f"logits-{rank}.npy"), expected, atol=1e-5)
