"""Progress lines show the speed of the rows, not of Ray's start."""

import pytest

from mmgenre.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """The time, which tests set."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_the_speed_counts_from_the_first_rows_on(clock, capsys):
    progress = Progress("tag", 1000, every_s=10)

    clock[0] = 60
    progress.add({"ok": 100})
    clock[0] = 70
    progress.add({"ok": 90, "no_plot": 10})

    assert capsys.readouterr().out.splitlines() == [
        "tag: 100/1,000 rows (ok 100)",
        "tag: 200/1,000 rows (no_plot 10, ok 190), 10.0 rows/s, 80 s left",
    ]


def test_a_job_with_a_limit_shows_its_requests(clock, capsys):
    progress = Progress("enrich", 100, limit=40, every_s=1)

    progress.add({"ok": 10}, num_requests=20)
    clock[0] = 2
    progress.add({"ok": 30}, num_requests=60)

    assert capsys.readouterr().out == "enrich: 40/100 rows (ok 40), 30.0 of 40 requests/s, 4 s left\n"
