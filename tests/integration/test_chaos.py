"""A recipe that is killed again and again ends with the weights, scores and records of one that was not."""

from __future__ import annotations

import pytest

from chaos import chaos


@pytest.mark.chaos
def test_a_kill_at_a_random_moment_changes_no_bit(tmp_path):
    report = chaos(1, 1, tmp_path, ["single_multi_finetune"])
    assert sum(report.kills.values()) == 1
    assert report.unequal == []
