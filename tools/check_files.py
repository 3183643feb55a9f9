"""Checks of single files for pre-commit: ``python -m tools.check_files syntax|size FILE...``."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import yaml

MAX_BYTES = 500_000


def syntax(path: Path) -> str | None:
    """What keeps a YAML or TOML file from being read, or None."""
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".toml":
            tomllib.loads(text)
        else:
            list(yaml.safe_load_all(text))
    except (tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        return str(error)
    return None


def size(path: Path) -> str | None:
    """That the file is too large for the repository, or None."""
    num_bytes = path.stat().st_size
    return f"{num_bytes:,} bytes, at most {MAX_BYTES:,} are kept here" if num_bytes > MAX_BYTES else None


CHECKS: dict[str, Callable[[Path], str | None]] = {"syntax": syntax, "size": size}


def main(arguments: list[str]) -> int:
    """1 if any file fails the check."""
    check = CHECKS[arguments[0]]
    problems = [f"{name}: {problem}" for name in arguments[1:] if (problem := check(Path(name)))]
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
