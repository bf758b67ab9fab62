"""Long texts in windows: what is read, how vectors are pooled, and the same scores in training and prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_kinds import kinds
from tiny_tasks import QUIET

import bam_lightning as bam
from bam_lightning.config.exceptions import ConfigError
from bam_lightning.data.collate import Examples, collate, empty_batch
from bam_lightning.data.items import tokenize_rows
from bam_lightning.data.task import Layout
from bam_lightning.data.tokenization import tokenize
from bam_lightning.models.batch import TaskBatch
from bam_lightning.models.multi_task import pool_windows
from bam_lightning.training.lightning import pl
from conftest import WORDS

MEAN, TEXT = "windows_mean", Layout("classification", 1)


@pytest.fixture(scope="module")
def tokenizer(tiny_bert):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_bert)


def documents(lengths) -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def windows(tokens, row):
    return [
        tokens.ids[tokens.offsets[text] : tokens.offsets[text + 1]].tolist()
        for text in range(tokens.rows[row], tokens.rows[row + 1])
    ]


def test_windows_hold_every_token_and_overlap_by_a_quarter(tokenizer):
    texts = documents([3, 14, 15, 70])
    found = tokenize_rows(TEXT, (texts,), tokenizer, 16, MEAN)
    assert np.diff(found.rows).tolist()[:3] == [1, 1, 2]  # 16 tokens hold 14 words
    assert (found.window_pooling, found.n_truncated, found.words) == ("mean", 0, None)
    for row, text in enumerate(texts):
        parts, whole = windows(found, row), []
        for part in parts:
            assert (len(part) <= 16, part[0], part[-1]) == (True, tokenizer.cls_token_id, tokenizer.sep_token_id)
            inner = part[1:-1]
            assert not whole or whole[-4:] == inner[:4]
            whole += inner[4:] if whole else inner
        assert whole == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert found.lengths.tolist() == [sum(map(len, windows(found, row))) for row in range(4)]


def test_the_first_of_two_texts_stands_in_each_window(tokenizer):
    questions = ["who is it", "what was it " * 10]
    found = tokenize_rows(Layout("classification", 2), (questions, documents([40, 5])), tokenizer, 24, MEAN)
    first = tokenizer(questions[0], add_special_tokens=False)["input_ids"]
    assert np.diff(found.rows).tolist()[0] > 2
    assert all(part[1 : 1 + len(first)] == first for part in windows(found, 0))
    assert found.n_truncated == 1  # the second question was shortened to a third
    with pytest.raises(ConfigError, match=r"windows_\.\.\. is for one or two texts, got 3"):
        tokenize_rows(Layout("classification", 3), (questions,) * 3, tokenizer, 24, MEAN)


def test_choices_and_words_have_no_windows(tokenizer):
    for layout, columns in ((Layout("choice"), (["a"], ["b " * 50], ["c"])), (Layout("tagging"), (["a b " * 30],))):
        plain, windowed = (tokenize_rows(layout, columns, tokenizer, 16, name) for name in ("longest_first", MEAN))
        assert windowed.ids.tolist() == plain.ids.tolist()
        assert windowed.window_pooling is None


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_vectors_of_a_rows_windows_are_pooled_and_gradients_flow(pooling):
    vectors = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    offsets = torch.tensor([0, 1, 4, 6])
    part = TaskBatch(torch.arange(6), torch.arange(3), torch.zeros(3), offsets=offsets, window_pooling=pooling)
    rows = [vectors[0:1], vectors[1:4], vectors[4:6]]
    expected = [row.mean(dim=0) if pooling == "mean" else row.max(dim=0).values for row in rows]
    torch.testing.assert_close(pool_windows(vectors, part), torch.stack(expected))
    assert torch.autograd.gradcheck(lambda given: pool_windows(given, part), (vectors,))
    none = part._replace(offsets=torch.tensor([0]))
    assert pool_windows(vectors[:0], none).shape == (0, 5)


def test_a_batch_points_at_all_windows_of_its_rows(tokenizer):
    texts = documents([5, 60, 20, 2])
    tasks = {
        "long": Examples(tokenize_rows(TEXT, (texts,), tokenizer, 16, MEAN), np.arange(4)),
        "short": Examples(tokenize((texts,), tokenizer, 16), np.arange(4)),
    }
    names = np.array(["long", "short", "long", "long"], dtype=object)
    batch = collate(tasks, names, np.array([1, 3, 0, 2]))
    part, starts = batch.tasks["long"], np.cumsum([0, *batch.lengths])
    assert part.row_ids.tolist() == [1, 0, 2]
    assert part.items == ()  # the head gets one vector for each row
    for place, row in enumerate(part.row_ids.tolist()):
        own = part.positions[part.offsets[place] : part.offsets[place + 1]].tolist()
        found = [batch.input_ids[starts[text] : starts[text + 1]].tolist() for text in own]
        assert found == windows(tasks["long"].tokens, row)
    assert empty_batch(tasks).tasks["long"].offsets.tolist() == [0]


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_train_validate_save_predict_evaluate_and_embed(still_bert, tmp_path, pooling):
    tasks = kinds(names=("mood", "size", "choice"))
    options = {"batch_size": 16, "max_length": 8, "cache_dir": tmp_path, "truncation": f"windows_{pooling}"}
    data = bam.MultiTaskDataModule(tasks, still_bert, **options)
    module = bam.BamModule(data)
    trainer = pl.Trainer(**QUIET)
    trainer.fit(module, data)
    (found,) = [dict(pair for part in trainer.validate(module, data, verbose=False) for pair in part.items())]
    model = bam.load(module.save_pretrained("model"))
    for task, metric in (("mood", "accuracy"), ("size", "spearman")):
        dev = data.rows[task].dev
        scores = model.evaluate(dev.texts[0], dev.labels, task)
        assert scores[metric] == pytest.approx(found[f"val/{task}/{metric}"], abs=1e-6)
    texts = documents([20, 3, 9])
    encoder = module.model.encoder.eval()
    vectors = []
    for text in texts:
        tokens = tokenize_rows(TEXT, ([text],), data.tokenizer, 8, f"windows_{pooling}")
        parts = [torch.tensor(part)[None] for part in windows(tokens, 0)]
        with torch.inference_mode():
            pooled = torch.cat([encoder.forward_padded({"input_ids": part, "attention_mask": torch.ones_like(part),
                                                        "token_type_ids": torch.zeros_like(part)})
                                for part in parts])  # fmt: skip
        vectors.append(pooled.mean(dim=0) if pooling == "mean" else pooled.max(dim=0).values)
    expected = torch.stack(vectors)
    np.testing.assert_allclose(model.embed(texts), expected.numpy(), atol=1e-5)
    with torch.inference_mode():
        logits = module.head("mood").eval()(expected).numpy()
    np.testing.assert_allclose(model.logits([(text,) for text in texts], ["mood"])["mood"], logits, atol=1e-5)
    for kind in ("hf", "onnx"):
        with pytest.raises(ConfigError, match=f"format {kind}: the model was trained with data.truncation=windows_"):
            model.export("out", kind, ["mood"])
    assert model.export("whole") <= 1e-4


def test_a_packed_minibatch_of_windows_has_the_loss_of_each_row_alone(still_bert, tmp_path):
    options = {"batch_size": 16, "max_length": 8, "cache_dir": tmp_path, "truncation": MEAN}
    data = bam.MultiTaskDataModule(kinds(names=("mood", "size")), still_bert, **options)
    module = bam.BamModule(data).eval()
    examples = data.train_examples()
    names = np.array(["mood", "size"] * 6, dtype=object)
    rows = np.arange(12)
    with torch.inference_mode():
        together = sum(module.task_losses(collate(examples, names, rows), 1.0).values())
        alone = sum(
            sum(module.task_losses(collate(examples, names[i : i + 1], rows[i : i + 1]), 1.0).values())
            for i in range(12)
        )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
