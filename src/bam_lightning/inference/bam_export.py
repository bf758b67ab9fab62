"""The model itself as a folder, read back: what ``load`` finds there computes what the model computes."""

from __future__ import annotations

from pathlib import Path

from bam_lightning.inference.export_check import exact, largest_difference, sample, staged, write_record
from bam_lightning.inference.predictor import Predictor, load


def export_bam(model: Predictor, output: Path) -> float:
    """Write what ``save_pretrained`` writes; return the largest difference of logits.

    Raises:
        ValueError: for an export that does not compute the same, as of a model that was changed since it was loaded.
        ConfigError: see ``staged``.
    """
    names, model = list(model.tasks), exact(model)
    own = [f"{type(head).__module__}.{type(head).__qualname__}" for head in model.heads.values()]
    with staged(output) as folder:
        again = load(model.save_pretrained(folder), device="cpu", precision="32-true", heads=own)
        difference = max(
            largest_difference(model, names, lambda part: again.logits(part, names), sample(model, width))
            for width in (1, 2)
        )
        write_record(folder, model, "bam", [], difference)  # its tasks are in the model's own manifest
    return difference
