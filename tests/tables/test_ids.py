"""Duplicates among ids are found, and the row of each id."""

import numpy as np
import pyarrow as pa
import pytest

from mmgenre.tables import ids
from mmgenre.tables.ids import Distinct, Lookup

NAMES = ["tt3", "tt1", "tt2", "ü", "tt4"]


def test_duplicates_are_found_across_batches():
    ids_seen = Distinct()
    for batch in (["tt1", "tt2"], ["tt3"], [], ["tt2", "tt4"]):
        ids_seen.add(pa.array(batch, pa.string()))

    assert (len(ids_seen), ids_seen.num_distinct) == (5, 4)
    assert ids_seen.is_duplicate(pa.array(["tt1", "tt2", "tt9"])).to_pylist() == [False, True, False]


@pytest.mark.parametrize("all_collide", [False, True])
def test_the_first_row_of_an_id_is_found_even_if_hashes_collide(monkeypatch, all_collide):
    if all_collide:
        monkeypatch.setattr(ids, "hashes", lambda values: np.zeros(len(values), np.uint64))
    lookup = Lookup(pa.chunked_array([NAMES[:2], NAMES[2:], ["tt1", None]]))

    places = lookup.places(pa.chunked_array([["tt2", "tt9"], ["tt1", "ü", ""]]))

    assert places.tolist() == [2, -1, 1, 3, -1]


def test_no_id_is_found_among_none():
    assert Lookup(pa.chunked_array([], pa.string())).places(pa.array(["tt1"])).tolist() == [-1]
    assert Distinct(pa.array([], pa.string())).num_distinct == 0


def test_hashes_do_not_depend_on_the_chunks_of_a_column():
    whole = pa.array([f"tt{row}" for row in range(250_000)])

    assert (ids.hashes(whole) == ids.hashes(pa.chunked_array([whole[:7], whole[7:]]))).all()
