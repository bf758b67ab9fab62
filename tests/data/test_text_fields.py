"""Texts of several columns: templates and any number of texts, checked, tokenized, and the same in a saved model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

import bam_lightning as bam
from bam_lightning.config.exceptions import ConfigError, DataError
from bam_lightning.config.text_fields import parse_field, render, text_columns_of
from bam_lightning.data.examples import load_examples
from bam_lightning.data.readers import Record
from bam_lightning.data.teacher_columns import read_column
from bam_lightning.data.tokenization import tokenize
from bam_lightning.inference.predict_file import score_records

TEMPLATE = "{subject}\n{body} ({channel})"
ROWS = [
    {"subject": f"the cat {n}", "body": "sleeps" if n % 2 else None, "channel": "mail", "label": "ab"[n % 2]}
    for n in range(12)
]


def test_a_template_is_filled_like_str_format():
    values = {"subject": "a", "body": "b", "channel": "{c}"}
    assert render([TEMPLATE], values) == (TEMPLATE.format(**values),)
    assert render(["{{{subject}}}", "body"], values) == ("{a}", "b")
    assert text_columns_of([TEMPLATE, "subject", "more"]) == ("subject", "body", "channel", "more")


@pytest.mark.parametrize("field", ["{a.b}", "{a[0]}", "{a!r}", "{a:>8}", "{}", "{a", "a}", "{{a}}"])
def test_what_is_no_plain_name_in_braces_is_refused(field):
    with pytest.raises(ConfigError, match="template"):
        parse_field(field)


def test_rows_have_one_text_of_all_columns_and_no_value_is_an_empty_text():
    task = bam.Task.from_list({"train": ROWS, "dev": ROWS}, text=TEMPLATE)
    texts = set(load_examples("topic", task).train.texts[0])
    assert texts == {TEMPLATE.format(**{**row, "body": row["body"] or ""}) for row in ROWS}
    with pytest.raises(DataError, match=r"no column 'title'; columns there: subject, body, channel, label;"):
        load_examples("topic", bam.Task.from_list({"train": ROWS, "dev": ROWS}, text="{title}"))
    with pytest.raises(DataError, match=r"row 0: template '\{body\}' gives an empty text; fill a column"):
        load_examples("topic", bam.Task.from_list({"train": ROWS, "dev": ROWS}, text="{body}"))


def test_a_file_of_predictions_is_matched_by_the_columns_of_a_template(tmp_path):
    examples = load_examples("topic", bam.Task.from_list({"train": ROWS, "dev": ROWS}, text=TEMPLATE))
    lines = [{**row, "p_a": 1.0 - n % 2, "p_b": float(n % 2)} for n, row in enumerate(ROWS)]
    (tmp_path / "llm.jsonl").write_text("\n".join(map(json.dumps, lines[::-1])))
    column = read_column("topic", examples.task, examples.train, bam.TeacherSource(str(tmp_path / "llm.jsonl")))
    assert (column.values.argmax(1) == examples.train.labels).all()


def test_three_texts_are_joined_as_the_tokenizer_joins_two(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    one, two, three = "the cat sleeps", "a dog eats", "it is good"
    tokens = tokenize(([one], [two], [three]), tokenizer, 32)
    pair = tokenizer(one, two)
    last = tokenizer(three, add_special_tokens=False)["input_ids"] + [tokenizer.sep_token_id]
    assert tokens.ids.tolist() == pair["input_ids"] + last
    assert tokens.types.tolist() == pair["token_type_ids"] + [1] * len(last)
    assert tokens.n_truncated == 0
    cut = tokenize(([one], ["a dog eats " * 30], [three]), tokenizer, 16)
    assert (len(cut.ids), cut.n_truncated) == (16, 1)
    assert cut.ids.tolist()[-len(last) :] == last  # the longest text is cut, not the last one
    with pytest.raises(ConfigError, match="max_length 6 leaves no token for each of 3 texts"):
        tokenize(([one], [two], [three]), tokenizer, 6)


@pytest.mark.parametrize("text", [TEMPLATE, ["subject", "channel", "label"]])
def test_a_saved_model_reads_rows_as_it_was_trained(text, tiny_bert, tmp_path):
    task = bam.Task.from_list({"train": ROWS, "dev": ROWS}, text=text)
    plain = bam.Task.from_list({"train": ROWS, "dev": ROWS}, text="channel")
    data = bam.MultiTaskDataModule({"topic": task, "other": plain}, tiny_bert, max_length=32, cache_dir=tmp_path)
    module = bam.BamModule(data, seed=0)
    model = bam.load(module.save_pretrained(tmp_path / "model"))
    columns = ("subject", "body", "channel") if text is TEMPLATE else tuple(text)
    assert model.tasks["topic"].columns == columns
    rows = [tuple(row[column] for column in columns) for row in ROWS]
    found = model.predict(rows, task="topic")
    texts = [render([text] if text is TEMPLATE else text, row) for row in ROWS]
    logits = model.logits(texts, ["topic"])["topic"]
    assert [answer.probabilities for answer in found] == [p.probabilities for p in model.postprocess("topic", logits)]
    records = score_records(model, {"topic": columns, "other": ("channel",)}, [Record(row, None, 0) for row in ROWS])
    expected = [answer.probabilities["a"] for answer in found]
    assert [record["topic.a"] for record in records] == pytest.approx(expected, rel=1e-6)  # written in float32's digits
    dev = data.rows["topic"].dev
    assert np.allclose(model.logits(list(zip(*dev.texts, strict=True)), ["topic"])["topic"], logits, atol=1e-6)
    if text is TEMPLATE:
        model.export(tmp_path / "onnx_is_one_text", format="hf", tasks=["topic"])
        with pytest.raises(DataError, match="row 0: body is int, not text"):
            model.predict([("a", 1, "b")], task="topic")
    else:
        with pytest.raises(ConfigError, match="format hf: task 'topic' joins 3 texts"):
            model.export(tmp_path / "exported", format="hf", tasks=["topic"])
