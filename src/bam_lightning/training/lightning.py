"""The Lightning in use: ``lightning.pytorch`` where it is already imported, else ``pytorch_lightning``.

A Trainer of one refuses the modules of the other. Where both are imported, the first one in ``sys.modules`` wins."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

NAMES = ("lightning.pytorch", "pytorch_lightning")

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn
else:
    pl = importlib.import_module(next((name for name in sys.modules if name in NAMES), "pytorch_lightning"))
    rank_zero = importlib.import_module(f"{pl.__name__}.utilities.rank_zero")
    rank_zero_info, rank_zero_warn = rank_zero.rank_zero_info, rank_zero.rank_zero_warn


def localize(target: str) -> str:
    """Return a dotted name of either Lightning as one of the Lightning in use.

    >>> localize("my_package.MyCallback")
    'my_package.MyCallback'
    """
    for name in NAMES:
        if target.startswith(f"{name}."):
            return pl.__name__ + target[len(name) :]
    return target


__all__ = ["localize", "pl", "rank_zero_info", "rank_zero_warn"]
