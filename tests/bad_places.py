"""What stands in a folder before a bad command is given there."""

import json
import shutil

from bam_lightning.store.run_dir import manifest_digest

RUN = ("--run={run}", "--store={store}")
INTO = ("--input={tmp}/in.csv", "--output={tmp}/out.csv")


def pairs(tmp, store, run):
    """A CSV that two tasks of the student can read."""
    (tmp / "in.csv").write_text("sentence1,sentence2\nthe cat,a dog\n")


def file(name, content):
    """Return what writes a file."""

    def make(tmp, store, run):
        (tmp / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def folder(name):
    """Return what makes a folder."""
    return lambda tmp, store, run: (tmp / name).mkdir(parents=True)


def copied(name, change):
    """Return what copies the student and spoils one of its JSON files."""

    def make(tmp, store, run):
        shutil.copytree(store / "runs" / run, tmp / "model")
        kept = json.loads((tmp / "model" / name).read_text())
        change(kept)
        if name == "run.json":  # whoever changes it can write its digest, too
            kept["digest"] = manifest_digest(kept)
        (tmp / "model" / name).write_text(json.dumps(kept))

    return make


def job_file(text):
    """Return what makes a store whose only job is ``text``."""

    def make(tmp, store, run):
        (tmp / "store" / "runs").mkdir(parents=True)
        (tmp / "store" / "jobs").mkdir()
        (tmp / "store" / "jobs" / "abc.json").write_text(text)

    return make
