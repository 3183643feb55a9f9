"""Exit codes of the command."""

from __future__ import annotations

FINE = 0
THRESHOLD_MISSED = 1
WRONG_INPUT = 2
OUR_BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
PIPE_CLOSED = 141  # 128 + SIGPIPE
