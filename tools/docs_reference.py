"""The pages of the site that nobody writes: scenario format, metrics, columns, the API, the gallery.

They are made when the site is built, from what the program itself goes by: the JSON Schema (and so every
``key()``), the metrics of each kind, ``tools/docs_columns.py`` and ``sim.__all__``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sim
from sim.errors import MANY_WORDS, WORDS_SHOWN
from sim.kinds.registry import KINDS
from sim.kinds.schema import scenario_schema
from sim.results.verdict import SAID
from tools.docs_columns import COLUMNS
from tools.gallery import CHECKOUT, all_committed, index_markdown

Schema = Mapping[str, Any]

MADE = "<!-- made by tools/docs_reference.py when the site is built -->"


def scenario_page() -> str:
    """Every key of every kind, in the order in which a reader of a file meets them."""
    schema = scenario_schema()
    lines = [
        MADE,
        "# Every key of a scenario",
        "",
        "A bare number is in the unit of its name; text carries its own (`500 ms`, `80 GB`, `3.35 TB/s`), "
        "and GB and GiB are not the same. A key that is not here is refused, with the nearest that is. "
        "`gpuyard schema` prints the same as a JSON Schema, for editors.",
    ]
    seen: set[str] = set()
    for kind in KINDS:
        lines += ["", f"## kind: {kind}"]
        lines += _sections(schema["$defs"], f"{kind.capitalize()}Scenario", seen)
    return "\n".join(lines) + "\n"


def _sections(definitions: Mapping[str, Schema], top: str, seen: set[str]) -> Iterator[str]:
    """A section per mapping, first the file's own, then those inside it, each once."""
    waiting = [(top, "")]
    while waiting:
        name, path = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        one = definitions[name]
        heading = f"`{path}`" if path else "the file"
        yield from ("", f"### {heading} {{ #{name.lower()} }}", "", one.get("description", ""), "")
        yield from ("| key | meaning | value | default |", "| --- | --- | --- | --- |")
        for key, value in one.get("properties", {}).items():
            meaning = _cell(value.get("description", ""))
            required = "**required**" if key in one.get("required", ()) else ""
            default = f"`{_plain(value['default'])}`" if "default" in value else required
            yield f"| `{key}` | {meaning} | {_cell(_value(value))} | {default} |"
            inside = [(other, _below(path, key, value)) for other in _references(value)]
            waiting += [pair for pair in inside if not pair[0].endswith("Variant")]


def _below(path: str, key: str, value: Schema) -> str:
    listed = "[]" if any(one.get("type") == "array" for one in _options(value)) else ""
    return f"{path}.{key}{listed}" if path else f"{key}{listed}"


def _options(value: Schema) -> list[Schema]:
    return list(value.get("anyOf", [value]))


def _references(value: object) -> Iterator[str]:
    """The names of the mappings that a value may hold."""
    if isinstance(value, Mapping):
        if "$ref" in value:
            yield value["$ref"].rsplit("/", 1)[-1]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _value(value: Schema) -> str:
    """What may be written, in words."""
    shown = [_one(option) for option in _options(value)]
    return " or ".join(dict.fromkeys(text for text in shown if text))


def _one(option: Schema) -> str:
    if "$ref" in option:
        name = option["$ref"].rsplit("/", 1)[-1]
        return "a mapping of differences" if name.endswith("Variant") else f"[a mapping](#{name.lower()})"
    if "enum" in option:
        words = option["enum"]
        shown = words if len(words) <= MANY_WORDS else words[:WORDS_SHOWN]
        left = f" · {len(words) - len(shown)} others" if len(words) > len(shown) else ""
        return " · ".join(f"`{_plain(word)}`" for word in shown) + left
    if "const" in option:
        return f"`{_plain(option['const'])}`"
    kinds = option.get("type", "anything")
    if isinstance(kinds, list):
        return " or ".join(_KINDS.get(kind, "") for kind in kinds if kind != "null")
    if kinds == "array":
        return f"a list: {_value(option['items'])}"
    if kinds == "object":
        inner = option.get("additionalProperties")
        return f"names, each with {_value(inner)}" if isinstance(inner, Mapping) else "a mapping"
    if kinds == "string" and "pattern" in option:
        # Either `./file.py:name`, or a number with its unit, which the schema describes.
        return _unit(option["description"]) if "description" in option else "`./file.py:name`"
    return _KINDS.get(kinds, "") + _bounds(option)


_KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` · `false`"}


def _unit(description: str) -> str:
    """ "a number in s, or a string with a unit: s, ms" -> "text with a unit: s, ms"."""
    return description.partition(", or a string ")[2].replace("with", "text with", 1)


# Larger bounds only keep arithmetic finite.
LARGEST_MEANT = 1e6


def _bounds(option: Schema) -> str:
    """The bounds that somebody meant."""
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    shown = [
        f"{sign} {option[name]:g}"
        for name, sign in words.items()
        if name in option and option[name] < LARGEST_MEANT
    ]
    return f" {', '.join(shown)}" if shown else ""


def metrics_page() -> str:
    """Every metric of every kind."""
    lines = [
        MADE,
        "# Every metric",
        "",
        "The names are those of `summary.json`, of thresholds, of `--metric` and of a sweep's columns. "
        "A percentile with fewer than ten samples beyond it is refused, in words.",
    ]
    for kind, one in KINDS.items():
        table = set(one.table)
        lines += ["", f"## {kind}", "", "In bold: the rows of the decision table.", ""]
        lines += ["| metric | unit | better | meaning |", "| --- | --- | --- | --- |"]
        for metric in one.metrics.values():
            name = f"**`{metric.name}`**" if metric.name in table else f"`{metric.name}`"
            lines.append(f"| {name} | {metric.unit} | {metric.better} | {_cell(metric.meaning)} |")
    lines += [
        "",
        "## Verdicts",
        "",
        "The word that a run ends with (`verdict`), in words, and when it is said.",
        "",
    ]
    lines += ["| verdict | in words | when |", "| --- | --- | --- |"]
    lines += [f"| `{word}` | {said.phrase} | {_cell(said.when)} |" for word, said in SAID.items()]
    return "\n".join(lines) + "\n"


def columns_page() -> str:
    """Every column of the records."""
    lines = [
        MADE,
        "# Every column of the records",
        "",
        "`gpuyard run` writes them as `NAME-VARIANT-SEED.csv` (`--parquet`: as Parquet). Times are seconds "
        "with twelve decimals, exact to the picosecond; an empty cell is a moment that never came.",
    ]
    for kind, files in COLUMNS.items():
        lines += ["", f"## {kind}"]
        for name, file in files.items():
            lines += ["", f"### {name} {{ #{kind}-{name} }}", "", f"A row is {file.row}.", ""]
            lines += ["| column | meaning |", "| --- | --- |"]
            lines += [f"| `{column}` | {_cell(meaning)} |" for column, meaning in file.columns.items()]
    return "\n".join(lines) + "\n"


def api_page() -> str:
    """The public names of ``sim``, from their docstrings."""
    lines = [
        MADE,
        "# The API",
        "",
        "`import sim` gives these; [from Python](../python.md) shows them at work.",
    ]
    for name in sim.__all__:
        if not name.startswith("__"):
            home = getattr(sim, name).__module__
            lines += ["", f"## sim.{name} {{ #sim.{name} }}", "", f"::: {home}.{name}"]
    return "\n".join(lines) + "\n"


def gallery_page() -> str:
    """The gallery, as it is committed."""
    return f"{MADE}\n{index_markdown(all_committed(), CHECKOUT / 'docs')}"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    """Text inside a table: one line, no bar that ends the cell, nothing that reads as HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")


GENERATED: Mapping[str, Callable[[], str]] = {
    "reference/scenario.md": scenario_page,
    "reference/metrics.md": metrics_page,
    "reference/columns.md": columns_page,
    "reference/api.md": api_page,
    "gallery.md": gallery_page,
}
"""By their place under docs/."""
