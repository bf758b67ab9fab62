"""``make attack`` in small: a client is answered while the server is attacked."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.chaos
def test_a_client_is_answered_while_the_server_is_attacked(trained, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    attack = importlib.import_module("attack")
    names = ["1,000 connections", "malformed JSON"]
    words = [trained.id, "--store", str(trained.store), "--seconds", "1", "--only", *names]
    assert attack.main(words) == 0, capsys.readouterr().err
    _, _, *lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells] == names
    for row in cells:
        answered, asked = row[1].split(" of ")
        assert answered == asked != "0"
