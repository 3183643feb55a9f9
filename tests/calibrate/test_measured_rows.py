"""Rows of ours that cannot be meant: refused by file, line and column, or mended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from written_measurements import Law, write_measurements

from calibrate.commands import main
from calibrate.fit.command import fit_folder
from calibrate.fit.rows import read_measurements
from calibrate.measure import rows
from calibrate.measure.points import all_points
from sim.errors import ScenarioError
from sim.hardware import load_hardware

H200 = "h200-sxm-141gb"
LAW = Law()


@pytest.fixture
def few(tmp_path: Path) -> Path:
    made = tmp_path / H200
    write_measurements(made, LAW, points=[one for one in all_points() if one.family == "decode"][:20])
    return made


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "message"),
    [
        ("B=1 H=32 G=8 D=128 context=512", "B=1 H=32 context=512", 4, "size", "not a size of this kernel"),
        ("context=512 ", "context=0 ", 4, "size", "a length of 0"),
        ("context=512 ", "context=many ", 4, "size", "not a size of this kernel"),
        (",triton,", ",cublas,", 2, "provider", "no such provider"),
        (",bfloat16,", ",bfloat17,", 2, "dtype", "no such dtype"),
        ("paged_decode_attention", "paged_attention", 2, "kernel", "no such kernel"),
        (
            "paged_decode_attention,triton,bfloat16,B=1 H",
            "rms_norm,triton,bfloat16,B=1 H",
            2,
            "kernel",
            "another file",
        ),
        (",NVIDIA H200,570.1", ",NVIDIA A100,570.1", 3, "gpu", "another GPU"),
    ],
)
def test_a_bad_row_is_named_with_line_and_column(
    few: Path, old: str, new: str, line: int, column: str, message: str
) -> None:
    file = few / "decode.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ScenarioError) as refused:
        read_measurements(few)
    assert refused.value.file == f"{file}:{line}" and refused.value.path == column
    assert message in refused.value.problem and refused.value.allowed


@pytest.mark.parametrize(
    ("value", "message"),
    [("", "expected a time"), ("fast", "expected a time"), ("nan", "not a time"), ("-1e-6", "not a time"),
     ("0", "not a time"), ("inf", "not a time"), ("9", "do not ascend")],
)  # fmt: skip
def test_a_time_that_is_none_is_refused(few: Path, value: str, message: str) -> None:
    file = few / "decode.csv"
    lines = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]
    lines[5][rows.COLUMNS.index("p50_s")] = value
    file.write_text("\n".join(",".join(line) for line in lines) + "\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match=message) as refused:
        read_measurements(few)
    assert refused.value.file == f"{file}:6" and refused.value.path == "p50_s"


def test_a_line_that_was_cut_off_is_named_and_the_next_slot_mends_it(few: Path) -> None:
    file = few / "decode.csv"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole[:-60], encoding="utf-8")
    with pytest.raises(ScenarioError, match="is the line cut off") as refused:
        read_measurements(few)
    assert refused.value.file.endswith(f":{whole.count(chr(10))}")
    assert rows.drop_cut_off_lines(few) == [file]
    assert len(read_measurements(few).rows) == 19
    assert rows.drop_cut_off_lines(few) == []


def test_the_same_point_twice_is_refused(few: Path) -> None:
    file = few / "decode.csv"
    text = file.read_text(encoding="utf-8")
    file.write_text(text + text.splitlines()[3] + "\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="the same point as line 4"):
        read_measurements(few)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (b"NVIDIA", b"NV\xffDIA", 2, "not UTF-8"),
        (b",torch,triton,commit", b',torch,"triton,commit', 21, "not a line of CSV"),  # swallows the rest
        (b"context=512 ", b"context=1" + b"0" * 400 + b" ", 4, "beyond any device"),
    ],
)
def test_bytes_that_no_run_has_written_are_refused(
    few: Path, old: bytes, new: bytes, line: int, message: str
) -> None:
    file = few / "decode.csv"
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ScenarioError, match=message) as refused:
        read_measurements(few)
    assert refused.value.file == f"{file}:{line}" and refused.value.allowed


def test_a_spreadsheet_s_marks_and_line_ends_are_read(few: Path) -> None:
    file, before = few / "decode.csv", read_measurements(few).rows
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read_measurements(few).rows == before


def test_a_device_without_a_type_keeps_to_the_others(tmp_path: Path) -> None:
    """An A100 multiplies no 8-bit floats, and what was refused there is no error of the fit."""
    made = tmp_path / "a100-sxm-80gb"
    points = [one for one in all_points() if one.family == "decode" or one.dtype == "float8_e4m3fn"]
    write_measurements(made, Law(decode_fraction=0.3), points=points[::3])
    assert main(["fit", "--data", str(made)]) == 0
    text = (made / "fitted.yaml").read_text(encoding="utf-8")
    assert "gemm_float8: a100-sxm-80gb has no peak of float8" in text
    assert "attention_decode" in load_hardware(str(made / "fitted.yaml")).kernels


def test_times_that_cannot_be_this_device_s_are_not_its_constants(
    few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decoding at random between 0.1 and 10,000 us: no law, and no reason to drop the shipped one."""
    file, rng = few / "decode.csv", np.random.default_rng(3)
    lines = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]
    for cells in lines[1:]:
        time_s = f"{10 ** rng.uniform(-7, -2):.6g}"
        for name in ("p20_s", "p50_s", "p80_s"):
            cells[rows.COLUMNS.index(name)] = time_s
    more = [[*cells] for cells in lines[1:]]
    for cells in more:
        cells[3] = cells[3].replace("B=", "B=1")
    file.write_text("\n".join(",".join(cells) for cells in [*lines, *more]) + "\n", encoding="utf-8")
    assert main(["fit", "--data", str(few)]) == 0
    assert "attention_decode: the law misses these times by" in capsys.readouterr().err
    fitted = load_hardware(str(few / "fitted.yaml"))
    assert fitted.kernels["attention_decode"] == load_hardware(H200).kernels["attention_decode"]


def test_constants_that_contradict_each_other_leave_no_file(tmp_path: Path) -> None:
    """A launch in a graph that costs more than a plain one."""
    made = tmp_path / H200
    points = [one for one in all_points() if one.family == "launch"]
    write_measurements(made, Law(launch_s=1e-6, node_s=2e-6), points=points)
    with pytest.raises(ScenarioError, match="cannot be a profile: a launch in a graph costs more"):
        fit_folder(made)
    assert sorted(one.name for one in made.iterdir()) == ["launch.csv"]


def test_a_foreign_header_and_folder_are_refused(few: Path, tmp_path: Path) -> None:
    (few / "norm.csv").write_text("kernel,seconds\nrms_norm,1\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="wrong header: provider"):
        read_measurements(few)
    with pytest.raises(ScenarioError, match="no measurements here"):
        read_measurements(tmp_path / "empty")


def test_what_a_fit_cannot_do_is_said(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = few.parent / "published"
    published.mkdir()
    assert main(["fit", "--data", str(published)]) == 2
    assert "python -m calibrate fit-laws --data" in capsys.readouterr().err
    other = few.parent / "elsewhere"
    few.rename(other)
    assert main(["fit", "--data", str(other)]) == 2
    assert "no shipped profile of this name" in capsys.readouterr().err
    assert main(["fit", "--data", str(other), "--profile", H200]) == 0
