"""What is wrong: the two exceptions of the program, and the nearest allowed word.

``gpuyard --help`` loads this module: what only an error needs is imported when there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Self


class ScenarioError(Exception):
    """The input is wrong: what was given, what is allowed and what to try.

    ``file`` and ``path`` (the key path, ``engine.max_num_seqs``) say where. ``others`` are wrong as well and
    are told with it. The command line prints the message and exits with code 2.
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
        others: Sequence[ScenarioError] = (),
    ) -> None:
        self.problem, self.file, self.path = problem, file, path
        self.given, self.allowed, self.hint = given, allowed, hint
        self.others = tuple(others)
        super().__init__(problem)

    def told(self, **changes: Any) -> Self:
        """The same error with some of its parts told otherwise: another file, another path."""
        parts = {
            "file": self.file,
            "path": self.path,
            "given": self.given,
            "allowed": self.allowed,
            "hint": self.hint,
            "others": self.others,
            **changes,
        }
        return type(self)(parts.pop("problem", self.problem), **parts)

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
        return "\n".join([*lines, *map(str, self.others)])


class NoSuchFile(ScenarioError):
    """A scenario names a file that is not there: a mistake, whatever else its values say."""


class CannotRun(ScenarioError):
    """A scenario without a mistake whose device cannot do it: too little memory, no such units or kernel.

    Of one variant among several that is an answer, and the others are run.
    """


def told_together(
    errors: Sequence[ScenarioError], kind: type[ScenarioError] = ScenarioError
) -> ScenarioError:
    """One error that tells several, each once; a list of what is allowed that is repeated is told once."""
    told: dict[tuple[str, str, str], ScenarioError] = {}
    lists: set[tuple[str, str]] = set()
    for error in (one for given in errors for one in (given, *given.others)):
        key = (error.file, error.path, error.problem)
        if key not in told:
            # Of a long list (``some_of``) each has its own beginning: what it is of, and its length, tell it.
            others = error.allowed.partition(_AND)[2]
            of = (error.path.rpartition(".")[0], others) if others else ("", error.allowed)
            allowed = "" if of in lists else error.allowed
            lists.add(of)
            told[key] = kind(
                error.problem,
                file=error.file,
                path=error.path,
                given=error.given,
                allowed=allowed,
                hint=error.hint,
            )
    first, *rest = told.values()
    first.others = tuple(rest)
    return first


class InvariantError(Exception):
    """We are wrong: a law of the simulation was broken. The message prints the state."""


NEAR, A_SLIP = 0.6, 0.85
"""How alike two words are (difflib's ratio): near enough to be asked about; most likely mistyped."""


def closest(word: object, options: Iterable[str], *, cutoff: float = NEAR) -> str | None:
    """The option that ``word`` was most likely meant to be, or None where nothing is near.

    What only reads alike is no slip of the finger: a word with another number in it (fp4 for fp8, p95 for
    p99) or with a part that the option has not (max_replicas for replicas) asks for something else.
    """
    import difflib  # as only an error needs it

    by_folded: dict[str, str] = {}
    for option in options:
        by_folded.setdefault(_folded(option), option)
    given = _folded(str(word)[:100])
    # The beginning of a name, h200 for h200-sxm-141gb, before names that look like it.
    begins = cutoff < A_SLIP and len(given) >= 3
    near = [option for option in by_folded if begins and option.startswith(f"{given}_")]
    near = near or [
        option
        for option in difflib.get_close_matches(given, by_folded, n=5, cutoff=cutoff)
        if _asks_for_the_same(given, option)
    ]
    return by_folded[near[0]] if near else None


MANY_WORDS, WORDS_SHOWN = 16, 5
_AND = ", and "


def some_of(given: object, options: Iterable[object], where: str) -> str:
    """All that is allowed; of a long list what reads most like ``given``, and ``where`` the others are."""
    words = [str(option) for option in options]
    if len(words) <= MANY_WORDS:
        return ", ".join(words)
    word = _folded(str(given)[:100])
    near = sorted(words, key=lambda one: -_ratio(word, _folded(one)))[:WORDS_SHOWN]
    return f"{', '.join(near)}{_AND}{len(words) - WORDS_SHOWN} others ({where})"


def nearest(path: str, options: Iterable[str]) -> list[str]:
    """Up to three of the paths ``options`` whose last part reads most like that of ``path``, best first."""

    def last(one: str) -> str:
        return _folded(one.removesuffix(".yaml").rpartition("/")[2])

    rated = [(_ratio(last(path), last(one)), one) for one in options]
    return [one for ratio, one in sorted(rated, key=lambda pair: (-pair[0], pair[1])) if ratio >= NEAR][:3]


def _asks_for_the_same(given: str, option: str) -> bool:
    """Whether every number and every part of ``given`` is there in ``option``, mistyped at most."""
    left = re.findall(r"\d+", option)
    for number in re.findall(r"\d+", given):
        if number not in left:
            return False
        left.remove(number)
    parts = [part for part in re.split(r"[^a-z0-9]+", option) if part]
    words = [part for part in re.split(r"[^a-z0-9]+", given) if part]
    if len(words) < len(parts) and _ratio("".join(words), "".join(parts)) >= A_SLIP:
        return True  # written without its underscores
    for one in words:
        best = max(parts, key=lambda part: _ratio(one, part), default="")
        if _ratio(one, best) < NEAR or _ratio(_letters(one), _letters(best)) < NEAR:
            return False
        parts.remove(best)
    return True


def _letters(word: str) -> str:
    return re.sub(r"\d", "", word)


def _ratio(one: str, other: str) -> float:
    import difflib

    return difflib.SequenceMatcher(None, one, other).ratio()


def did_you_mean(word: object, options: Iterable[str]) -> str:
    """``"; did you mean X?"``, or nothing: to be put behind a problem."""
    near = closest(word, options)
    return f"; did you mean {near}?" if near else ""


def _folded(word: str) -> str:
    return word.casefold().replace("-", "_")
