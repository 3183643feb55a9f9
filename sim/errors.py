"""The two ways to fail: the user's input is wrong, or we are."""

from __future__ import annotations


class ScenarioError(Exception):
    """The input is wrong: what was given, what is allowed and what to try.

    ``file`` and ``path`` (the key path, ``engine.max_num_seqs``) say where. The command line prints
    the message and exits with code 2.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str = "",
        path: str = "",
        given: object = None,
        allowed: str = "",
        hint: str = "",
    ) -> None:
        self.problem, self.file, self.path = problem, file, path
        self.given, self.allowed, self.hint = given, allowed, hint
        super().__init__(problem)

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.path) if part)
        lines = [f"{where}: {self.problem}" if where else self.problem]
        if self.given is not None:
            shown = repr(self.given)
            lines.append(f"  given: {shown if len(shown) <= 120 else shown[:117] + '...'}")
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)


class InvariantError(Exception):
    """We are wrong: a law of the simulation was broken. The message prints the state."""
