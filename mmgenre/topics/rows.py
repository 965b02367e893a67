"""TOPICS: which topic each movie is of, whether topics were found in it or not."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.tables.ids import hashes
from mmgenre.topics.embeddings import Plots, PlotWork
from mmgenre.topics.model import NO_TOPIC, Assigned, TopicModel

TOPICS = pa.schema(
    [
        pa.field("imdb_id", pa.string(), nullable=False),
        # topic; no_topic; nearest: had none, and was given the one most like it; no_plot.
        pa.field("status", pa.string(), nullable=False),
        # -1: no topic; null: no plot.
        pa.field("topic", pa.int32()),
        pa.field("name", pa.string()),
        # That it is of the topic, as HDBSCAN says; null where it is the nearest one, or where there is no plot.
        pa.field("probability", pa.float32()),
    ]
)
NO_TOPIC_NAME = "no topic"
_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class TopicRows:
    """N movies, in the order of their ids.

    Args:
        ids: of each.
        statuses: shape (N,), see TOPICS.
        topics: shape (N,); NO_TOPIC where there is none.
        probabilities: shape (N,); NaN where there is none.
    """

    ids: list[str]
    statuses: np.ndarray
    topics: np.ndarray
    probabilities: np.ndarray

    @property
    def has_plot(self) -> np.ndarray:
        """Shape (N,), bool."""
        return self.statuses != "no_plot"

    def table(self, names: list[str]) -> pa.Table:
        """As TOPICS has them, given the names of the topics."""
        all_names = np.array([*names, NO_TOPIC_NAME], object)  # NO_TOPIC is the last one
        columns = {
            "imdb_id": pa.array(self.ids, pa.string()),
            "status": pa.array(self.statuses, pa.string()),
            "topic": pa.array(self.topics.astype(np.int32), mask=~self.has_plot),
            "name": pa.array(all_names[self.topics], pa.string(), mask=~self.has_plot),
            "probability": pa.array(self.probabilities.astype(np.float32), mask=np.isnan(self.probabilities)),
        }
        return pa.table(columns, schema=TOPICS)


def chosen(work: PlotWork, sample: int, seed: int) -> set[str]:
    """Ids of the movies that topics are found in: drawn of those with a plot, whether embedded yet or not."""
    has_plot = pc.utf8_length(pc.utf8_trim_whitespace(pc.field("plot"))) > 0
    ids = work.staged.read(["imdb_id"], filter=has_plot)["imdb_id"]
    order = np.argsort(hashes(pc.binary_join_element_wise(ids, str(seed), " ")), kind="stable")
    return set(ids.take(pa.array(order[:sample])).to_pylist())


def drawn(work: PlotWork, ids: set[str]) -> Plots:
    """The movies of these ids, in the order of them."""
    return Plots.joined([plots.take(_rows_in(plots, ids)) for plots in work.plots()])


def assigned(work: PlotWork, fitted: Plots, model: TopicModel, *, reduce_outliers: bool) -> TopicRows:
    """All movies: those that topics were found in as they are, the others where they fall."""
    known = {one: row for row, one in enumerate(fitted.ids)}
    parts, waiting = [], []
    for plots in work.plots():
        waiting.append(plots)
        if sum(len(one.ids) for one in waiting) >= _ROWS_AT_ONCE:
            parts.append(_assigned(Plots.joined(waiting), known, model))
            waiting = []
    if waiting:
        parts.append(_assigned(Plots.joined(waiting), known, model))
    rows = TopicRows(
        [one for part in parts for one in part.ids],
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("statuses", "topics", "probabilities")),
    )
    return _with_nearest(rows, work, model) if reduce_outliers else rows


def _assigned(plots: Plots, known: dict[str, int], model: TopicModel) -> TopicRows:
    places = np.array([known.get(one, -1) for one in plots.ids])
    seen, others = np.flatnonzero(places >= 0), np.flatnonzero((places < 0) & plots.has_plot)
    topics, probabilities = np.full(len(places), NO_TOPIC), np.full(len(places), np.nan)
    topics[seen] = model.assigned.topics[places[seen]]
    probabilities[seen] = model.assigned.probabilities[places[seen]]
    if len(others):
        found: Assigned = model.assign(plots.values[others])
        topics[others], probabilities[others] = found.topics, found.probabilities
    statuses = np.select([~plots.has_plot, topics == NO_TOPIC], ["no_plot", "no_topic"], "topic").astype(object)
    return TopicRows(plots.ids, statuses, topics, probabilities)


def _with_nearest(rows: TopicRows, work: PlotWork, model: TopicModel) -> TopicRows:
    """The same, but that movies without a topic have the one whose embeddings are most like theirs."""
    start, topics = 0, rows.topics.copy()
    is_lost = rows.statuses == "no_topic"
    for plots in work.plots():
        end = start + len(plots.ids)
        lost = np.flatnonzero(is_lost[start:end])
        topics[start + lost] = model.nearest(plots.values[lost])
        start = end
    statuses, probabilities = rows.statuses.copy(), rows.probabilities.copy()
    statuses[is_lost], probabilities[is_lost] = "nearest", np.nan
    return TopicRows(rows.ids, statuses, topics, probabilities)


def _rows_in(plots: Plots, ids: set[str]) -> np.ndarray:
    return np.array([row for row, one in enumerate(plots.ids) if one in ids], int)
