"""Random edits of good configs and good data files either run or are refused by an error of ours; no other comes.

BAM_FUZZ_TRIES sets the number of tries, BAM_FUZZ_SEED the first of their seeds. A failure names its seed, which makes
the same edit again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from bam_lightning.config.compose import compose, conf_dir, option_names, register, to_config
from bam_lightning.recipes.planner import plan_runs
from bam_lightning.recipes.runner import load_data, run_recipe
from conftest import job_words, write_data
from fuzzing import FIRST, TRIES, outcome

LETTERS = [
    "\u00e9\u4e2d\U0001f600",
    "\u202e",
    "a\0b",
    "\ud800",
    "${seed}",
    "${nothing}",
    "${oc.env:NOTHING}",
    "???",
    "..",
    "/",
]
VALUES = [
    None,
    "",
    " ",
    "x",
    "nan",
    float("nan"),
    float("inf"),
    -1,
    0,
    1,
    2,
    0.5,
    1e300,
    -1e-300,
    10**30,
    -(10**30),
    2**31,
]
VALUES += [
    True,
    False,
    [],
    ["a"],
    ["a", "a"],
    [None],
    [[]],
    [0, 1],
    {},
    {"a": 1},
    {"a": {"b": None}},
    {"_target_": "os.getcwd"},
]
VALUES += [
    *LETTERS,
    "~nobody/x",
    "a" * 300,
    "rte",
    "stsb",
    "label",
    "sentence1",
    "generated",
    "bam_lightning.OrdinalHead",
]
TEXTS = [
    "null",
    "nan",
    "1e400",
    "-1",
    "[",
    "]",
    "{a:b}",
    "[a,b]",
    "'",
    '"',
    "a,b",
    "a=b",
    "\\",
    "$",
    "${",
    "@",
    "%",
    "\u00e9",
    "0x1",
    "1_0",
]


def places(node, path=()) -> list[tuple]:
    """Return the paths of all keys of a tree."""
    found = []
    for key in node:
        found.append((*path, key))
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            found += places(node[key], (*path, key))
    return found


def alike(rng, value):
    """Return another value of the same kind, so that the edit gets past the types."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return [0, 1, 2, 3, 7, 8, 64, 65, 0.5, 0.9, 1e-9, 1e-3, 10, 1000, -1, 10**9, 10**30, 1e300][rng.integers(18)]
    if value is None or isinstance(value, str):
        return [*LETTERS, "x", "", "rte", "train", "label", "a" * 300, "idx", "spearman", "single", "1"][
            rng.integers(20)
        ]
    pool = [
        [],
        ["rte"],
        ["rte", "stsb"],
        ["x"],
        ["sentence1"],
        ["sentence1", "label"],
        [0.0, 1.0],
        ["a", "b"],
        ["a", "a"],
    ]
    return pool[rng.integers(9)] if OmegaConf.is_list(value) else {"a": "b"}


def edit_config(seed, tree):
    """Return a copy of the tree with one or two keys set, renamed, nested, moved or taken away."""
    rng = np.random.default_rng(seed)
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 2], p=[0.7, 0.3])):
        every = [one for one in places(tree) if one[:2] != ("suite", "tasks") or one[2:3] in (("rte",), ("stsb",))]
        path = every[rng.integers(len(every))]
        node = OmegaConf.select(tree, ".".join(path[:-1])) if len(path) > 1 else tree
        kind = ["alike", "any", "rename", "nest", "move", "pop"][rng.choice(6, p=[0.7, 0.1, 0.05, 0.05, 0.05, 0.05])]
        value = VALUES[rng.integers(len(VALUES))]
        with open_dict(tree):
            if kind == "pop":
                node.pop(path[-1])
            elif kind == "rename":
                node[path[-1] + ["x", "", "\u00e9", " "][rng.integers(4)]] = value
            else:
                other = OmegaConf.select(tree, ".".join(every[rng.integers(len(every))]), throw_on_missing=False)
                new = {"any": value, "nest": {path[-1]: value}, "move": other}
                there = OmegaConf.select(tree, ".".join(path))
                tree = OmegaConf.merge(tree, nested(path, alike(rng, there) if kind == "alike" else new[kind]))
    return tree


def nested(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


@pytest.fixture
def good(tiny_bert, tmp_path):
    """The words of a job that runs, and its tree."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    words = [*job_words(tiny_bert, write_data(tmp_path / "data"), tmp_path / "store"), f"paths.cache={tmp_path}/cache"]
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return words, hydra_compose("train", overrides=words)


def planned(tree):
    config = to_config(tree)
    return config, plan_runs(config, load_data(config)[2])


def test_an_edited_config_runs_or_is_refused(good, tmp_path):
    ran, trained = 0, 0
    for seed in range(FIRST, FIRST + TRIES):
        found = []
        ran += outcome(lambda seed=seed, found=found: found.append(planned(edit_config(seed, good[1]))), seed)
        if found and len(found[0][1]) < 5 and trained < 2 + TRIES // 500:
            config = found[0][0]
            config.trainer.max_steps, config.paths.store, config.paths.cache = 2, f"{tmp_path}/s{seed}", f"{tmp_path}/c"
            trained += outcome(lambda config=config, seed=seed: run_recipe(config, tmp_path / f"out{seed}"), seed)
    assert 0.1 * TRIES < ran < 0.9 * TRIES
    assert trained


def edit_words(seed, names):
    rng = np.random.default_rng([seed, 1])
    name = names[rng.integers(len(names))]
    value = TEXTS[rng.integers(len(TEXTS))] if rng.random() < 0.5 else str(VALUES[rng.integers(len(VALUES))])
    word = ["", "+", "++", "~"][rng.choice(4, p=[0.7, 0.1, 0.1, 0.1])] + name + ["=", "", "=="][
        rng.choice(3, p=[0.9, 0.05, 0.05])
    ] + value  # fmt: skip
    return word if rng.random() < 0.8 else scramble(rng, word)


def scramble(rng, text):
    """Return a text with up to two letters changed, added or taken away."""
    for _ in range(rng.choice([0, 1, 2], p=[0.1, 0.6, 0.3])):
        place = int(rng.integers(len(text) + 1))
        letter = ["", ":", "-", "[", "{", "\t", "\n", "#", "&a ", "*a", "!", *LETTERS][rng.integers(21)]
        text = text[:place] + letter + text[place + int(rng.integers(2)) :]
    return text


GOOD = (
    "defaults: [schema, /head: classification, _self_]\npath: DATA\ntext: [sentence1, sentence2]\n"
    "head: {label_names: [n, y]}\nmetric: accuracy\ndev_split: validation\nid_column: idx\n"
)


def test_edited_words_and_yaml_files_run_or_are_refused(good, tmp_path):
    names = sorted(option_names() | {"suite.tasks.rte.metric", "suite.tasks.rte.path", "task@suite.tasks.x", "recipe"})
    (tmp_path / "task").mkdir()
    ran = 0
    for seed in range(FIRST, FIRST + TRIES // 10):
        if seed % 2:
            words = [*good[0], edit_words(seed, names)]
        else:
            text = scramble(np.random.default_rng([seed, 2]), GOOD.replace("DATA", f"{tmp_path}/data/rte"))
            (tmp_path / "task" / "mine.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
            search = f"hydra.searchpath=[file://{tmp_path}]"
            words = [*good[0], search, "+task@suite.tasks.mine=mine", "suite.include=[mine]"]

        def call(words=words):
            config = compose(words)
            plan_runs(config, load_data(config)[2])

        ran += outcome(call, seed)
    assert 0 < ran < TRIES // 10
