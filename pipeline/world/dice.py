"""Choices from a seed that every Python makes alike.

Of the standard generator only ``random()`` is promised to give the same numbers in every version
for the same seed; everything here is made from it.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Dice:
    """A stream of choices; equal seeds give equal streams on every machine."""

    def __init__(self, *seed: object) -> None:
        self._random = random.Random("/".join(str(part) for part in seed))

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self._random.random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.between(0, len(items) - 1)]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """``count`` of the items, each at most once, in random order."""
        left = list(items)
        return [left.pop(self.between(0, len(left) - 1)) for _ in range(count)]

    def bytes(self, count: int) -> bytes:
        """``count`` even bytes."""
        return bytes(int(self._random.random() * 256) for _ in range(count))
