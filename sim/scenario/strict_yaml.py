"""YAML read strictly: duplicate keys, tabs, odd encodings and numbers that would load as text are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sim.errors import ScenarioError, closest

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
    import gzip

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


_NULL = {"", "~", "null", "Null", "NULL"}


_TRUE = {word for base in ("true", "yes", "on") for word in (base, base.title(), base.upper())}


_FALSE = {word for base in ("false", "no", "off") for word in (base, base.title(), base.upper())}


_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")


_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?")


_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")


_OTHER_BASE = re.compile(r"[-+]?0(?:[0-9_]+|b[01_]+|x[0-9a-fA-F_]+|o[0-7_]+)")


MAX_DIGITS = 300


class YamlTrap(ValueError):
    """Text that YAML reads as something that nobody means: the problem, what is allowed, what to try."""

    def __init__(self, problem: str, *, allowed: str, hint: str = "") -> None:
        self.problem, self.allowed, self.hint = problem, allowed, hint
        super().__init__(problem)


def read_plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar. ``no``, ``off``, ``yes``, ``on`` are booleans; dates are text."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text[0] not in "+-.0123456789":
        return text
    for pattern, read in _NUMBERS:
        if pattern.fullmatch(text):
            return read(text)
    return text


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise YamlTrap(f"a number of {len(text)} digits", allowed=f"at most {MAX_DIGITS} digits")
    return int(text.replace("_", ""))


def _float(text: str) -> float:
    return float(text.replace("_", ""))


def _not_finite(text: str) -> float:
    return float(text.replace(".", "", 1))


def _sexagesimal(text: str) -> float:
    raise YamlTrap(
        f"{text} is a number to the base 60 in YAML ({_base_60(text):g})",
        allowed="decimal numbers and quantities with a unit",
        hint=f"'90 s' or '1.5 min' for a time, or \"{text}\" for text",
    )


def _other_base(text: str) -> float:
    raise YamlTrap(
        f"{text} is a number to another base in YAML (a leading 0 means octal)",
        allowed="decimal numbers without leading zeros",
        hint=f'"{text}" in quotes for text',
    )


def _base_60(text: str) -> float:
    value = 0.0
    for digits in text.lstrip("+-").replace("_", "").split(":")[:8]:
        value = value * 60 + float(digits[:20])
    return -value if text.startswith("-") else value


_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[str], int | float]], ...] = (
    (_INT, _int),
    (_FLOAT, _float),
    (_NOT_FINITE, _not_finite),
    (_SEXAGESIMAL, _sexagesimal),
    (_OTHER_BASE, _other_base),
)


_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


MAX_DEPTH = 40


MAX_VALUES = 300_000


_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "map", "seq")}


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, read strictly."""
    return parse_yaml(read_text(Path(path)), file=str(path))


def parse_yaml(text: str, *, file: str) -> dict[str, Any]:
    """The mapping that ``text`` holds; ``file`` is named in errors."""
    value = parse_value(text, file=file)
    if value is None:
        raise ScenarioError(
            "the file is empty",
            file=file,
            allowed="a mapping of keys to values (key: value)",
            hint="start from a shipped file: gpuyard list names them",
        )
    if not isinstance(value, dict):
        raise ScenarioError(
            f"the file holds {_kind(value)}, not a mapping",
            file=file,
            given=value,
            allowed="a mapping of keys to values (key: value)",
        )
    return value


def parse_value(text: str, *, file: str) -> Any:
    """One YAML value of any kind: a whole file, or what stands behind ``--set key=``."""
    reader = _Reader(file=file)
    try:
        for event in _events(text, file):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text, file) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise ScenarioError(
            f"not YAML text: {str(error).splitlines()[0]}",
            file=file,
            allowed="plain text in UTF-8 without control characters",
        ) from None
    return reader.result


def _events(text: str, file: str) -> Iterator[Any]:
    documents = 0
    events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ScenarioError(
                    f"line {line}: a second YAML document begins (---)",
                    file=file,
                    allowed="one document per file",
                    hint="put it into a file of its own",
                )
        yield event


