"""Errors that every check of a training scenario makes: no effect, and another's error given its place."""

from __future__ import annotations

from collections.abc import Callable

from sim.errors import ScenarioError
from sim.loading.place import Place


def no_effect(place: Place, name: str, value: object, needed: str) -> ScenarioError:
    """The error of a field that changes nothing without ``needed``."""
    return place.child(name).error(
        f"has no effect without {needed}", given=value, allowed=f"{name} with {needed}", hint="remove it"
    )


def placed(place: Place, check: Callable[[], object]) -> None:
    """Runs ``check``; its error gets the file."""
    try:
        check()
    except ScenarioError as error:
        raise ScenarioError(
            error.problem,
            file=place.file,
            path=error.path or place.path,
            given=error.given,
            allowed=error.allowed,
            hint=error.hint,
        ) from None
