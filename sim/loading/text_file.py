"""The text of a small file, or what is wrong with the file."""

from __future__ import annotations

import gzip
from pathlib import Path

from sim.errors import ScenarioError
from sim.suggest import closest

MAX_FILE_BYTES = 8_000_000


def read_text(path: Path) -> str:
    """The file's text, or an error that says what it is instead."""
    file = str(path)
    content = _read_bytes(path)
    if len(content) > MAX_FILE_BYTES:
        raise ScenarioError(
            "the file is too large to be a scenario, a profile or a model",
            file=file,
            allowed=f"at most {MAX_FILE_BYTES // 10**6} MB of YAML",
            hint="a trace is given by workload.trace.path or --trace",
        )
    if content[:2] == b"\x1f\x8b":
        raise ScenarioError(
            f"the file is gzip-compressed{_gzip_state(content)}",
            file=file,
            allowed="plain YAML text",
            hint="unpack it with gunzip; a compressed trace is given by workload.trace.path or --trace",
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ScenarioError(
            f"line {line}: byte {error.start} is not UTF-8",
            file=file,
            given=content[error.start : error.start + 8],
            allowed="plain YAML text in UTF-8",
            hint="save it as UTF-8, or check that this is the file you meant",
        ) from None
    if "\0" in text:
        raise ScenarioError(
            f"line {text[: text.index(chr(0))].count(chr(10)) + 1}: the file is binary, or UTF-16",
            file=file,
            allowed="plain YAML text in UTF-8",
            hint="save it as UTF-8, or check that this is the file you meant",
        )
    return text


def _gzip_state(content: bytes) -> str:
    try:
        gzip.decompress(content)
    except (OSError, EOFError, ValueError):
        return " (and damaged or cut off)"
    return ""


def _read_bytes(path: Path) -> bytes:
    file = str(path)
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ScenarioError("no such file", file=file, hint=_near_files(path)) from None
    except IsADirectoryError:
        inside = sorted(entry.name for entry in path.glob("*.y*ml"))[:8]
        hint = f"one of its files: {', '.join(inside)}" if inside else "the path of a YAML file"
        raise ScenarioError("is a folder", file=file, allowed="the path of a file", hint=hint) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ScenarioError(
            f"cannot be read: {reason}", file=file, hint="check the path and its rights"
        ) from None


def _near_files(path: Path) -> str:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f"check the path: the folder {path.parent} does not exist either"
    near = closest(path.name, names)
    if near:
        return f"{path.parent / near}"
    return "check the path; gpuyard list names the shipped scenarios, profiles and models"
