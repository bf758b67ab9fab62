"""Export a model as a folder for ``bam.load``, and check that the reloaded model computes the same logits."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from bam_lightning.data.items import ITEM_KINDS
from bam_lightning.inference.calibration import write_calibration
from bam_lightning.inference.export_check import (
    float32_copy,
    max_logit_difference,
    random_rows,
    staged_folder,
    write_manifest,
)
from bam_lightning.inference.predictor import Predictor, load
from bam_lightning.models.saving import ENCODER, WEIGHTS, files_below, save_state
from bam_lightning.store.atomic_io import write_text
from bam_lightning.store.run_dir import CALIBRATION, DIGEST, MANIFEST, file_hash, manifest_digest


def write_merged(model: Predictor, folder: Path) -> None:
    """Write a model whose adapters are merged over a saved one with adapters: all weights, none of another file's."""
    state = {
        f"{part}.{name}": value
        for part in ("encoder", "heads")
        for name, value in getattr(model, part).state_dict().items()
    }
    save_state(folder, state, model.encoder, model.tokenizer)
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    del manifest["adapters"]
    manifest["files"] = {
        **manifest["files"],
        **{name: file_hash(folder / name) for name in [WEIGHTS, *files_below(folder / ENCODER, folder)]},
    }
    if DIGEST in manifest:
        manifest[DIGEST] = manifest_digest(manifest)
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))
    if model.calibration:  # it is bound to the weights
        write_text(folder / CALIBRATION, write_calibration(manifest["files"][WEIGHTS], model.calibration))


def export_bam(model: Predictor, output: Path) -> float:
    """Write the folder that ``save_pretrained`` writes. Return the largest absolute difference of logits.

    Raises:
        StoreError: If the reloaded model computes other logits, for instance because the model was changed after it
            was loaded.
        ConfigError: See ``staged_folder``.
    """
    names, source, model = list(model.tasks), model, float32_copy(model)
    head_classes = [f"{type(head).__module__}.{type(head).__qualname__}" for head in model.heads.values()]
    with staged_folder(output) as folder:
        source.save_pretrained(folder)
        if source.encoder.adapters:
            write_merged(model, folder)
        if source.encoder.source is not None:
            head_classes.append(str(source.encoder.source["_target_"]))
        reloaded = load(folder, device="cpu", precision="32-true", heads=head_classes)
        own = [name for name in names if model.tasks[name].kind in ITEM_KINDS]
        groups = [([name for name in names if name not in own], n_texts) for n_texts in (1, 2)]
        for name in own:
            info = model.tasks[name]
            groups.append(([name], len(info.text) + (len(info.label_names) if info.choices else 0)))
        difference = max(
            max_logit_difference(
                model, group, partial(reloaded.calibrated_logits, tasks=group), random_rows(model, n_texts)
            )
            for group, n_texts in groups
            if group
        )
        write_manifest(folder, model, "bam", [], difference)  # the tasks are in the model's own manifest
    return difference
