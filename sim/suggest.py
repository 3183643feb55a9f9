"""The nearest allowed word to a misspelt one, for "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(word: object, options: Iterable[str]) -> str | None:
    """The option that reads most like ``word``, or None where nothing is near."""
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
