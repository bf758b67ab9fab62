"""What metrics of words count, for each row: spans of tags, and answers as spans of a text.

A metric of these is a function of such counts, so that rows can be drawn again (bootstrap) and summed over ranks. n
rows, m words in all of them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

OUTSIDE = "O"
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def tag_counts(
    predictions: NDArray[np.int64], gold: NDArray[np.int64], offsets: NDArray[np.int64], label_names: Sequence[str]
) -> NDArray[np.int64]:
    """Return ``[n, 5]``: how many spans of a row are right, predicted and gold, and how many words are right and all.

    Spans are those of CoNLL's ``conlleval``, as seqeval finds them by default: in any scheme of B, I, O, E and S.

    Args:
        predictions: ``[m]`` tags, -1 for a word that was cut, which counts as outside.
        gold: ``[m]`` tags; a word with -1 does not count.
        offsets: ``[n + 1]``; row i has the words from ``offsets[i]`` to ``offsets[i + 1]``.
        label_names: of the tags.

    >>> names = ["O", "B-PER", "I-PER"]
    >>> tag_counts(np.array([1, 2, 0]), np.array([1, 0, 0]), np.array([0, 3]), names).tolist()
    [[0, 1, 1, 2, 3]]
    """
    n, outside = len(offsets) - 1, len(label_names)
    row = np.repeat(np.arange(n), np.diff(offsets))
    counted = gold >= 0
    row, tags = row[counted], [np.where(part[counted] < 0, outside, part[counted]) for part in (predictions, gold)]
    right = np.bincount(row[tags[0] == tags[1]], minlength=n)
    words = np.bincount(row, minlength=n)
    place = np.arange(len(row)) + row  # a word outside stands between two rows
    spans = []
    for part in tags:
        sequence = np.full(len(row) + n, outside)
        sequence[place] = part
        spans.append(_spans(sequence, label_names))
    row_of = np.repeat(np.arange(n), np.bincount(row, minlength=n) + 1)
    both = spans[0][np.isin(spans[0], spans[1])]
    size = (len(row) + n + 1) * (outside + 1)
    counts = [np.bincount(row_of[found // size], minlength=n) for found in (both, *spans)]
    return np.stack([*counts, right, words], axis=1)


def _spans(sequence: NDArray[np.int64], label_names: Sequence[str]) -> NDArray[np.int64]:
    """Return first word, word behind the last and type of each span, as one number."""
    names = [*label_names, OUTSIDE]
    kinds = [name[1:].split("-", 1)[-1] or "_" for name in names]
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    prefix, kind = np.array([name[0] for name in names])[sequence], np.array([numbers[k] for k in kinds])[sequence]
    prefix, kind = np.append(prefix, OUTSIDE), np.append(kind, numbers["_"])
    before, kind_before = np.roll(prefix, 1), np.roll(kind, 1)
    before[0], kind_before[0] = OUTSIDE, numbers["_"]
    other = kind != kind_before
    inside = np.isin(prefix, ["I", "E"])
    begins = np.isin(prefix, ["B", "S"]) | (inside & np.isin(before, ["E", "S", "O"])) | ((prefix != OUTSIDE) & other)
    open_before = np.isin(before, ["B", "I"])
    ends = (
        np.isin(before, ["E", "S"]) | (open_before & np.isin(prefix, ["B", "S", "O"])) | ((before != OUTSIDE) & other)
    )
    first, last = np.flatnonzero(begins), np.flatnonzero(ends)
    start = first[np.searchsorted(first, last, side="left") - 1] if len(last) else last
    size = len(sequence) + 1
    found: NDArray[np.int64] = (start * size + last) * len(names) + kind_before[last]
    return found


class Answers(NamedTuple):
    """What an answer to a question is compared with.

    Attributes:
        context: the text that holds the answer.
        words: ``[w, 2]`` characters where its words begin and end.
        texts: all answers that are right.
    """

    context: str
    words: NDArray[np.int64]
    texts: tuple[str, ...]

    def text_of(self, first: int, last: int) -> str:
        """Return the text from one word to another; an empty one for -1."""
        return self.context[self.words[first, 0] : self.words[last, 1]] if first >= 0 else ""


def normalize_answer(text: str) -> str:
    """Return an answer in lower case, without punctuation, articles and extra white space (Rajpurkar et al. 2016).

    >>> normalize_answer("The  Eiffel-Tower!")
    'eiffeltower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_score(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Return exact match and F1 of a predicted answer, the best over all right answers, as SQuAD's script has it.

    >>> answer_score("in Paris", ["Paris", "the city of Paris"])
    (0.0, 0.6666666666666666)
    """
    found = normalize_answer(prediction)
    exact = max((float(found == normalize_answer(answer)) for answer in answers), default=0.0)
    return exact, max((_overlap(found.split(), normalize_answer(answer).split()) for answer in answers), default=0.0)


def _overlap(prediction: list[str], answer: list[str]) -> float:
    if not (prediction and answer):  # nothing but articles and punctuation
        return float(prediction == answer)
    same = sum((Counter(prediction) & Counter(answer)).values())
    if not same:
        return 0.0
    precision, recall = same / len(prediction), same / len(answer)
    return 2 * precision * recall / (precision + recall)


def answer_scores(predictions: NDArray[np.int64], references: Sequence[Answers]) -> NDArray[np.float64]:
    """Return exact match and F1 of each row, ``[n, 2]``.

    Args:
        predictions: ``[n, 2]`` first and last words.
        references: n of them.
    """
    pairs = zip(predictions.tolist(), references, strict=True)
    scores = [answer_score(known.text_of(*span), known.texts) for span, known in pairs]
    return np.array(scores, dtype=np.float64).reshape(-1, 2)
