"""The stochastic answer network against Liu et al.'s formulas, row by row in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from tiny_kinds import kinds
from tiny_tasks import QUIET

import bam_lightning as bam
from bam_lightning.config.compose import compose
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.models.batch import TaskBatch
from bam_lightning.models.heads import SANHead
from bam_lightning.training.lightning import pl

WIDTH, NAMES, STEPS = 6, ["a", "b", "c"], 4
BOUNDS = [(0, 3, 8), (8, 9, 11), (20, 20, 25), (11, 15, 20)]  # the third has one text


def head_of(**options) -> SANHead:
    torch.manual_seed(2)
    head = SANHead(WIDTH, NAMES, dropout=0.0, steps=STEPS, **options).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return head


def answers_of(head: SANHead, states: np.ndarray, begin: int, second: int, end: int) -> np.ndarray:
    """Return the probabilities of each step ``[K, C]`` of one row."""
    weights = {name: value.numpy() for name, value in head.state_dict().items()}
    premise = states[begin : end if second == begin else second]
    hypothesis = states[second:end]
    alpha = softmax(hypothesis @ weights["summary.weight"][0] + weights["summary.bias"])
    state, found = alpha @ hypothesis, []
    for _ in range(head.steps):
        beta = softmax(premise @ (weights["attention.weight"] @ state))
        read = beta @ premise
        features = np.concatenate([state, read, np.abs(state - read), state * read])
        found.append(softmax(weights["linear.weight"] @ features + weights["linear.bias"]))
        inner = weights["memory.weight_ih"] @ read + weights["memory.bias_ih"]
        outer = weights["memory.weight_hh"] @ state + weights["memory.bias_hh"]
        (r, z, n), (hr, hz, hn) = np.split(inner, 3), np.split(outer, 3)
        gate = expit(z + hz)
        state = (1 - gate) * np.tanh(n + expit(r + hr) * hn) + gate * state
    return np.stack(found)


def test_probabilities_are_the_mean_of_the_formulas_answers():
    head, states = head_of().eval(), torch.randn(25, WIDTH, dtype=torch.float64)
    bounds = [torch.tensor(column) for column in zip(*BOUNDS, strict=True)]
    found = head.to_target_space(head(states, *bounds)).detach().numpy()
    expected = [answers_of(head, states.numpy(), *row).mean(axis=0) for row in BOUNDS]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    empty = [part[:0] for part in bounds]
    assert head(states, *empty).shape == (0, 3)


def test_in_training_some_answers_are_left_out_and_never_all():
    head, states = head_of(answer_dropout=0.9).train(), torch.randn(8, WIDTH, dtype=torch.float64)
    count = 60
    bounds = [torch.full((count,), place) for place in (0, 3, 8)]
    found = head.to_target_space(head(states, *bounds)).detach().numpy()
    steps = answers_of(head, states.numpy(), 0, 3, 8)
    subsets = [[step for step in range(STEPS) if number >> step & 1] for number in range(1, 2**STEPS)]
    means = np.stack([steps[subset].mean(axis=0) for subset in subsets])
    distance = np.abs(found[:, None] - means[None]).max(axis=-1)
    assert distance.min(axis=1).max() < 1e-12
    sizes = [len(subsets[place]) for place in distance.argmin(axis=1)]
    assert 1 <= np.mean(sizes) < 1.6  # 4 answers, kept with 0.1, at least one
    assert len(set(distance.argmin(axis=1))) >= STEPS


def test_gradients_are_those_of_finite_differences():
    head, states = head_of().eval(), torch.randn(8, WIDTH, dtype=torch.float64, requires_grad=True)
    bounds = [torch.tensor([place]) for place in (0, 3, 8)]
    assert torch.autograd.gradcheck(lambda given: head(given, *bounds), (states,))


def pair_tasks(**head):
    rng = np.random.default_rng(0)
    words = np.array("cat dog man woman good bad".split())
    rows = [[" ".join(rng.choice(words, rng.integers(1, 6))) for _ in range(2)] for _ in range(60)]
    table = [{"a": a, "b": b, "label": "yes" if a.split()[0] == b.split()[0] else "no"} for a, b in rows]
    options = {"_target_": "bam_lightning.SANHead", **head}
    return {
        "pair": bam.Task.from_list(
            {"train": table[:40], "dev": table[40:]}, text=["a", "b"], head=options, kind="classification"
        ),
        **kinds(names=("mood",)),
    }


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_a_pair_is_read_by_its_two_texts_in_training_and_in_prediction(tiny_bert, tmp_path):
    data = bam.MultiTaskDataModule(pair_tasks(), tiny_bert, batch_size=16, max_length=32, cache_dir=tmp_path)
    module = bam.BamModule(data)
    pl.Trainer(**QUIET).fit(module, data)
    model = bam.load(module.save_pretrained("model"))
    dev = data.rows["pair"].dev
    rows = list(zip(*dev.texts, strict=True))
    found = model.logits(rows, ["pair"])["pair"]
    batch = next(iter(data.val_dataloader()[0]))
    tokens = batch.input_ids.numpy()
    part: TaskBatch = batch.tasks["pair"]
    ends = np.cumsum(batch.lengths)
    with torch.inference_mode():
        states = module.model.encoder.eval().token_states(batch).numpy()
    separator = data.tokenizer.sep_token_id
    head = module.head("pair").eval()
    for row, position in zip(part.row_ids.tolist(), part.positions.tolist(), strict=True):
        begin, end = ends[position] - batch.lengths[position], ends[position]
        second = begin + list(tokens[begin:end]).index(separator) + 1
        expected = np.log(answers_of(head, states, begin, second, end).mean(axis=0))
        np.testing.assert_allclose(found[row], expected, atol=1e-5)
    assert model.evaluate(rows, dev.labels, "pair")
    assert len(model.predict([("a cat", "the dog"), ("it", "was")], "pair")) == 2
    for kind in ("hf", "onnx"):
        with pytest.raises(ConfigError, match=f"format {kind}: the head of 'pair' reads all tokens of two texts"):
            model.export("out", kind, ["pair"])
    model.export("whole")
    np.testing.assert_allclose(bam.load("whole").logits(rows, ["pair"])["pair"], found, atol=1e-6)


def test_where_tokenizers_have_no_types_the_second_text_is_found_all_the_same(tiny_bert):
    from transformers import AutoTokenizer

    from bam_lightning.data.tokenization import tokenize

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    firsts = ["a cat", "the dog eats " * 20, ""]
    for truncation in ("longest_first", "head_tail"):
        found = tokenize((firsts, ["runs", "it was " * 30, "so"]), tokenizer, 16, truncation)
        assert found.types is None
        for row, second in enumerate(found.second.tolist()):
            ids = found.ids[found.offsets[row] : found.offsets[row + 1]].tolist()
            assert second == ids.index(tokenizer.sep_token_id) + 1
    assert tokenize((firsts,), tokenizer, 16).second is None


def test_mt_dnn_has_it_for_pairs_of_classes_alone():
    config = compose(["+experiment=mt_dnn"])
    heads = {name: task.head._target_.removeprefix("bam_lightning.") for name, task in config.suite.tasks.items()}
    pairs = {name for name, head in heads.items() if head == "SANHead"}
    assert pairs == {name for name, task in config.suite.tasks.items()
                     if len(task.text) == 2 and heads[name] != "RegressionHead"}  # fmt: skip
    assert len(pairs) == 5
    assert "SANHead" not in {task.head._target_ for task in compose(["+experiment=multi"]).suite.tasks.values()}
