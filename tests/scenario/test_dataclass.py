"""Frozen classes compare, hash and print as the standard library's do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any

import pytest

from sim.scenario.dataclass import dataclass


def point(decorate: Callable[..., Any]) -> Any:
    @decorate(frozen=True, slots=True, kw_only=True)
    class Point:
        x: float
        y: float = 0.0
        said: str = field(default="", compare=False)
        rest: tuple[int, ...] = field(default=(), repr=False)

    return Point


def empty(decorate: Callable[..., Any]) -> Any:
    @decorate(frozen=True, slots=True)
    class Point: ...

    return Point


def one(decorate: Callable[..., Any]) -> Any:
    @decorate(frozen=True, slots=True)
    class Point:
        x: float

    return Point


OURS, THEIRS = point(dataclass), point(dataclasses.dataclass)
FIELDS = (
    {"x": 1},
    {"x": 1.0, "y": 0},
    {"x": 1, "said": "else"},
    {"x": 1, "rest": (2,)},
    {"x": 2},
    {"x": "1"},
)


@pytest.mark.parametrize("left", FIELDS)
@pytest.mark.parametrize("right", FIELDS)
def test_two_are_equal_where_the_standard_librarys_are(left: dict[str, Any], right: dict[str, Any]) -> None:
    ours, theirs = (made(**left) == made(**right) for made in (OURS, THEIRS))
    assert ours == theirs
    if ours:
        assert hash(OURS(**left)) == hash(OURS(**right))


@pytest.mark.parametrize("fields", FIELDS)
def test_one_prints_as_the_standard_librarys(fields: dict[str, Any]) -> None:
    assert repr(OURS(**fields)) == repr(THEIRS(**fields)).replace("other", "point")
    assert OURS(**fields) != THEIRS(**fields)  # of another class


def test_classes_of_one_field_and_of_none() -> None:
    assert one(dataclass)(1) != one(dataclass)(1)  # two classes of one name
    made = one(dataclass)
    assert made(1) == made(1.0) != made(2)
    assert hash(made(1)) == hash(made(1.0))
    nothing = empty(dataclass)
    assert nothing() == nothing() and hash(nothing()) == hash(nothing())
    assert repr(nothing()) == repr(empty(dataclasses.dataclass)())


def test_an_object_equals_itself_with_a_nan_in_it() -> None:
    nan = float("nan")
    assert OURS(x=nan) == OURS(x=nan) and OURS(x=nan) != OURS(x=float("nan"))


def test_what_a_class_says_itself_stands() -> None:
    @dataclass(frozen=True)
    class Own:
        x: int

        def __repr__(self) -> str:
            return "mine"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 3

    assert (repr(Own(1)), Own(1) == 5, hash(Own(1))) == ("mine", True, 3)


def test_without_eq_an_object_equals_itself_alone() -> None:
    @dataclass(frozen=True, eq=False)
    class Alone:
        x: int

    first, second = Alone(1), Alone(1)
    assert first == first and first != second and hash(first) != hash(second)


def test_nothing_can_be_set_and_a_copy_is_equal() -> None:
    one = Copied(x=(1, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.x = ()  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del one.x
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.y = 1  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one) == copy.copy(one)
    assert dataclasses.replace(one, x=(3,)) == Copied(x=(3,)) != one


def test_a_subclass_that_is_none_itself_has_attributes_of_its_own() -> None:
    """As a batching has that is a subclass of the entry's class."""

    class Wider(Copied):
        pass

    made = Wider(x=(1,))
    made.more = 2  # type: ignore[attr-defined]
    assert made.more == 2  # type: ignore[attr-defined]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.x = ()  # type: ignore[misc]


CALLS: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
    ((), {}),
    ((1,), {}),
    ((1, 2), {}),
    ((1,), {"y": 3, "z": 4}),
    ((), {"z": 4}),
    ((1, 2, 3), {}),
    ((1,), {"x": 2}),
    ((1,), {"made": 5}),
    ((1,), {"unknown": 5}),
)


@pytest.mark.parametrize("args, fields", CALLS)
def test_objects_are_made_and_refused_as_the_standard_librarys(
    args: tuple[Any, ...], fields: dict[str, Any]
) -> None:
    def outcome(decorate: Callable[..., Any]) -> tuple[Any, ...]:
        @decorate(frozen=True)
        class Base:
            x: int
            y: list[int] = field(default_factory=list)

        @decorate(frozen=True)
        class Made(Base):
            z: int = field(default=7, kw_only=True)
            made: int = field(init=False, default=9)
            later: list[int] = field(init=False, default_factory=list)

            def __post_init__(self) -> None:
                object.__setattr__(self, "made", self.made + self.x)

        try:
            first, second = Made(*args, **fields), Made(*args, **fields)
        except TypeError as error:
            return (str(error),)
        assert first.later is not second.later
        return first.x, first.y, first.z, first.made, first.later, Made.__match_args__

    assert outcome(dataclass) == outcome(dataclasses.dataclass)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    x: tuple[int, ...]
