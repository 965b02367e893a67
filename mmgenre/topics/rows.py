"""TOPICS: one row per movie with its topic, whether or not the topics were fitted on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmgenre.tables.chunks import gather
from mmgenre.tables.ids import hashes
from mmgenre.tagging.units import WorkFolder
from mmgenre.topics.embeddings import HAS_PLOT, embeddings_in
from mmgenre.topics.model import NO_TOPIC, TopicModel


class TopicStatus(StrEnum):
    """How a movie got its topic."""

    TOPIC = "topic"
    NO_TOPIC = "no_topic"
    # An outlier that got the topic with the most similar embeddings.
    NEAREST = "nearest"
    NO_PLOT = "no_plot"


TOPICS = pa.schema(
    [
        pa.field("imdb_id", pa.string(), nullable=False),
        # A TopicStatus.
        pa.field("status", pa.string(), nullable=False),
        # -1: no topic; null: no plot.
        pa.field("topic", pa.int32()),
        pa.field("name", pa.string()),
        # HDBSCAN's probability of the topic; null for `nearest` and `no_plot`.
        pa.field("probability", pa.float32()),
    ]
)
NO_TOPIC_NAME = "no topic"
_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class PlotSample:
    """The N movies that topics are fitted on, sorted by id.

    Args:
        ids: distinct.
        titles: None where unknown.
        plots: none of them blank.
        embeddings: float32, shape (N, D).
    """

    ids: Sequence[str]
    titles: Sequence[str | None]
    plots: Sequence[str]
    embeddings: np.ndarray


def sample_ids(work: WorkFolder, size: int, seed: int) -> pa.Array:
    """Ids of a random sample of the staged movies with a plot, whether or not they are embedded yet."""
    has_plot = pc.utf8_length(pc.utf8_trim_whitespace(pc.field("plot"))) > 0
    ids = work.staged.read(["imdb_id"], filter=has_plot)["imdb_id"].combine_chunks()
    order = np.argsort(hashes(pc.binary_join_element_wise(ids, str(seed), " ")), kind="stable")
    return ids.take(pa.array(order[:size]))


def read_sample(work: WorkFolder, ids: pa.Array) -> PlotSample:
    """The embedded movies with these ids."""
    movies = work.staged.read(filter=pc.field("imdb_id").isin(ids))
    titles = movies["title"].to_pylist() if "title" in movies.column_names else [None] * len(movies)
    embeddings = []
    for results in work.results():
        is_sampled = pc.is_in(results["imdb_id"], value_set=ids).to_numpy()
        embeddings.append(embeddings_in(results)[is_sampled])
    return PlotSample(movies["imdb_id"].to_pylist(), titles, movies["plot"].to_pylist(), np.concatenate(embeddings))


def assign_topics(work: WorkFolder, sample: PlotSample, model: TopicModel, *, reduce_outliers: bool) -> pa.Table:
    """The TOPICS rows of all movies, without names.

    Args:
        work: holds the embeddings.
        sample: what the model was fitted on; these movies keep their fitted topics.
        model: predicts the topics of the other movies.
        reduce_outliers: give movies without a topic the nearest one.
    """
    # Few large tables: every prediction of BERTopic has a fixed cost.
    tables = gather(work.results(), rows=_ROWS_AT_ONCE)
    return pa.concat_tables([_assign(results, sample, model, reduce_outliers) for results in tables])


def _assign(results: pa.Table, sample: PlotSample, model: TopicModel, reduce_outliers: bool) -> pa.Table:
    embeddings, has_plot = embeddings_in(results), pc.equal(results["status"], HAS_PLOT).to_numpy()
    in_sample = pc.index_in(results["imdb_id"], value_set=pa.array(sample.ids)).fill_null(-1).to_numpy()
    fitted, others = in_sample >= 0, has_plot & (in_sample < 0)
    topics, probabilities = np.full(len(results), NO_TOPIC), np.full(len(results), np.nan)
    topics[fitted] = model.fitted.topics[in_sample[fitted]]
    probabilities[fitted] = model.fitted.probabilities[in_sample[fitted]]
    if others.any():
        predicted = model.predict(embeddings[others])
        topics[others], probabilities[others] = predicted.topics, predicted.probabilities
    is_outlier = has_plot & (topics == NO_TOPIC)
    statuses = np.select([~has_plot, is_outlier], [TopicStatus.NO_PLOT, TopicStatus.NO_TOPIC], TopicStatus.TOPIC)
    if reduce_outliers:
        topics[is_outlier], probabilities[is_outlier] = model.nearest(embeddings[is_outlier]), np.nan
        statuses[is_outlier] = TopicStatus.NEAREST
    columns = {
        "imdb_id": results["imdb_id"],
        "status": pa.array(statuses.tolist(), pa.string()),
        "topic": pa.array(topics.astype(np.int32), mask=~has_plot),
        "probability": pa.array(probabilities.astype(np.float32), mask=np.isnan(probabilities)),
    }
    return pa.table(columns)


def with_names(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The complete TOPICS rows, given the names of the topics."""
    names_and_none = pa.array([*names, NO_TOPIC_NAME])
    indices = pc.if_else(pc.equal(rows["topic"], NO_TOPIC), len(names), rows["topic"])
    return rows.append_column("name", names_and_none.take(indices.combine_chunks())).select(TOPICS.names)
