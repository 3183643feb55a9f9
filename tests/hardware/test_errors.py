"""Broken hardware profiles: each is one clear error with its file and key path, never a traceback."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from sim.errors import ScenarioError
from sim.hardware import load_hardware
from sim.hardware.load import profile_folder

BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    # what: (differences from a100-sxm-80gb, the key path under hardware, words of the message)
    "misspelt field": ({"hbm_byte": "80 GB"}, "hbm_byte", "did you mean hbm_bytes?"),
    "wrong unit": ({"hbm_bytes": "80 TB/s"}, "hbm_bytes", "bytes per second"),
    "no unit in a string": ({"hbm_bytes": "80"}, "hbm_bytes", "needs a unit"),
    "unknown unit": ({"hbm_bytes": "80 gigs"}, "hbm_bytes", "unknown unit"),
    "forgotten unit": ({"hbm_bytes": 80}, "hbm_bytes", "no plausible device"),
    "negative": ({"hbm_bytes_per_s": -2e12}, "hbm_bytes_per_s", "no plausible device"),
    "zero": ({"sm_count": 0}, "sm_count", "no plausible device"),
    "NaN": ({"tdp_w": math.nan}, "tdp_w", "not a finite number"),
    "infinite": ({"clock_hz": math.inf}, "clock_hz", "not a finite number"),
    "huge": ({"hbm_bytes": 10**400}, "hbm_bytes", "too large"),
    "huge count": ({"sm_count": 10**400}, "sm_count", "no plausible device"),
    "boolean": ({"sm_count": True}, "sm_count", "whole number"),
    "a count and a half": ({"sm_count": 1.5}, "sm_count", "whole number"),
    "a count as text": ({"gpus_per_node": "8"}, "gpus_per_node", "whole number"),
    "nothing": ({"tdp_w": None}, "tdp_w", "expected a power"),
    "a list": ({"tdp_w": [400]}, "tdp_w", "expected a power"),
    "unknown where a number is needed": ({"hbm_bytes": "unknown"}, "hbm_bytes", "cannot be unknown"),
    "unknown with a source": (
        {"l2_bytes": {"value": "unknown", "source": "x"}}, "l2_bytes", "has no source",
    ),
    "value missing": ({"l2_bytes": {"source": "x"}}, "l2_bytes", "value is missing"),
    "a third key": ({"l2_bytes": {"value": 9e7, "sauce": "x"}}, "l2_bytes.sauce", "did you mean source?"),
    "an empty source": ({"l2_bytes": {"value": 9e7, "source": " "}}, "l2_bytes.source", "a source is"),
    "a source as a number": ({"l2_bytes": {"value": 9e7, "source": 3}}, "l2_bytes.source", "a source is"),
    "launch of a minute": ({"kernel_launch_s": "1 min"}, "kernel_launch_s", "no plausible device"),
    "graph slower than a launch": ({"graph_launch_s": "9 us"}, "graph_launch_s", "costs more"),
    "idle above TDP": ({"idle_w": 900}, "idle_w", "above its TDP"),
    "block above SM": ({"max_sram_bytes_per_block": "1 MiB"}, "max_sram_bytes_per_block", "than an SM"),
    "L2 above HBM": ({"l2_bytes": "90 GB"}, "l2_bytes", "not smaller than the HBM"),
    "a link as a number": ({"intra_node": 3e11}, "intra_node", "expected a link"),
    "a link's misspelt key": ({"host_link": {"byte_per_s": 1}}, "host_link.byte_per_s", "bytes_per_s?"),
    "a link's wrong unit": ({"host_link": {"bytes_per_s": "5 us"}}, "host_link.bytes_per_s", "is a time"),
    "negative latency": ({"host_link": {"latency_s": -1}}, "host_link.latency_s", "no plausible device"),
    "unknown dtype": ({"peak_flops_per_s": {"fp16": 1e14}}, "peak_flops_per_s.fp16", "float16"),
    "peaks as a number": ({"peak_flops_per_s": 3e14}, "peak_flops_per_s", "by dtype"),
    "peak in bytes": (
        {"peak_flops_per_s": {"float16": "3 TB/s"}}, "peak_flops_per_s.float16", "bytes per second",
    ),
    "no such curve": ({"efficiency": {"gemm": 0.5}}, "efficiency.gemm", "unknown field"),
    "fraction above 1.05": ({"efficiency": {"link": 1.2}}, "efficiency.link[0]", "not a fraction"),
    "no points": ({"efficiency": {"link": {"points": []}}}, "efficiency.link.points", "list of pairs"),
    "points missing": ({"efficiency": {"link": {}}}, "efficiency.link", "points are missing"),
    "too many points": (
        {"efficiency": {"link": {"points": [[n, 0.5] for n in range(1, 10)]}}},
        "efficiency.link.points", "list of pairs",
    ),
    "sizes that fall": (
        {"efficiency": {"link": {"points": [[9, 0.5], [1, 0.6]]}}}, "efficiency.link.points[1]", "ascend",
    ),
    "a size as YAML's text": (
        {"efficiency": {"link": {"points": [["1e9", 0.5]]}}}, "efficiency.link.points[0]", "1.0e+9",
    ),
    "a triple": (
        {"efficiency": {"link": {"points": [[1, 2, 3]]}}}, "efficiency.link.points[0]", "[size, fraction]",
    ),
    "a curve in the wrong size": (
        {"efficiency": {"link": {"size_unit": "flops", "points": [[1, 0.5]]}}},
        "efficiency.link.size_unit", "bytes",
    ),
    "a name that is a number": ({"name": 7}, "name", "expected a text"),
    "an empty vendor": ({"vendor": " "}, "vendor", "expected a text"),
    "capability as a float": ({"compute_capability": 9.0}, "compute_capability", "quotes"),
    "no such base": ({"base": "a100"}, "base", "no such hardware profile"),
    "a base that is a mapping": ({"base": {}}, "base", "a profile's name"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_differences_are_one_clear_error(what: str) -> None:
    differences, path, words = BROKEN[what]
    with pytest.raises(ScenarioError) as caught:
        load_hardware({"base": "a100-sxm-80gb", **differences}, file="chat.yaml")
    error = caught.value
    assert (error.file, error.path) == ("chat.yaml", f"hardware.{path}")
    assert words in str(error)


GOOD = (profile_folder() / "t4.yaml").read_text(encoding="utf-8")
BROKEN_FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "empty"),
    "a list": ("- 1\n", "not a mapping"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\xff", "not UTF-8"),
    "cut off": (GOOD[: GOOD.index("source") + 9], "not YAML"),
    "a field twice": (GOOD + "vendor: AMD\n", "duplicate key vendor"),
    "a required field missing": (re.sub(r"sm_count:.*\n", "", GOOD), "sm_count is missing"),
    "a field left out": (re.sub(r"tdp_w:.*\n", "", GOOD), "tdp_w is missing"),
    "a number without a source": (re.sub(r"tdp_w:.*\n", "tdp_w: 70 W\n", GOOD), "without its source"),
    "YAML's 1e9": (re.sub(r"tdp_w:.*\n", "tdp_w: {value: 1e2, source: x}\n", GOOD), "signed exponent"),
    "its own base": ("base: ./broken.yaml\n", "its own base"),
    "an infinite point": (GOOD.replace("points: [[", "points: [[.inf, 1], [", 1), "points[0]"),
}


@pytest.mark.parametrize("what", BROKEN_FILES)
def test_broken_files_are_one_clear_error(what: str, tmp_path: Path) -> None:
    content, words = BROKEN_FILES[what]
    path = tmp_path / "broken.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ScenarioError) as caught:
        load_hardware(str(path))
    assert "broken.yaml" in caught.value.file
    assert words in str(caught.value)


def test_bases_that_go_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ScenarioError, match="its own base"):
        load_hardware(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("given", ["h100", "nowhere.yaml", 5, None, [], "", "../h100-sxm-80gb"])
def test_what_is_no_profile_is_refused(given: Any) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_hardware(given, file="chat.yaml")
    assert caught.value.path == "hardware"


def test_every_line_of_a_profile_that_is_lost_is_an_error(tmp_path: Path) -> None:
    """Deleting any one line of a shipped profile never loads in silence, but for notes, dtypes, loans."""
    lines = GOOD.splitlines(keepends=True)
    for index, line in enumerate(lines):
        name = line.strip().split(":")[0]
        path = tmp_path / "broken.yaml"
        path.write_text("".join(lines[:index] + lines[index + 1 :]))
        is_optional = "borrowed_from" in line or line.startswith("#")
        if is_optional or name in ("float32", "float16", "int8", "size_unit", "efficiency"):
            continue
        with pytest.raises(ScenarioError):
            load_hardware(str(path))
