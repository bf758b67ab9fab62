"""Export a trained model for other tools: ``bam export``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class ExportOptions:
    """Options of ``bam export``; see its ``--help``."""

    run: str
    output: str
    store: str = "store"
    format: str = "bam"
    task: Sequence[str] = field(default_factory=list)
    heads: Sequence[str] = field(default_factory=list)


def export(options: ExportOptions) -> None:
    """Export a model and print what was written."""
    from bam_lightning.inference.predictor import load

    model = load(options.run, options.store, device="cpu", precision="32-true", heads=options.heads)
    output = Path(options.output).expanduser()
    difference = model.export(output, options.format, options.task)
    tasks = options.task or list(model.tasks)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(
        f"{', '.join(tasks)}: largest difference of logits {difference:.1g}; {size / 1e6:,.1f} MB in {output.resolve()}"
    )
