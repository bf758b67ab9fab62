"""Train LoRA adapters instead of the whole encoder, and save a model of its own.

Usage: python lora.py ENCODER        (needs: pip install 'bam-lightning[peft]')
"""

import sys

import pytorch_lightning as pl
from peft import LoraConfig
from reviews import make_tasks

import bam_lightning as bam

lora = LoraConfig(r=4, target_modules=["query", "value"])  # "all-linear" fits every family
data = bam.MultiTaskDataModule(make_tasks(), encoder=sys.argv[1], batch_size=32, max_length=32, peft=lora)
module = bam.BamModule(data, learning_rate=5e-3)
pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(module, data)

counts = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
print(f"trained {sum(n for n, trained in counts if trained):,} of {sum(n for n, _ in counts):,} parameters")
module.save_pretrained("adapters")  # the adapters, the pooler and the heads
model = bam.load("adapters")
print(model.predict(["the film was good"], task="good"))
model.export("whole")  # adapters merged into the weights
print(bam.load("whole").predict(["the film was good"], task="good"))
