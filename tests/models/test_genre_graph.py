"""The genre graph: edges from co-occurrence, and a correction that starts at zero."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mmgenre.labels import GENRES
from mmgenre.models.bilstm import BilstmConfig
from mmgenre.models.fusion import LateFusionConfig
from mmgenre.models.genre_graph import GenreGraph, cooccurrence_edges, fit_graph, set_graph_edges
from mmgenre.models.movies import Movies
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.vgg import VggConfig

RANDOM = np.random.default_rng(0)
WORDS = np.array(["ghost", "robot", "kiss", "chase", "heist", "island"])
PLOTS = [" ".join(RANDOM.choice(WORDS, 3)) for _ in range(80)]
LABELS = np.zeros((80, 9), np.float32)
for column, word in enumerate(WORDS):
    LABELS[:, column] = [word in plot for plot in PLOTS]
MOVIES = Movies.of_plots(PLOTS)
IMAGE = {"model": {"family": "vgg", "weights": "none", "head": "light", "height": 32, "width": 32, "augment": None}}


def test_edges_are_shares_of_co_occurring_genres():
    labels = np.zeros((4, 9), np.float32)
    labels[:, 0] = 1
    labels[:3, 1] = 1
    labels[3, 2] = 1

    edges = cooccurrence_edges(labels)

    assert edges[0, :3].tolist() == pytest.approx([0.8, 0.2 * 3 / 4, 0.2 / 4])
    assert edges[1, :3].tolist() == pytest.approx([0.2, 0.8, 0])
    # A genre that never co-occurs has only its own edge.
    assert edges[5].tolist() == [float(column == 5) for column in range(9)]
    assert edges.sum(1).tolist() == pytest.approx([1] * 9)


@pytest.mark.parametrize(
    "config",
    [
        BilstmConfig(genre_graph=True, vector_size=4, hidden=3),
        VggConfig(genre_graph=True, weights=None, height=32, width=32, augment=None),
        LateFusionConfig.model_validate(
            {"genre_graph": True, "text": {"model": {"family": "bilstm", "genre_graph": True}}, "image": IMAGE}
        ),
    ],
    ids=lambda config: config.family,
)
def test_every_family_can_have_a_graph_that_starts_at_zero_and_trains(config):
    model = config.build(MOVIES)
    set_graph_edges(model, LABELS)
    graphs = [module for module in model.modules() if isinstance(module, GenreGraph)]
    logits = torch.randn(5, 9)

    assert len(graphs) == (2 if config.family == "late_fusion" else 1)
    for graph in graphs:
        assert torch.equal(graph.edges, cooccurrence_edges(LABELS))
        assert torch.equal(graph(logits), logits)
        graph(logits).square().sum().backward()
        assert graph.last.weight.grad.abs().sum() > 0
    assert "edges" in {name.rpartition(".")[2] for name in model.state_dict()}


def test_edges_already_set_are_kept():
    model = BilstmConfig(genre_graph=True, vector_size=4, hidden=3).build(MOVIES)
    set_graph_edges(model, LABELS)
    set_graph_edges(model, 1 - LABELS)

    assert torch.equal(model.head[1].edges, cooccurrence_edges(LABELS))


def test_a_graph_learns_that_one_genre_implies_another():
    labels = np.zeros((400, 9), np.float32)
    labels[::2, [0, 1]] = 1
    labels[1::2, 2] = 1
    logits = RANDOM.normal(size=(400, 9)).astype(np.float32)
    logits[:, 0] = np.where(labels[:, 0], 3, -3)
    graph = GenreGraph()
    graph.edges.copy_(cooccurrence_edges(labels))

    fit_graph(graph, logits, labels)

    with torch.inference_mode():
        refined = graph(torch.from_numpy(logits))
    wanted = torch.from_numpy(labels)
    before, after = (
        binary_cross_entropy_with_logits(values[:, 1], wanted[:, 1]) for values in (torch.from_numpy(logits), refined)
    )
    assert after < 0.5 * before


def test_tfidf_fits_its_graph_on_out_of_fold_logits():
    plain, refined = (TfidfConfig(min_df=1, genre_graph=graph).fit(MOVIES, LABELS).eval() for graph in (False, True))
    rows = np.arange(len(PLOTS))

    with torch.inference_mode():
        alone, together = (model(model.encoder.encode(MOVIES).batch(rows)) for model in (plain, refined))

    assert alone.shape == together.shape == (len(PLOTS), len(GENRES))
    assert torch.equal(refined.linear.weight, plain.linear.weight)
    wanted = torch.from_numpy(LABELS)
    assert binary_cross_entropy_with_logits(together, wanted) < binary_cross_entropy_with_logits(alone, wanted)
