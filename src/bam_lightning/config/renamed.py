"""Former names of options, choices, classes and commands. Whoever uses one is told the new name."""

from __future__ import annotations

import re

# `*` stands for the name of a stage or a task. Choices of config groups are written GROUP=NAME.
RENAMED = {
    "suite.only": "suite.include",
    "suite.sets": "suite.task_groups",
    "suite.tasks.*.text_columns": "suite.tasks.*.text",
    "suite.tasks.*.label_column": "suite.tasks.*.label",
    "suite.tasks.*.scored_by": "suite.tasks.*.head_of",
    "recipe.stages.*.start": "recipe.stages.*.init_from",
    "distillation.teachers": "teachers",
    "optimization.chosen": "optimization.use_tuned_decay",
    "optimization.shape": "optimization.lr_schedule",
    "encoder.pooler": "encoder.pooling",
    "encoder.sizes": "encoder.model_config",
    "encoder.pretraining.masked": "encoder.pretraining.mlm_probability",
    "encoder.pretraining.vocabulary": "encoder.pretraining.vocab_size",
    "trainer.log_every": "trainer.log_every_n_steps",
    "trainer.nodes": "trainer.num_nodes",
    "trainer.compile": "run.compile",
    "trainer.checkpoint_minutes": "run.checkpoint_minutes",
    "trainer.checkpoint_steps": "run.checkpoint_steps",
    "trainer.call_tokens": "run.call_tokens",
    "trainer.progress": "run.progress",
    "sampler.steps_of": "sampler.match_length_of",
    "sampler.anchor": "sampler.reference_size",
    "scale=embedded": "scale=demo",
    "suite=embedded": "suite=demo",
    "encoder=embedded": "encoder=demo",
    "optimization=embedded": "optimization=demo",
    "sampler=copies": "sampler=replication",
    "sampler=size_power": "sampler=size_proportional",
    "bam_lightning.heads.Classification": "bam_lightning.ClassificationHead",
    "bam_lightning.heads.MultiLabel": "bam_lightning.MultiLabelHead",
    "bam_lightning.heads.Ordinal": "bam_lightning.OrdinalHead",
    "bam_lightning.heads.Regression": "bam_lightning.RegressionHead",
    "bam_lightning.schedules.Constant": "bam_lightning.ConstantAnnealing",
    "bam_lightning.schedules.Linear": "bam_lightning.LinearAnnealing",
    "bam_lightning.stream.Copies": "bam_lightning.ReplicationSampler",
    "bam_lightning.stream.SizePower": "bam_lightning.SizeProportionalSampler",
    "bam choose": "bam tune",
    "bam_lightning.choose": "bam tune",
    "bam_lightning.dashboard": "bam dashboard",
    "bam_lightning.export": "bam export",
    "bam_lightning.predict": "bam predict",
    "bam_lightning.runs": "bam runs",
    "bam_lightning.serve": "bam serve",
    "bam_lightning.submit": "bam submit",
    "bam_lightning.tables": "bam tables",
}


def renamed(word: str) -> str | None:
    """Return the sentence that names the successor of a former name, or None if it never was a name.

    >>> renamed("distillation.teachers.rte")
    '`distillation.teachers.rte` is now `teachers.rte`'
    >>> renamed("suite.tasks.rte.scored_by")
    '`suite.tasks.rte.scored_by` is now `suite.tasks.rte.head_of`'
    """
    for old, new in RENAMED.items():
        match = re.fullmatch(re.escape(old).replace(r"\*", r"(?P<star>[^.]+)") + r"(?P<rest>\..+)?", word)
        if match:
            name = match.groupdict().get("star") or "*"
            return f"`{word}` is now `{new.replace('*', name)}{match['rest'] or ''}`"
    return None
