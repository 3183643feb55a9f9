"""Exit codes of the commands, and the message printed for each kind of failure."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from sim.errors import InvariantError, ScenarioError

FINE = 0
THRESHOLD_MISSED = 1
WRONG_INPUT = 2
OUR_BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
PIPE_CLOSED = 141  # 128 + SIGPIPE

TRACEBACK = "GPUYARD_TRACEBACK"
_REPORT = (
    "a bug of ours: please report this line, the command and its input files in an issue "
    f"({TRACEBACK}=1 also prints the traceback)"
)


def exit_code_of(program: str, work: Callable[[], int]) -> int:
    """The exit code of ``work()``. An exception is reported on stderr and becomes a code of its own.

    1 is kept for a missed threshold: with Python's 1 for an exception CI could not tell the two apart.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code
    except ScenarioError as error:
        return _said(f"{program}: {error}", WRONG_INPUT)
    except KeyboardInterrupt:
        return _said(f"{program}: interrupted, nothing was written half", INTERRUPTED)
    except BrokenPipeError:
        _silence_stdout()
        return PIPE_CLOSED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _said(f"{program}: {where}{error.strerror or error}", WRONG_INPUT)
    except InvariantError as error:
        _print_traceback(error)
        return _said(f"{program}: a law of the simulation was broken: {error}\n  {_REPORT}", OUR_BUG)
    except Exception as error:
        _print_traceback(error)
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _said(f"{program}: {what} ({_place_of(error)}); {_REPORT}", OUR_BUG)


def _said(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def _silence_stdout() -> None:
    """The reader (head, less) has gone; Python would complain again when it flushes at exit."""
    with contextlib.suppress(OSError):  # a stream without a descriptor has nothing to be closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_traceback(error: Exception) -> None:
    if os.environ.get(TRACEBACK, "0") not in ("", "0"):
        import traceback  # takes longer to load than all of gpuyard --help

        traceback.print_exception(error)


def _place_of(error: Exception) -> str:
    """Module and line where ``error`` was raised: a report of the one line then says where to look."""
    last = error.__traceback__
    if last is None:
        return "no frame"
    while last.tb_next is not None:
        last = last.tb_next
    return f"{last.tb_frame.f_globals.get('__name__', '?')}, line {last.tb_lineno}"
