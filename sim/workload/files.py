"""Files that a workload names: found, unpacked by content rather than by name, and seen to be text."""

from __future__ import annotations

import difflib
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sim.errors import ScenarioError
from sim.suggest import closest

if TYPE_CHECKING:
    from sim.loading.place import Place

_OTHER_LAYOUTS = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"\x89HDF": "an HDF5 file",
    b"\xff\xfe": "a UTF-16 file",
    b"\xfe\xff": "a UTF-16 file",
    b"SQLite": "an SQLite database",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFile:
    """A file's name, as errors print it, and its text with ``\\n`` line ends and no byte order mark."""

    name: str
    text: str

    def error(self, problem: str, where: str = "", **more: object) -> ScenarioError:
        """A ScenarioError about this file: ``where`` is a line, row or column."""
        given, allowed, hint = more.get("given"), str(more.get("allowed", "")), str(more.get("hint", ""))
        return ScenarioError(problem, file=self.name, path=where, given=given, allowed=allowed, hint=hint)


def read_text_file(base_dir: Path, given: str, key_path: str) -> TextFile:
    """The text of file ``given`` (relative to ``base_dir``); gzip is known by its first bytes."""
    packed = _read_bytes(base_dir, given, key_path)
    raw = _unpacked(packed, given)
    if not raw.strip():
        raise ScenarioError(
            "the file is empty", file=given, allowed="a header line and rows, or lines of JSON"
        )
    for magic, layout in _OTHER_LAYOUTS.items():
        if raw.startswith(magic):
            raise ScenarioError(
                f"this is {layout}, not text",
                file=given,
                allowed="UTF-8 text, plain or gzip",
                hint="convert it to CSV",
            )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScenarioError(
            f"not a text file: byte {error.start:,} is not UTF-8",
            file=given,
            given=raw[error.start : error.start + 8],
            allowed="UTF-8 text, plain or gzip",
        ) from None
    if "\0" in text:
        raise ScenarioError(
            f"not a text file: character {text.index(chr(0)):,} is a zero byte",
            file=given,
            allowed="UTF-8 text, plain or gzip",
        )
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return TextFile(name=given, text=text)


def _read_bytes(base_dir: Path, given: str, key_path: str) -> bytes:
    if not given or "\0" in given:
        raise ScenarioError("this is no file name", path=key_path, given=given, allowed="the path of a file")
    path = base_dir / given
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ScenarioError(f"{key_path}: there is no such file", file=given, hint=_near(path)) from None
    except IsADirectoryError:
        raise ScenarioError(
            f"{key_path}: this is a folder, not a file", file=given, hint=_near(path / "x")
        ) from None
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{key_path}: the file cannot be read: {error}", file=given) from None


def _near(path: Path) -> str:
    """Files beside ``path`` that it may have meant, or the folder that is missing too."""
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    names = sorted(one.name for one in path.parent.iterdir() if one.is_file())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:3]
    return f"in that folder there is {', '.join(close)}" if close else "that folder is empty"


def _unpacked(packed: bytes, given: str) -> bytes:
    if not packed.startswith(b"\x1f\x8b"):
        return packed
    try:
        return gzip.decompress(packed)
    except EOFError:
        problem = "the gzip file ends before its end: it was cut off"
    except (gzip.BadGzipFile, zlib.error) as error:
        problem = f"the gzip file is damaged: {error}"
    raise ScenarioError(problem, file=given, hint="fetch or copy the file again; `gzip -t` checks it")


def check_file(given: str, place: Place, base_dir: Path) -> None:
    """Refuses a path behind which there is no file, so that nothing starts without it."""
    path = base_dir / given
    try:
        if path.is_file():
            return
        names = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError):
        names = []
    near = closest(path.name, names)
    raise place.error(
        "no such file",
        given=given,
        allowed="a path relative to the scenario file",
        hint=str(Path(given).parent / near) if near else f"looked for {path}",
    )
