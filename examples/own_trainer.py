"""Train teachers and a student with your own Trainer.

Usage: python own_trainer.py ENCODER
"""

import sys

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from reviews import make_tasks

import bam_lightning as bam

data = bam.MultiTaskDataModule(make_tasks(), encoder=sys.argv[1], batch_size=32, max_length=32)

for name in data.tasks:
    single = data.only(name, batch_size=16)
    teacher = bam.BamModule(single, learning_rate=1e-3)
    pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(teacher, single)
    data.teach(name, teacher)  # its logits on the training rows

student = bam.BamModule(data, learning_rate=1e-3, layerwise_decay=0.9, annealing=bam.LinearAnnealing())
best = ModelCheckpoint(dirpath="checkpoints", monitor="val/average", mode="max")
trainer = pl.Trainer(
    max_epochs=2, logger=CSVLogger("logs"), callbacks=[best, LearningRateMonitor()], log_every_n_steps=5
)
trainer.fit(student, data)
print(trainer.validate(student, data, verbose=False)[0])
student.save_pretrained("student")
print(bam.load("student").predict(["the film was good"], task="good"))
