"""Escape text that comes from users for the place where it is shown. For HTML use ``html.escape``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet run a cell
_MARKDOWN = re.compile(r"[\\`*\[]|(?<!\w)_|_(?!\w)")  # an underscore inside a word is no markup


def printable(text: str) -> str:
    """Return a text with its unprintable characters escaped, such as a terminal's commands.

    >>> printable("two\\nlines")
    'two\\\\nlines'
    """
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def markdown(text: str) -> str:
    """Return a text for one line or one cell of Markdown: no markup, no HTML, no column of its own.

    >>> markdown("a|b *c* <d> e_f")
    'a&#124;b \\\\*c\\\\* &lt;d> e_f'
    """
    text = printable(" ".join(text.split("\n"))).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKDOWN.sub(r"\\\g<0>", text).replace("|", "&#124;")


def markdown_rows(lines: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table of plain texts as Markdown."""
    return [f"| {' | '.join(map(markdown, line))} |" for line in lines]


def csv_cell(text: str) -> str:
    """Return a cell that a spreadsheet does not run as a formula. Numbers stay as they are.

    >>> csv_cell("=1+1"), csv_cell("-0.5")
    ("'=1+1", '-0.5')
    """
    with suppress(ValueError):
        float(text)
        return text
    return f"'{text}" if text.startswith(FORMULA) else text


def plot_label(text: str) -> str:
    r"""Return a label in which matplotlib reads no mathematics.

    >>> plot_label("$5 or $6")
    '\\$5 or \\$6'
    """
    return text.replace("$", r"\$")
