"""The ``bam`` command: ``bam COMMAND ...``, also ``python -m bam_lightning.cli COMMAND ...``."""

from __future__ import annotations

import importlib
import sys

from bam_lightning.config.renamed import renamed

COMMANDS = {
    "train": "train",
    "tables": "analysis.tables",
    "runs": "analysis.list_runs",
    "tune": "recipes.tuning",
    "dashboard": "analysis.dashboard",
    "export": "inference.export",
    "predict": "inference.predict_file",
    "submit": "recipes.submit",
    "serve": "inference.serving.server",
}


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        former = renamed(f"bam {name}")
        if former:
            print(f"error: {former}", file=sys.stderr)
            sys.exit(2)
        print(f"usage: bam COMMAND ...\ncommands: {', '.join(COMMANDS)}; bam COMMAND --help explains one")
        sys.exit(0 if name in ("-h", "--help") else 2)
    sys.argv = [f"{sys.argv[0]} {name}", *sys.argv[2:]]
    importlib.import_module(f"bam_lightning.{COMMANDS[name]}").main()


if __name__ == "__main__":
    main()
