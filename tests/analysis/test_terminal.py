"""What the terminal shows is text, and never markup or a terminal's commands."""

import logging

from pytorch_lightning.utilities.rank_zero import rank_zero_info

from bam_lightning.analysis.terminal import View, show
from bam_lightning.training.callbacks import RunCheckpoint


def test_a_line_is_printed_as_it_is(capsys):
    view = View(bars=False)
    view.say("Run a: /data/[/x]/[red]b[/red] \x1b[2J")
    assert capsys.readouterr().err == "Run a: /data/[/x]/[red]b[/red] \\x1b[2J\n"


def test_a_table_shows_its_cells_as_they_are(capsys):
    show("a [b] [/c]", ["[red]", "n"], [["[/x] \x1b[2J", "1"]])
    text = capsys.readouterr().out
    assert "a [b] [/c]" in text
    assert "[red]" in text
    assert "[/x] \\x1b[2J" in text


def test_messages_of_this_package_are_shown_once_and_lightnings_are_not(tmp_path, capsys):
    begun = RunCheckpoint(tmp_path / "abc", 5.0, None, None, {"threads": 4})
    shared = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before = (list(shared.handlers), shared.propagate, shared.level)
    with View(bars=False).messages():
        for _ in range(2):
            RunCheckpoint(tmp_path / "abc", 5.0, None, None, {"threads": 2}).load_state_dict(begun.state_dict())
        rank_zero_info("GPU available: False")
    change = "Run abc goes on from a checkpoint begun under other conditions: threads 4 (now 2); "
    assert capsys.readouterr().err == f"{change}its weights are those of an undisturbed Run up to rounding only\n"
    assert (list(shared.handlers), shared.propagate, shared.level) == before  # a Trainer of one's own logs as ever
