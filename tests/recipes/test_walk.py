"""Every option of a job changes the id of a Run, or is in a list that says why not; see ``make walk``."""

from __future__ import annotations

from walk import listed, walk, wrong


def test_every_option_changes_an_id_or_is_listed():
    found = walk(["+experiment=single_multi"])
    assert wrong(found) == []
    assert found["seed"] == found["optimization.warmup"] == found["trainer.precision"] == "id"
    assert found["run.progress"] == "no bit"
    assert found["trainer.devices"] == "rounding"
    claimed = [path for path, kind in found.items() if kind == "id" and listed(path) in ("no bit", "rounding")]
    assert claimed == []  # the lists are true
