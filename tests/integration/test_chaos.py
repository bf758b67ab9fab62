"""A recipe that is killed again and again ends with the weights, scores and records of one that was not."""

from __future__ import annotations

import pytest

from chaos import chaos


@pytest.mark.slow
def test_four_kills_at_random_moments_change_no_bit(tmp_path):
    report = chaos(4, 1, tmp_path)
    assert sum(report.kills.values()) == 4
    assert report.unequal == []
