"""What is wrong: the two exceptions of the program, and the nearest allowed word.

``gpuyard --help`` loads this module: what only an error needs is imported when there is one.
"""

from __future__ import annotations

from collections.abc import Iterable


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


def closest(word: object, options: Iterable[str]) -> str | None:
    """The option that reads most like ``word``, or None where nothing is near."""
    import difflib

    by_folded: dict[str, str] = {}
    for option in options:
        by_folded.setdefault(_folded(option), option)
    given = _folded(str(word)[:100])
    # The beginning of a name, h200 for h200-sxm-141gb, before names that look like it.
    near = [option for option in by_folded if len(given) >= 3 and option.startswith(f"{given}_")]
    near = near or difflib.get_close_matches(given, by_folded, n=1, cutoff=0.6)
    return by_folded[near[0]] if near else None


def did_you_mean(word: object, options: Iterable[str]) -> str:
    """``"; did you mean X?"``, or nothing: to be put behind a problem."""
    near = closest(word, options)
    return f"; did you mean {near}?" if near else ""


def _folded(word: str) -> str:
    return word.casefold().replace("-", "_")
