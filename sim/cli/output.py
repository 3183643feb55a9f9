"""Writing results so that a reader never meets a half-written one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sim.cli.exports import written_patterns
from sim.errors import ScenarioError


@contextmanager
def results_folder(out: Path) -> Iterator[Path]:
    """A folder to write results into; its files move to ``out`` when all of them are there.

    It is made before the run: a place that cannot be written is found out before the work is done.
    """
    if out.exists() and not out.is_dir():
        raise ScenarioError("results need a folder, this is a file", file="--out", given=str(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-unfinished-"))
    except (OSError, ValueError) as error:
        raise ScenarioError(
            f"cannot be written: {getattr(error, 'strerror', None) or error}",
            file="--out",
            given=str(out),
            allowed="a folder, there or to be made, that you may write",
            hint="--out out/results",
        ) from None
    try:
        yield partial
        out.mkdir(exist_ok=True)
        _replace(out, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(out: Path, partial: Path) -> None:
    """Move the new files in, then take away what only the earlier run had.

    A folder never mixes two runs, and nothing in it but what runs write is touched.
    """
    new = sorted(partial.iterdir())
    for path in new:
        path.replace(out / path.name)
    kept = {path.name for path in new}
    for pattern in written_patterns():
        for old in out.glob(pattern):
            if old.name not in kept:
                old.unlink()
