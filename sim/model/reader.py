"""Reading keys out of a Hugging Face ``config.json``: every refusal names file and key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sim.errors import ScenarioError

LARGEST = 2**31 - 1


class ConfigReader:
    """The keys of one config, checked as they are read.

    ``read`` remembers which keys were asked for, ``used`` which of them answered.
    """

    def __init__(self, keys: Mapping[str, Any], *, file: str, path: str) -> None:
        self.keys, self.file, self.path = keys, file, path
        self.read: set[str] = set()
        self.used: set[str] = set()

    def refuse(
        self, problem: str, key: str, *, given: object = None, allowed: str = "", hint: str = ""
    ) -> ScenarioError:
        """The error to raise about ``key``."""
        path = f"{self.path}.{key}" if self.path else key
        return ScenarioError(problem, file=self.file, path=path, given=given, allowed=allowed, hint=hint)

    def value(self, *names: str) -> Any:
        """The first of these keys that is there and not null, else None."""
        self.read.update(names)
        name = next((name for name in names if self.keys.get(name) is not None), None)
        # A key written as null is an answer too: it asks for the default.
        self.used.update({name} if name else {name for name in names if name in self.keys})
        return self.keys[name] if name else None

    def has(self, name: str) -> bool:
        """Whether the key is written, be it as null."""
        self.read.add(name)
        self.used.update({name} & self.keys.keys())
        return name in self.keys

    def count(self, *names: str, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        """A whole number under one of these names; required unless there is a default."""
        given = self.value(*names)
        if given is None and default is not None:
            return default
        if given is None:
            others = f" (also read: {', '.join(names[1:])})" if names[1:] else ""
            raise self.refuse(
                f"missing{others}",
                names[0],
                allowed=f"a whole number, {least} to {most}",
                hint="a decoder-only model's config.json has it; or start from a shipped shape: "
                "{base: llama-3.1-8b, ...}; gpuyard list names them",
            )
        name = next(name for name in names if self.keys.get(name) is not None)
        if isinstance(given, bool) or not isinstance(given, int):
            raise self.refuse("not a whole number", name, given=given, allowed=f"{least} to {most}")
        if not least <= given <= most:
            raise self.refuse("out of range", name, given=given, allowed=f"{least} to {most}")
        return given

    def optional_count(self, *names: str, least: int = 1, most: int = LARGEST) -> int | None:
        """A whole number, or None where the key is absent or null."""
        return None if self.value(*names) is None else self.count(*names, least=least, most=most)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        given = self.value(name)
        if given is None:
            return default
        if not isinstance(given, bool):
            raise self.refuse("not a switch", name, given=given, allowed="true or false")
        return given

    def text(self, *names: str, default: str = "") -> str:
        """A string."""
        given = self.value(*names)
        if given is None:
            return default
        if not isinstance(given, str):
            raise self.refuse("not a string", names[0], given=given)
        return given
