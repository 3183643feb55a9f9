"""Where in which file a value stands, and errors that say so; in a user's Python file, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sim.errors import CannotRun, InvariantError, ScenarioError
from sim.scenario.dataclass import dataclass

Answer = TypeVar("Answer")


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


def code_path(given: str, base_dir: Path) -> Path:
    """The file of ``./file.py:name``: beside the scenario, else from the current folder."""
    file = given.rpartition(":")[0]
    beside = base_dir / file
    return beside if beside.is_file() else Path(file)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCode:
    """What ``engine.KEY: ./file.py:name`` names. An error inside it names the line of the user's file."""

    key: str
    given: str

    def load(self, base_dir: Path) -> Any:
        """Runs the file; the object of that name."""
        path, name = code_path(self.given, base_dir), self.given.rpartition(":")[2]
        if not path.is_file():
            raise self.error("no such policy file", "./file.py:name")
        import runpy

        found = self.call(lambda: runpy.run_path(str(path), run_name=f"gpuyard_policy_{path.stem}"))
        if name not in found:
            raise self.error("the file has no such name", "./file.py:name")
        return found[name]

    def call(self, call: Callable[[], Answer]) -> Answer:
        """What ``call``, which runs the user's code, returns."""
        try:
            return call()
        except (ScenarioError, InvariantError):
            raise
        except Exception as error:  # whatever the user's file raises is about the user's file
            import traceback

            file = Path(self.given.rpartition(":")[0]).name
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if Path(frame.filename).name == file]
            where = f" in line {lines[-1]}" if lines else ""
            raise ScenarioError(
                f"the policy failed{where}: {type(error).__name__}: {error}",
                path=f"engine.{self.key}",
                given=self.given,
                hint="put the policy right",
            ) from error

    def error(self, problem: str, allowed: str) -> ScenarioError:
        """A policy that is not there, or an answer that is none."""
        return ScenarioError(
            f"a user's policy: {problem}", path=f"engine.{self.key}", given=self.given, allowed=allowed
        )
