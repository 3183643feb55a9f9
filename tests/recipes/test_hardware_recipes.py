"""The recipe "a GPU is one YAML file": a device nobody has heard of, and everything that must know it then.

Its architecture and compute capability are in no table, and its file has neither efficiency curves nor
kernel constants. Every command must take it, and every run must say what it assumed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.cli.command import main
from sim.hardware import hardware_names, load_hardware
from sim.hardware import load as loading
from sim.hardware.architecture import SM_FACTS, STAND_INS, by_architecture, sm_facts

PROFILE = """\
name: x300
vendor: Nobody
architecture: Novel
compute_capability: "77.7"
sm_count: {value: 200, source: "a test"}
clock_hz: {value: 2000 MHz, source: "a test"}
sram_bytes_per_sm: {value: 256 KiB, source: "a test"}
max_sram_bytes_per_block: {value: 227 KiB, source: "a test"}
register_file_bytes_per_sm: {value: 256 KiB, source: "a test"}
sram_bytes_per_s: unknown
l2_bytes: {value: 128 MiB, source: "a test"}
l2_bytes_per_s: unknown
hbm_bytes: {value: 280 GiB, source: "a test"}
hbm_bytes_per_s: {value: 13 TB/s, source: "a test"}
dram_bytes: unknown
dram_bytes_per_s: unknown
host_link: {bytes_per_s: 64 GB/s, latency_s: unknown, source: "a test"}
intra_node: {bytes_per_s: 1800 GB/s, latency_s: unknown, source: "a test"}
inter_node: {bytes_per_s: 100 GB/s, latency_s: unknown, source: "a test"}
gpus_per_node: {value: 8, source: "a test"}
peak_flops_per_s:
  float32: {value: 102 TFLOPS, source: "a test"}
  float16: {value: 4000 TFLOPS, source: "a test"}
  bfloat16: {value: 4000 TFLOPS, source: "a test"}
kernel_launch_s: {value: 2.4 us, source: "a test"}
graph_launch_s: {value: 1.3 us, source: "a test"}
idle_w: unknown
tdp_w: {value: 1500 W, source: "a test"}
usd_per_hour: unknown
"""
SERVING = """\
schema_version: 1
question: How fast is the new device?
kind: serving
seeds: [1]
hardware: x300
model: llama-3.1-8b
workload:
  arrivals: {process: poisson, requests_per_s: 8}
  prompt_tokens: 256
  output_tokens: 32
  num_requests: 120
"""
TRAINING = """\
schema_version: 1
question: How fast does the new device train?
kind: training
seeds: [1]
hardware: x300
model: gpt2
training: {num_workers: 8, num_steps: 4, micro_batch_size: 4, max_seq_len: 512, attention: flash_2}
exchange: {algorithm: nccl}
"""
KERNEL = """\
schema_version: 1
question: How fast is attention on the new device?
kind: kernel
seeds: [1]
hardware: x300
kernel: {attention: {algorithm: flash_attention_2, batch: 2, num_heads: 16, head_dim: 64, seqlen: 1024}}
compare:
  reference: flash
  variants: {flash: {}, standard: {kernel: {attention: {algorithm: standard}}}}
"""
SCENARIOS = {"serving": SERVING, "training": TRAINING, "kernel": KERNEL}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shipped profiles and one file more: nothing else in the program is touched."""
    profiles = tmp_path / "hardware_profiles"
    shutil.copytree(loading.profile_folder(), profiles)
    (profiles / "x300.yaml").write_text(PROFILE, encoding="utf-8")
    monkeypatch.setattr(loading, "profile_folder", lambda: profiles)
    loading.shipped_profile.cache_clear()
    yield profiles
    loading.shipped_profile.cache_clear()


def test_it_is_checked_listed_and_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder / "x300.yaml")]) == 0
    assert "x300" in hardware_names() and load_hardware("x300").architecture == "Novel"
    capsys.readouterr()
    assert main(["list", "hardware"]) == 0
    assert "x300" in capsys.readouterr().out
    assert main(["show", "x300"]) == 0
    shown = capsys.readouterr().out
    assert "Novel" in shown and "a test" in shown


@pytest.mark.parametrize("kind", SCENARIOS)
def test_it_runs_and_says_what_it_assumed(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"{kind}.yaml"
    file.write_text(SCENARIOS[kind], encoding="utf-8")
    assert main(["check", str(file)]) == 0
    assert main(["run", str(file), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    for run in summary["runs"]:
        said = json.dumps([run["notes"], run["warnings"]])
        assert "assumed" in said, run["variant"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "assumed" in page


def test_the_assumptions_of_each_kind_are_named(folder: Path, tmp_path: Path) -> None:
    from sim.kinds.load import load_scenario
    from sim.kinds.run import run_scenario

    said = {}
    for kind, text in SCENARIOS.items():
        file = tmp_path / f"{kind}.yaml"
        file.write_text(text, encoding="utf-8")
        warnings = run_scenario(load_scenario(file)).comparison.warning_lines
        said[kind] = " ".join(warnings)
    assert "an SM of compute capability 77.7" in said["kernel"]
    assert "flash_attention_2 forward is not known for Novel; Ampere's stands in" in said["kernel"]
    assert "no gemm_compute curve" in said["kernel"]
    assert "NCCL's LL bandwidth" in said["training"] and "older than FlashAttention-3" in said["training"]


@pytest.mark.parametrize(
    "command",
    [
        ["memory", "--model", "llama-3.1-8b", "--hardware", "x300"],
        ["explain", "--model", "llama-3.1-8b", "--hardware", "x300"],
    ],
    ids=lambda words: words[0],
)
def test_memory_and_explain_take_it(
    command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "x300" in shown
    if command[0] == "explain":
        assert "all of the peak assumed" in shown


def test_a_device_that_the_tables_have_assumes_nothing() -> None:
    assert sm_facts(load_hardware("h100-sxm-80gb")).assumed == ""
    assert by_architecture({"Ada": 1.0, "Hopper": 2.0}, "Hopper", "a figure").assumed == ""


def test_another_architecture_s_figure_is_never_taken_in_silence() -> None:
    for architecture in (*STAND_INS, "Volta", "Novel", ""):
        for known in STAND_INS:
            chosen = by_architecture({known: known}, architecture, "a figure")
            assert chosen.value == known
            assert bool(chosen.assumed) == (architecture != known)
            assert architecture == known or f"{known}'s stands in" in chosen.assumed


@pytest.mark.parametrize("name", hardware_names())
def test_every_shipped_device_has_its_sm_or_says_so(name: str) -> None:
    profile = load_hardware(name)
    assert bool(sm_facts(profile).assumed) == (profile.compute_capability not in SM_FACTS)
