"""Train in two processes that share every minibatch.

Usage: python -m torch.distributed.run --standalone --nproc-per-node 2 two_processes.py ENCODER
"""

import sys

import pytorch_lightning as pl
from reviews import make_tasks

import bam_lightning as bam

data = bam.MultiTaskDataModule(make_tasks(), encoder=sys.argv[1], batch_size=32, max_length=32, seed=0)
module = bam.BamModule(data, learning_rate=1e-3)
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, enable_checkpointing=False
)
trainer.fit(module, data)
scores = trainer.validate(module, data, verbose=False)[0]
module.save_pretrained("model")  # on every rank; rank 0 writes
if trainer.is_global_zero:
    print(scores)
    print(bam.load("model").predict(["the film was good"], task="good"))
