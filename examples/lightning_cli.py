"""Train with Lightning's own command line (pip install 'jsonargparse[signatures]').

Usage: python lightning_cli.py fit --data.encoder ENCODER --model.learning_rate 1e-3 --trainer.max_epochs 1
"""

from typing import Any

from pytorch_lightning.cli import LightningCLI
from reviews import make_tasks

import bam_lightning as bam


class Reviews(bam.MultiTaskDataModule):
    """The tasks of reviews.py. The command line has these options."""

    def __init__(self, encoder: str, batch_size: int = 32, max_length: int = 32) -> None:
        super().__init__(make_tasks(), encoder, batch_size=batch_size, max_length=max_length)


class CLI(LightningCLI):
    """Builds the module from the data module."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Pass one to the other."""
        parser.link_arguments("data", "model.data", apply_on="instantiate")


if __name__ == "__main__":
    cli = CLI(bam.BamModule, Reviews)
    print({name: float(value) for name, value in cli.trainer.callback_metrics.items() if name.startswith("val/")})
