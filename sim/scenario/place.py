"""Where in which file a value stands, and errors that say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim.errors import CannotRun, ScenarioError
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A key path in a file, and the unit that the key's surroundings give to a bare number."""

    file: str
    path: str = ""
    unit: str | None = None

    @property
    def name(self) -> str:
        """The last key of the path; of the top, nothing."""
        return self.path.rpartition(".")[2].partition("[")[0]

    def child(self, name: str) -> Place:
        """The place of key ``name`` under this one."""
        return replace(self, path=f"{self.path}.{name}" if self.path else name)

    def item(self, index: int) -> Place:
        """The place of the list's item ``index``."""
        return replace(self, path=f"{self.path}[{index}]")

    def error(
        self, problem: str, *, given: object = None, allowed: str = "", hint: str = ""
    ) -> ScenarioError:
        """A ScenarioError about this place, to be raised."""
        return ScenarioError(problem, file=self.file, path=self.path, given=given, allowed=allowed, hint=hint)

    def cannot_run(
        self, problem: str, *, given: object = None, allowed: str = "", hint: str = ""
    ) -> CannotRun:
        """The same of what is no mistake: the device cannot do it."""
        return CannotRun(problem, file=self.file, path=self.path, given=given, allowed=allowed, hint=hint)


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
        raise error.told(file=place.file, path=error.path or place.path, others=()) from None
