"""A recipe that is killed again and again ends with the weights, scores and records of one that was not."""

from __future__ import annotations

import pytest

from chaos import chaos


@pytest.mark.slow
def test_three_kills_at_random_moments_change_no_bit(tmp_path):
    report = chaos(3, 1, tmp_path, ["single_multi_finetune"])
    assert sum(report.kills.values()) == 3
    assert report.unequal == []
