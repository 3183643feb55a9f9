"""How far a run is: one line on a terminal, nothing in a file or a pipe."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

BAR_CELLS = 30
SECONDS_BETWEEN_DRAWS = 0.1


class Progress:
    """A bar with count and remaining time. Call it with (done, total) whenever something ends."""

    def __init__(self, label: str, *, stream: TextIO | None = None, is_quiet: bool = False) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._is_live = not is_quiet and self._stream.isatty()
        self._start_s = time.monotonic()
        self._drawn_s = 0.0
        self._width = 0
        self._found: int | None = None  # done before this began: they took no time

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the line: what follows is the answer."""
        if self._is_live and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()

    def __call__(self, done: int, total: int) -> None:
        """Draw, at most ten times a second and once at the end."""
        now_s = time.monotonic()
        if self._found is None:
            self._found = done if done < total else 0
        if not self._is_live or (done < total and now_s - self._drawn_s < SECONDS_BETWEEN_DRAWS):
            return
        self._drawn_s = now_s
        line = progress_line(self._label, done, total, now_s - self._start_s, found=self._found)
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = max(self._width, len(line))


def progress_line(label: str, done: int, total: int, elapsed_s: float, *, found: int = 0) -> str:
    """The line for ``done`` of ``total`` after ``elapsed_s``; the rest is assumed to go as fast.

    ``found`` of them were there at the start.
    """
    filled = BAR_CELLS * done // max(total, 1)
    bar = "#" * filled + "." * (BAR_CELLS - filled)
    if done <= found:
        return f"{label} [{bar}] {done}/{total}"
    left_s = elapsed_s / (done - found) * (total - done)
    return f"{label} [{bar}] {done}/{total}, {_clock(left_s)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
