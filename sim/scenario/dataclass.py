"""The standard library's ``dataclass``, with one function for all frozen classes where it compiles one each.

``dataclasses`` writes and compiles ``__eq__``, ``__hash__``, ``__repr__``, ``__setattr__`` and
``__delattr__`` of every class, although they differ in the names of the fields only, and ``__init__`` of many
that no run makes an object of. For the hundred and fifty frozen classes that a run imports that was a fifth
of its start-up. Here they are plain functions over the names, and ``__init__`` is compiled for the first
object; what they give is the same (fields are compared as a tuple is, an object being equal to itself, which
Python 3.13's own no longer do for a NaN). ``InitVar`` and ``order`` are not for these classes.
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
        bare = {"init": False, "eq": False, "repr": False, "frozen": False}
        made = dataclasses.dataclass(cls, **(options | bare))
        shared |= {"__setattr__": refuse_to_set, "__delattr__": refuse_to_delete}
        if options.get("slots"):  # copies and pickles set the slots of an object that is made already
            shared |= {"__getstate__": values_of, "__setstate__": set_values}
        for name, function in shared.items():
            if name not in own:
                setattr(made, name, function)
        made.__init__ = first_init(made)
        names = [field.name for field in dataclasses.fields(made) if field.compare]
        made.__compared__ = attrgetter(*names) if names else staticmethod(no_field)
        return made


def first_init(made: Any) -> Any:
    """The ``__init__`` of a class that has no object yet: it compiles the one for all of them."""

    def init(self: Any, *args: Any, **fields: Any) -> None:
        made.__init__ = compiled_init(made)
        made.__init__(self, *args, **fields)

    return init


def compiled_init(made: Any) -> Any:
    """``__init__`` with the fields as its parameters, as ``dataclasses`` would write it."""
    known: dict[str, Any] = {"set_": object.__setattr__, "absent_": dataclasses.MISSING}
    parameters: tuple[list[str], list[str]] = ["self"], []
    lines = []
    for one in dataclasses.fields(made):
        name = value = one.name
        written = name
        if one.default_factory is not dataclasses.MISSING:
            known[f"make_{name}"] = one.default_factory
            written = f"{name}=absent_"
            value = f"make_{name}() if {name} is absent_ else {name}" if one.init else f"make_{name}()"
        elif one.default is not dataclasses.MISSING:
            known[f"default_{name}"] = one.default
            written = f"{name}=default_{name}"
            value = name if one.init else f"default_{name}"
        elif not one.init:
            continue
        if one.init:
            parameters[one.kw_only is True].append(written)
        lines.append(f"set_(self, {name!r}, {value})")
    if hasattr(made, "__post_init__"):
        lines.append("self.__post_init__()")
    plain, by_name = parameters
    signature = ", ".join([*plain, *(["*", *by_name] if by_name else [])])
    exec(f"def __init__({signature}):\n " + "\n ".join(lines or ["pass"]), known)
    known["__init__"].__qualname__ = f"{made.__qualname__}.__init__"
    return known["__init__"]


def refuse_to_set(self: Any, name: str, value: object) -> None:
    """Nothing is set; what a subclass adds beside the fields is its own."""
    if is_frozen(self, name):
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
    object.__setattr__(self, name, value)


def refuse_to_delete(self: Any, name: str) -> None:
    """Nothing is deleted."""
    if is_frozen(self, name):
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
    object.__delattr__(self, name)


def is_frozen(self: Any, name: str) -> bool:
    """Whether that is an attribute of a frozen class."""
    return "__compared__" in type(self).__dict__ or name in self.__dataclass_fields__


def values_of(self: Any) -> list[Any]:
    """What a copy or a pickle keeps: the fields in order."""
    return [getattr(self, one.name) for one in dataclasses.fields(self)]


def set_values(self: Any, values: list[Any]) -> None:
    """The fields of a new object, from what was kept."""
    for one, value in zip(dataclasses.fields(self), values, strict=True):
        object.__setattr__(self, one.name, value)


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
