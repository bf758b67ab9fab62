"""lam and the learning rate over progress, against closed forms, transformers and BERT's own schedule."""

import pytest
import torch

from bam_lightning.config.job_config import LRSchedule
from bam_lightning.training.schedules import (
    LR_SCHEDULES,
    ConstantAnnealing,
    LinearAnnealing,
    bert_rate,
    constant_rate,
    linear_rate,
)


def test_linear_goes_from_teacher_to_gold_with_progress():
    assert [LinearAnnealing()(step / 8) for step in range(9)] == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1]


def test_linear_may_start_above_the_teacher_and_end_below_gold():
    assert [LinearAnnealing(start=0.5, end=0.9)(step / 4) for step in range(5)] == pytest.approx(
        [0.5, 0.6, 0.7, 0.8, 0.9]
    )


@pytest.mark.parametrize("lam", [0, 0.5, 1])
def test_constant_is_the_same_at_every_progress(lam):
    assert {ConstantAnnealing(lam)(step / 10) for step in range(11)} == {lam}


@pytest.mark.parametrize("lam", [-0.1, 1.5, float("nan")])
def test_lam_out_of_range_names_the_value(lam):
    with pytest.raises(ValueError, match=rf"^lam must be in \[0, 1\], got {lam}$"):
        ConstantAnnealing(lam)
    for name in ("start", "end"):
        with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\], got {lam}$"):
            LinearAnnealing(**{name: lam})


@pytest.mark.parametrize("steps", [10, 30, 70, 100, 730])
def test_linear_rate_is_transformers_linear_schedule_with_warmup_at_every_step(steps):
    from transformers import get_linear_schedule_with_warmup

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    for step in range(steps + 1):
        assert linear_rate(step / steps, 0.1) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("steps", [10, 100, 50_000])
def test_bert_rate_is_the_reference_codes_at_every_step(steps):
    """The reference code, in whole steps t of T, warm-up W: t < W: t / W; after it 1 - t / T."""
    warm = steps // 10
    for step in range(0, steps + 1, max(1, steps // 200)):
        expected = step / warm if step < warm else 1 - step / steps
        assert bert_rate(step / steps, 0.1) == pytest.approx(expected, abs=1e-12)


def test_bert_rate_drops_from_one_to_nine_tenths_where_warmup_ends():
    assert bert_rate(0.0999999, 0.1) == pytest.approx(1.0, abs=1e-5)
    assert bert_rate(0.1, 0.1) == 0.9
    assert linear_rate(0.1, 0.1) == 1.0


def test_linear_rate_has_9_9_percent_more_area_than_berts():
    """The reference code. Areas by hand: 1/2 for linear; 0.1/2 + 0.9^2/2 = 0.455 for BERT's."""
    middles = [(place + 0.5) / 1000 for place in range(1000)]  # exact for straight pieces
    linear = sum(linear_rate(p, 0.1) for p in middles) / 1000
    bert = sum(bert_rate(p, 0.1) for p in middles) / 1000
    assert (linear, bert) == (pytest.approx(0.5, abs=1e-9), pytest.approx(0.455, abs=1e-9))
    assert linear / bert == pytest.approx(1.099, abs=5e-4)  # 9.9 % is rounded


def test_constant_rate_rises_and_stays():
    assert [constant_rate(p, 0.5) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 0.5, 1, 1, 1]


@pytest.mark.parametrize("shape", list(LRSchedule))
def test_every_shape_of_the_config_starts_at_zero_and_stays_in_the_unit_range(shape):
    rate = LR_SCHEDULES[shape.value]
    values = [rate(step / 1000, 0.1) for step in range(1001)]
    assert values[0] == 0
    assert max(values) <= 1
    assert min(values) == 0


@pytest.mark.parametrize(("shape", "first"), [("linear", 1.0), ("bert", 1.0), ("constant", 1.0)])
def test_without_warmup_the_first_step_has_the_full_rate(shape, first):
    assert LR_SCHEDULES[shape](0.0, 0.0) == first


@pytest.mark.parametrize("rate", [linear_rate, bert_rate])
def test_rates_do_not_fall_below_zero_past_the_end(rate):
    assert rate(1.0 + 1e-9, 0.1) == 0
