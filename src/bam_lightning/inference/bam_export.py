"""Export a model as a folder for ``bam.load``, and check that the reloaded model computes the same logits."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bam_lightning.inference.export_check import (
    float32_copy,
    max_logit_difference,
    random_rows,
    staged_folder,
    write_manifest,
)
from bam_lightning.inference.predictor import Predictor, load


def export_bam(model: Predictor, output: Path) -> float:
    """Write the folder that ``save_pretrained`` writes. Return the largest absolute difference of logits.

    Raises:
        StoreError: If the reloaded model computes other logits, for instance because the model was changed after it
            was loaded.
        ConfigError: See ``staged_folder``.
    """
    names, model = list(model.tasks), float32_copy(model)
    head_classes = [f"{type(head).__module__}.{type(head).__qualname__}" for head in model.heads.values()]
    with staged_folder(output) as folder:
        reloaded = load(model.save_pretrained(folder), device="cpu", precision="32-true", heads=head_classes)
        exported = partial(reloaded.calibrated_logits, tasks=names)
        difference = max(
            max_logit_difference(model, names, exported, random_rows(model, n_texts)) for n_texts in (1, 2)
        )
        write_manifest(folder, model, "bam", [], difference)  # the tasks are in the model's own manifest
    return difference