@dataclass(slots=True)
class _Open:
    """A mapping or a list whose end has not been read yet."""

    value: dict[str, Any] | list[Any]
    line: int
    anchor: str | None
    first: int  # values counted before it began
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict)
    merged: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class _Reader:
    """Builds the value from events. ``result`` is the document's value."""

    file: str
    result: Any = None
    num_values: int = 0
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)

    def take(self, event: Any) -> None:
        """Adds one parse event."""
        line = event.start_mark.line + 1
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._open(event, line)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._close(line)
        elif isinstance(event, yaml.ScalarEvent):
            self._count(1, line)
            value = self._scalar(event, line)
            if event.anchor:
                self.anchors[event.anchor] = (value, 1)
            self._place(value, line, plain=event.implicit[0])
        elif isinstance(event, yaml.AliasEvent):
            value, size = self._anchored(event.anchor or "", line)
            self._count(size, line)
            self._place(value, line, plain=True)

    def fail(
        self, line: int, problem: str, *, given: object = None, allowed: str = "", hint: str = ""
    ) -> Any:
        """Raises the error with its line and, inside a mapping, its key path."""
        path = ".".join(level.key for level in self.stack if level.key is not None)
        raise ScenarioError(
            f"line {line}: {problem}", file=self.file, path=path, given=given, allowed=allowed, hint=hint
        )

    def _open(self, event: Any, line: int) -> None:
        if event.tag is not None and event.tag not in _TAGS:
            self._refuse_tag(event.tag, line)
        if len(self.stack) >= MAX_DEPTH:
            self.fail(line, "nested too deeply", allowed=f"at most {MAX_DEPTH} levels")
        self._count(1, line)
        value: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        if self.stack and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None:
            self.fail(line, "a list or mapping stands where a key is expected", allowed="a plain word as key")
        self.stack.append(_Open(value, line, event.anchor, self.num_values))

    def _close(self, line: int) -> None:
        done = self.stack.pop()
        if isinstance(done.value, dict):
            for base in done.merged:
                done.value = {**base, **done.value}
        if done.anchor:
            self.anchors[done.anchor] = (done.value, self.num_values - done.first + 1)
        self._place(done.value, line, plain=False)

    def _place(self, value: Any, line: int, *, plain: bool) -> None:
        """Puts a finished value where it belongs: into the open list or mapping, as key or as value."""
        if not self.stack:
            self.result = value
            return
        level = self.stack[-1]
        if isinstance(level.value, list):
            level.value.append(value)
        elif level.key is None:
            level.key = "<<" if plain and value == "<<" else self._checked_key(value, level, line)
        elif level.key == "<<":
            level.merged.extend(self._merge_sources(value, line))
            level.key = None
        else:
            level.value[level.key] = value
            level.key = None

    def _checked_key(self, key: Any, level: _Open, line: int) -> str:
        if isinstance(key, bool):
            self.fail(
                line,
                f"a key reads as the boolean {str(key).lower()} "
                "(YAML takes no, off, yes and on for booleans)",
                allowed="text as key",
                hint='put the key into quotes, such as "on"',
            )
        if not isinstance(key, str):
            self.fail(
                line, f"a key is {_kind(key)}", given=key, allowed="text as key", hint=f'"{key}" in quotes'
            )
        if key in level.lines:
            level.key = key
            self.fail(
                line,
                f"duplicate key {key} (first given in line {level.lines[key]})",
                allowed="each key once",
                hint="remove one of the two; the last would win in silence",
            )
        level.lines[key] = line
        return str(key)

    def _merge_sources(self, value: Any, line: int) -> list[Any]:
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            self.fail(
                line,
                "<< merges mappings only",
                given=value,
                allowed="*anchor of a mapping, or a list of them",
            )
        return sources

    def _anchored(self, name: str, line: int) -> tuple[Any, int]:
        if any(level.anchor == name for level in self.stack):
            self.fail(
                line,
                f"*{name} stands inside &{name}: a value cannot contain itself",
                allowed="an anchor above",
            )
        if name not in self.anchors:
            near = closest(name, self.anchors)
            self.fail(
                line,
                f"*{name} refers to an anchor that is not defined"
                + (f"; did you mean *{near}?" if near else ""),
                allowed="an anchor (&name) that stands above its use; text that begins with * needs quotes",
            )
        return self.anchors[name]

    def _count(self, num_values: int, line: int) -> None:
        self.num_values += num_values
        if self.num_values > MAX_VALUES:
            self.fail(
                line,
                f"more than {MAX_VALUES:,} values, aliases counted each time",
                allowed=f"at most {MAX_VALUES:,} values in a file",
                hint="give long lists as a file of their own",
            )

    def _refuse_tag(self, tag: str, line: int) -> None:
        shown = "!!" + tag.removeprefix("tag:yaml.org,2002:") if tag.startswith("tag:") else tag
        self.fail(line, f"the YAML tag {shown} is not supported", allowed="plain values without tags")

    def _scalar(self, event: Any, line: int) -> Any:
        if event.tag is not None and event.tag not in _TAGS and event.tag != "!":
            self._refuse_tag(event.tag, line)
        if event.tag is not None or not event.implicit[0]:
            return event.value
        try:
            return read_plain(event.value)
        except YamlTrap as trap:
            return self.fail(line, trap.problem, allowed=trap.allowed, hint=trap.hint)


def _kind(value: object) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "text",
    }
    return names.get(type(value), "nothing")


def _syntax_error(error: yaml.MarkedYAMLError, text: str, file: str) -> ScenarioError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 1
    lines = text.splitlines()
    shown = lines[line - 1] if line <= len(lines) else ""
    problem = error.problem or "it cannot be read"
    hint = "look at this line and the one above: indentation, brackets, a missing space behind a colon"
    if "\\t" in problem or "\t" in shown[: len(shown) - len(shown.lstrip())]:
        hint = "indent with spaces; a tab cannot begin a YAML token"
    elif "end of stream" in problem or line > len(lines):
        hint = "the file ends too early: a bracket or a quote is still open (is the file cut off?)"
    return ScenarioError(f"line {line}: not YAML: {problem}", file=file, given=shown or None, hint=hint)
