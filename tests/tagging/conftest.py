"""Tagging without Ray, for tests of what is computed, not of who computes it."""

import pyarrow as pa
import pytest

from mmgenre import ray_session
from mmgenre.tagging import job
from mmgenre.tagging.actors import InferenceStats, TagUnits
from mmgenre.tagging.units import UnitReader


@pytest.fixture
def in_process(monkeypatch):
    """Units are computed by the same stage as always, in this process in place of Ray's actors."""

    def compute_units(work, image_files, settings):
        stats, units = InferenceStats(actors=1), work.unfinished()
        if units:
            stage = TagUnits(work, UnitReader(work, image_files), settings)
            for counts in stage(pa.Table.from_pylist([vars(unit) for unit in units])):
                stats.computed_in[counts["precision"][0].as_py()] += counts["rows"][0].as_py()
        return stats

    monkeypatch.setattr(ray_session, "assigned_cpus", lambda: 1)
    monkeypatch.setattr(job, "compute_units", compute_units)
