"""YAML read strictly: its traps, bombs, and files that are no text."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from loading_fixtures import GOOD, Load, load, refusal

from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.scenario.strict_yaml import load_yaml, parse_yaml

__all__ = ["load"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", ["line 3", "duplicate key a", "line 1"]),
        ("a:\n  b: 1\n  b: 1\n", ["line 3", "a.b", "duplicate key b"]),
        ("a: {b: 1, b: 2}\n", ["line 1", "duplicate key b"]),
        ("a: 1:30\n", ["line 1", "base 60", "(90)", "90 s"]),
        ("a: 12:30:45\n", ["base 60"]),
        ("a: 010\n", ["another base", "octal"]),
        ("a: 0x1F\n", ["another base"]),
        ("on: 1\n", ["a key reads as the boolean true", "quotes"]),
        ("a: {no: 1}\n", ["a key reads as the boolean false"]),
        ("1: 2\n", ["a key is a number", '"1" in quotes']),
        ("? [1, 2]\n: 3\n", ["where a key is expected"]),
        ("a: [1, 2\n", ["line", "not YAML", "cut off"]),
        ("a: 'x\n", ["not YAML", "cut off"]),
        ("a:\n\tb: 1\n", ["line 2", "not YAML", "tab"]),
        ("a: b: c\n", ["line 1", "not YAML"]),
        ("a: 1\n---\nb: 2\n", ["line 2", "second YAML document"]),
        ("a: *b\n", ["line 1", "*b", "not defined"]),
        ("a: &a [*a]\n", ["cannot contain itself"]),
        ("a: &a {b: *a}\n", ["cannot contain itself"]),
        ("a: !!python/object/apply:os.system [ls]\n", ["tag", "not supported"]),
        ("a: !!binary aGk=\n", ["tag", "!!binary"]),
        ("a: !mine 3\n", ["tag", "!mine"]),
        ("<<: 3\n", ["merges mappings only"]),
        ("a: \x07\n", ["not YAML text"]),
        ("", ["the file is empty"]),
        ("# only a comment\n", ["the file is empty"]),
        ("- 1\n- 2\n", ["a list, not a mapping"]),
        ("just words\n", ["text, not a mapping"]),
        ("a: " + "[" * 60 + "]" * 60, ["nested too deeply", "40"]),
        ("a: " + "[" * 200_000, ["nested too deeply"]),
        ("a: " + "9" * 5000, ["5000 digits"]),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load_yaml(path)
    shown = str(caught.value)
    assert shown.startswith(str(path))
    assert all(word in shown for word in words), shown


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 30)]
    path = tmp_path / "bomb.yaml"
    path.write_text("l0: &l0 [1]\n" + "\n".join(levels))
    with pytest.raises(ScenarioError, match="300,000 values"):
        load_yaml(path)  # ten to the 29th values, were they all made


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(GOOD.encode()), ["gzip", "gunzip"]),
        (gzip.compress(GOOD.encode())[:-20], ["gzip", "damaged or cut off"]),
        (GOOD.encode("utf-16"), ["UTF-8"]),
        (b"a: 1\nb: \xff\xfe\n", ["line 2", "not UTF-8"]),
        (b"\x00\x01\x02\x03" * 100, ["binary"]),
        (b"\x7fELF\x02\x01\x01\x00", ["binary"]),
        (b"a: 1\n" + b" " * 8_000_001, ["too large"]),
    ],
)
def test_files_that_are_no_text(load: Load, content: bytes, words: list[str]) -> None:
    shown = str(refusal(load, content))
    assert "chat.yaml" in shown and all(word in shown for word in words), shown


def test_a_byte_order_mark_does_not_hurt(load: Load) -> None:
    assert load(b"\xef\xbb\xbf" + GOOD.encode()).base == load(GOOD).base


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b.yaml", "x" * 5000, "", "missing/deeper.yaml"])
def test_paths_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScenarioError):
        load_scenario(f"{tmp_path}/{name}" if name else "")


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "chat.yaml").write_text(GOOD)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(tmp_path / "chatt.yaml")
    assert caught.value.hint == str(tmp_path / "chat.yaml")


def test_yaml_that_is_read_as_meant(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "a: 3.35e+12\nb: 1e9\nc: 2024-01-01\nd: '010'\ne: &e {x: 1, y: 2}\nf: {<<: *e, y: 3}\n"
        'g: ~\nh: no\ni: 1_000\nj: -.5\nk: a:b\nl: .inf\nm: "on"\n'
    )
    assert load_yaml(path) == {
        "a": 3.35e12,
        "b": "1e9",
        "c": "2024-01-01",
        "d": "010",
        "e": {"x": 1, "y": 2},
        "f": {"x": 1, "y": 3},
        "g": None,
        "h": False,
        "i": 1000,
        "j": -0.5,
        "k": "a:b",
        "l": float("inf"),
        "m": "on",
    }


# Not PyYAML's bool, int (other bases, base 60), timestamp and value: those readings are refused or text.
_PLAIN = st.text("0123456789.eE+-_:xabonyfNO ~", max_size=8)


@given(_PLAIN)
@settings(max_examples=300)
def test_scalars_are_pyyamls_or_refused(text: str) -> None:
    try:
        theirs = yaml.safe_load(f"a: {text}")
    except (yaml.YAMLError, ValueError):
        return
    try:
        ours = parse_yaml(f"a: {text}", file="x")
    except ScenarioError as error:
        assert "base" in error.problem or ":" in text
        return
    if isinstance(theirs, dict) and not isinstance(theirs.get("a"), (str, type(None))):
        assert repr(ours) == repr(theirs) or isinstance(ours["a"], str)
    else:
        assert ours == theirs
