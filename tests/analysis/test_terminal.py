"""What the terminal shows is text, and never markup or a terminal's commands."""

from bam_lightning.analysis.terminal import View, show


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
