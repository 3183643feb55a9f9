"""What the runs of one process share: results that are kept by what they were asked for, the newest first.

Devices, models and settings are frozen objects with dicts inside, which have no hash; there are few of them,
and most are the very same object, so that looking through a short list is quick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Shared(Generic[K, V]):
    """At most ``most`` results; what was not asked for lately is made anew."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: list[tuple[K, V]] = []

    def get(self, asked: K, make: Callable[[K], V]) -> V:
        """The result for ``asked``, made where no equal question is remembered."""
        for index, one in enumerate(self._found):
            if one[0] == asked:
                if index:
                    self._found.insert(0, self._found.pop(index))
                return one[1]
        made = make(asked)
        self._found.insert(0, (asked, made))
        del self._found[self._most :]
        return made

    def values(self) -> list[V]:
        """What is kept, the newest first."""
        return [value for _, value in self._found]

    def drop_oldest(self) -> None:
        """Forget the one that was not asked for longest."""
        self._found.pop()
