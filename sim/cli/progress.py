"""How far a run is: one line on a terminal, nothing in a file or a pipe."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:  # imported where there is a terminal to draw on: a pipe does not wait for it
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


class Progress:
    """A bar with count and remaining time. Call it with (done, total) whenever something ends.

    What was done before the first call took no time here: the rest is estimated without it.
    """

    def __init__(self, label: str, *, stream: TextIO | None = None, is_quiet: bool = False) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._is_live = not is_quiet and self._stream.isatty()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the line: what follows is the answer."""
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Draw, at most ten times a second and once at the end."""
        if not self._is_live:
            return
        if self._bar is None or self._task is None:
            self._bar = bar_on(self._stream)
            self._bar.start()
            self._task = self._bar.add_task(self._label, completed=done if done < total else 0, total=total)
        self._bar.update(self._task, completed=done, total=total)


def bar_on(stream: TextIO) -> Bar:
    """Label, bar, count, and the time that the rest takes if it goes as fast; gone when it stops."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeRemainingColumn())
    return Bar(*columns, TextColumn("left"), console=Console(file=stream), transient=True)
