"""Export a trained model for other tools: ``bam export``."""

from __future__ import annotations

import json
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
    int8: bool = False
    heads: Sequence[str] = field(default_factory=list)


def export(options: ExportOptions) -> None:
    """Export a model and print what was written."""
    from bam_lightning.inference.export_check import EXPORT_MANIFEST
    from bam_lightning.inference.predictor import load

    model = load(options.run, options.store, device="cpu", precision="32-true", heads=options.heads)
    output = Path(options.output).expanduser()
    difference = model.export(output, options.format, options.task, options.int8)
    tasks = options.task or list(model.tasks)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(
        f"{', '.join(tasks)}: largest difference of logits {difference:.1g}; {size / 1e6:,.1f} MB in {output.resolve()}"
    )
    if options.int8:
        found = json.loads((output / EXPORT_MANIFEST).read_text(encoding="utf-8"))["int8"]
        sizes = [f"{(output / name).stat().st_size / 1e6:,.1f}" for name in (found["graph"], "model.onnx")]
        print(
            f"{found['graph']}: {sizes[0]} MB in place of {sizes[1]}; on {found['rows']} rows of random words its "
            f"logits differ by up to {found['difference']:.2g}, and {found['agreement']:.1%} of the labels are equal; "
            "evaluate it on your own rows"
        )
