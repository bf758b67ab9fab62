"""Teach a student with a table of probabilities that any other program has written.

Usage: python outside_teacher.py ENCODER
"""

import sys

import pandas as pd
import pytorch_lightning as pl
from reviews import make_tasks

import bam_lightning as bam

data = bam.MultiTaskDataModule(make_tasks(), encoder=sys.argv[1], batch_size=32, max_length=32)

# In practice: the answers of a large language model, or of a model in another framework. Here: a rule that is 90 % sure
texts = list(data.rows["good"].train.texts[0])
sure = pd.Series(texts).map(lambda text: 0.9 if "good" in text.split() else 0.1)
table = pd.DataFrame({"review": texts, "p_good": sure, "p_bad": 1 - sure})
table.sample(frac=1, random_state=0).to_parquet("teacher.parquet")  # rows are matched by their texts

data.teach("good", "teacher.parquet", probabilities="p_*")
student = bam.BamModule(data, learning_rate=1e-3, annealing=bam.LinearAnnealing())
trainer = pl.Trainer(max_epochs=2, logger=False, enable_checkpointing=False)
trainer.fit(student, data)
print(trainer.validate(student, data, verbose=False)[0])
