"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from sim.errors import ScenarioError


def write_whole(path: str | Path, text: str | Iterable[str]) -> None:
    """Write ``text`` (or its pieces, one after another) to ``path``; on any error nothing is left."""

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines([text] if isinstance(text, str) else text)

    publish(path, write)


def publish(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a hidden file beside ``path``, then give it that name in one step."""
    target = Path(path)
    if target.is_dir():
        raise ScenarioError("this is a folder, a file is wanted", file=str(path))
    if not target.parent.is_dir():
        raise ScenarioError("there is no such folder to write into", file=str(path))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(target)
    except OSError as error:
        raise ScenarioError(f"cannot be written: {error.strerror or error}", file=str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
