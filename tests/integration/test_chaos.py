"""A recipe that is killed again and again ends with the weights, scores and records of one that was not."""

from __future__ import annotations

import pytest

from chaos import chaos


@pytest.mark.slow
def test_two_kills_at_random_moments_change_no_bit(tmp_path):
    report = chaos(2, 1, tmp_path, ["single_multi_finetune"])
    assert sum(report.kills.values()) == 2
    assert report.unequal == []
