"""Extension points: what ``build`` makes, and the whole message where it cannot."""

from __future__ import annotations

import sys

import pytest

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.instantiate import instantiate
from bam_lightning.data.sampling import ReplicationSampler, Sampler
from bam_lightning.training.schedules import ConstantAnnealing, LinearAnnealing, Schedule

CONSTANT = "bam_lightning.ConstantAnnealing"
BASES = {"distillation.schedule": Schedule, "sampler": Sampler, "key": object}


def refusal(key: str, section: dict) -> str:
    """Return what ``build`` has to say against a section."""
    with pytest.raises(ValueError) as caught:
        instantiate(key, section, BASES[key])
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"_target_": "bam_lightning.LinearAnnealing"}, LinearAnnealing()),
        ({"_target_": CONSTANT, "lam": 0.5}, ConstantAnnealing(0.5)),
        (
            {"_target_": "bam_lightning.ReplicationSampler", "exponent": 0.75, "reference_size": None},
            ReplicationSampler(0.75, None),
        ),
        ({"_target_": "fractions.Fraction", "numerator": 3, "denominator": 6}, 0.5),
    ],
)
def test_build_calls_the_target_with_the_rest_of_the_section(section, expected):
    assert instantiate("key", section, object) == expected


def test_build_finds_a_users_own_module(tmp_path, monkeypatch):
    source = "import bam_lightning\ndef steady(lam=0.25) -> bam_lightning.Schedule:\n    return lambda progress: lam\n"
    (tmp_path / "my_schedules_of_test_targets.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    schedule = instantiate("distillation.schedule", {"_target_": "my_schedules_of_test_targets.steady"}, Schedule)
    sys.modules.pop("my_schedules_of_test_targets")
    assert schedule(0.9) == 0.25


def test_build_leaves_the_section_as_it_was():
    section = {"_target_": CONSTANT, "lam": 0.5}
    instantiate("distillation.schedule", section, Schedule)
    assert section == {"_target_": CONSTANT, "lam": 0.5}


def test_target_that_takes_any_keyword_gets_any_keyword():
    assert instantiate("key", {"_target_": "argparse.Namespace", "anything": 1}, object).anything == 1


def test_unknown_argument_names_the_options_and_the_nearest():
    assert refusal("distillation.schedule", {"_target_": CONSTANT, "lamb": 0.5}) == (
        "distillation.schedule.lamb is not an option of bam_lightning.ConstantAnnealing; "
        "options: lam; did you mean 'lam'?"
    )


def test_unknown_argument_of_a_target_without_options():
    assert refusal("key", {"_target_": "builtins.object", "lam": 0.5}) == (
        "key.lam is not an option of builtins.object; options: none"
    )


def test_missing_argument_is_named():
    assert refusal("sampler", {"_target_": "bam_lightning.SizeProportionalSampler"}) == (
        "sampler.exponent is missing; bam_lightning.SizeProportionalSampler needs it"
    )


def test_value_that_the_target_refuses_is_shown_with_its_reason():
    assert refusal("distillation.schedule", {"_target_": CONSTANT, "lam": 1.5}) == (
        "distillation.schedule = {'lam': 1.5} is refused by bam_lightning.ConstantAnnealing: "
        "lam must be in [0, 1], got 1.5"
    )


def test_value_of_the_wrong_type_is_shown_with_its_reason():
    assert refusal("distillation.schedule", {"_target_": CONSTANT, "lam": "half"}) == (
        "distillation.schedule = {'lam': 'half'} is refused by bam_lightning.ConstantAnnealing: "
        "'<=' not supported between instances of 'int' and 'str'"
    )


@pytest.mark.parametrize("section", [{}, {"lam": 0.5}, {"_target_": None}, {"_target_": "Constant"}, {"_target_": 7}])
def test_target_that_is_no_dotted_name_is_refused(section):
    assert refusal("sampler", section) == (
        f"sampler._target_ must be a dotted name such as my_package.my_module.MyClass, got {section.get('_target_')!r}"
    )


def test_target_in_an_unknown_module_is_refused():
    assert refusal("sampler", {"_target_": "no_such_module.Sampler"}) == (
        "sampler._target_ names 'no_such_module.Sampler', whose module cannot be imported: "
        "No module named 'no_such_module'"
    )


def test_misspelt_target_gets_the_nearest_name():
    assert refusal(
        "distillation.schedule", {"_target_": "bam_lightning.training.schedules.ConstantAnealing", "lam": 0.5}
    ) == (
        "distillation.schedule._target_ names 'bam_lightning.training.schedules.ConstantAnealing'; "
        "bam_lightning.training.schedules has no callable 'ConstantAnealing'; did you mean 'ConstantAnnealing'?"
    )


def test_target_that_cannot_be_called_is_refused():
    assert refusal("key", {"_target_": "math.pi"}) == "key._target_ names 'math.pi'; math has no callable 'pi'"


@pytest.mark.parametrize("path", [".Constant", "..schedules.Constant"])
def test_relative_target_is_refused_as_no_dotted_name(path):
    assert refusal("sampler", {"_target_": path}) == (
        f"sampler._target_ must be a dotted name such as my_package.my_module.MyClass, got {path!r}"
    )


@pytest.mark.parametrize(
    ("base", "target"),
    [
        (Sampler, "subprocess.Popen"),
        (Sampler, "os.system"),
        (Sampler, CONSTANT),
        (Schedule, "subprocess.Popen"),
        (Schedule, "os.system"),
        (Schedule, "bam_lightning.SizeProportionalSampler"),
        (Schedule, "bam_lightning.load"),
    ],
)
def test_target_that_makes_something_else_is_refused_before_it_is_called(base, target, monkeypatch):
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *_, **__: pytest.fail("called"))
    with pytest.raises(ConfigError) as caught:
        instantiate("slot", {"_target_": target, "args": ["touch", "pwned"]}, base)
    assert str(caught.value) == (
        f"slot._target_ names {target!r}, which is not a bam_lightning.{base.__name__}; give a subclass of it, or a "
        "function whose annotation says that it returns one"
    )


def test_a_nested_target_is_refused_before_anything_is_called():
    section = {"_target_": CONSTANT, "lam": [{"inner": {"_target_": "subprocess.Popen", "args": ["touch", "pwned"]}}]}
    assert refusal("distillation.schedule", section) == (
        "distillation.schedule has an argument with _target_ 'subprocess.Popen'; only distillation.schedule._target_ "
        "itself is built"
    )
