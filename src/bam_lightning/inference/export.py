"""Write a trained model for other tools: ``bam export run=RUN_ID format=hf output=DIR``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bam_lightning.config.exceptions import ConfigError
from bam_lightning.config.options import StoreOptions, command, option
from bam_lightning.config.validation import check_choice

USAGE = """
Write a trained model for other tools. Every export is read back and compared with the model before it is there.

  bam export run=RUN_ID output=DIR               a folder for bam.load, with its model card
  bam export run=RUN_ID format=hf output=DIR     DIR/TASK: each head as a transformers classifier
  bam export run=RUN_ID format=onnx output=DIR   one graph with all heads
"""
FORMATS = ("bam", "hf", "onnx")


@dataclass
class ExportOptions(StoreOptions):
    """Options of the command."""

    run: str = option("???", "a Run, a folder, or a hub id")
    output: str = option("???", "folder to write")
    format: str = option("bam", "bam, hf or onnx")
    task: list[str] = field(default_factory=list, metadata={"help": "hf, onnx: only these tasks; none: all"})
    heads: list[str] = field(default_factory=list, metadata={"help": "dotted names of your own head classes to trust"})


def job(options: ExportOptions) -> None:
    """Export a model and say what was written."""
    check_choice("format", options.format, FORMATS)
    if options.format == "bam" and options.task:
        raise ConfigError("format=bam writes the whole model; leave task out, or give format=hf or onnx")
    from bam_lightning.inference.predictor import load

    model = load(options.run, options.store, device="cpu", precision="32-true", heads=options.heads)
    output = Path(options.output).expanduser()
    from bam_lightning.inference.bam_export import export_bam
    from bam_lightning.inference.hf_export import export_hf
    from bam_lightning.inference.onnx_export import export_onnx

    if options.format == "bam":
        difference = export_bam(model, output)
    else:
        difference = (export_hf if options.format == "hf" else export_onnx)(model, output, options.task)
    heads = options.task or list(model.tasks)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(
        f"{', '.join(heads)}: logits within {difference:.1g} of the model's; {size / 1e6:,.1f} MB in {output.resolve()}"
    )


def main() -> None:
    """Entry point."""
    command(ExportOptions, USAGE, job)


if __name__ == "__main__":
    main()
