"""The standard library's ``dataclass``, with one function for all frozen classes where it compiles one each.

``dataclasses`` writes and compiles ``__eq__``, ``__hash__`` and ``__repr__`` of every class, although they
differ in the names of the fields only. For the hundred frozen classes that a run imports that was a tenth of
its start-up. Here they are three plain functions over the names; what they give is the same (fields are
compared as a tuple is, an object being equal to itself, which Python 3.13's own no longer do for a NaN).
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, **options):
        """As ``dataclasses.dataclass``."""
        if cls is None:
            return lambda cls: dataclass(cls, **options)
        if not options.get("frozen"):
            return dataclasses.dataclass(cls, **options)
        own, shared = cls.__dict__, {"__repr__": printed}
        if options.get("eq", True):
            shared |= {"__eq__": equal, "__hash__": hashed}
        made = dataclasses.dataclass(cls, **{**options, "eq": False, "repr": False})
        for name, function in shared.items():
            if name not in own:
                setattr(made, name, function)
        names = [field.name for field in dataclasses.fields(made) if field.compare]
        made.__compared__ = attrgetter(*names) if names else staticmethod(no_field)
        return made


def no_field(_: object) -> tuple[()]:
    """What an object without fields is compared by."""
    return ()


def equal(self: Any, other: Any) -> Any:
    """Of the same class, and all fields that count are equal."""
    if other.__class__ is not self.__class__:
        return NotImplemented
    return self.__compared__(self) == self.__compared__(other)


def hashed(self: Any) -> int:
    """A hash of the fields that count."""
    return hash(self.__compared__(self))


def printed(self: Any) -> str:
    """The class with its fields, as one would write it."""
    shown = [f"{one.name}={getattr(self, one.name)!r}" for one in dataclasses.fields(self) if one.repr]
    return f"{self.__class__.__qualname__}({', '.join(shown)})"
