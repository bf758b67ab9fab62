"""Texts that are read when somebody asks for one: a job whose tokens are cached needs none of them. N texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class LateTexts(Sequence[str]):
    """A column of N texts.

    Args:
        read: gives the whole column.
        order: ``[N]`` places in it.
    """

    def __init__(self, read: Callable[[], Sequence[str]], order: NDArray[np.integer]) -> None:
        self.read, self.order = read, order
        self._texts: list[str] | None = None

    def take(self, order: NDArray[np.integer]) -> LateTexts:
        """Return the texts at the given places; nothing is read."""
        return LateTexts(self.read, self.order[order])

    def _all(self) -> list[str]:
        if self._texts is None:
            column = self.read()
            self._texts = [column[place] for place in self.order.tolist()]
        return self._texts

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        return self._all()[place]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the texts out: whoever gets this in another process can read them."""
        return {**vars(self), "_texts": None}
