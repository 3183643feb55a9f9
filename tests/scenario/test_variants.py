"""Variants, --set, --trace and relative paths."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from loading_fixtures import GOOD, Load, changed, load, refusal, without_compare, workload_of

from sim.kinds.load import load_scenario
from sim.scenario.distribution import Distribution
from sim.serving.workload.arrivals import Arrivals

__all__ = ["load"]


def test_overrides_are_checked_and_named(load: Load) -> None:
    file = load(GOOD, overrides=["engine.max_num_seqs=64", "seeds=[4, 5]", "slo.e2e_s=20 s", "replicas=3"])
    assert all(variant.scenario.engine.max_num_seqs == 64 for variant in file.variants)
    assert (file.base.seeds, file.base.slo.e2e_s, file.base.replicas) == ((4, 5), 20.0, 3)
    assert file.overrides[0] == "engine.max_num_seqs=64"
    assert load(GOOD, overrides=["thresholds[0].max=2 s"]).base.thresholds[0].max == 2.0
    assert load(GOOD, overrides=["hardware=h200-sxm-141gb"]).base.hardware.hbm_bytes > 140e9
    faster = load(GOOD, overrides=["hardware.hbm_bytes_per_s=4 TB/s"]).base.hardware
    assert faster.hbm_bytes_per_s == 4e12 and faster.sm_count == 132
    assert load(GOOD, overrides=["model.num_key_value_heads=32"]).base.model.num_key_value_heads == 32
    only_static = load(GOOD, overrides=["compare.variants.static.engine.max_num_seqs=8"]).variants
    assert [variant.scenario.engine.max_num_seqs for variant in only_static] == [8, 256]


@pytest.mark.parametrize(
    ("override", "path", "words"),
    [
        ("engine.max_num_seqs=0", "engine.max_num_seqs", ["at least 1"]),
        ("engine.max_num_seq=5", "engine.max_num_seq", ["did you mean max_num_seqs?"]),
        ("slo.ttft_s=1:30", "slo.ttft_s", ["base 60"]),
        ("slo.ttft_s=[1", "slo.ttft_s", ["not YAML"]),
        ("slo.ttft_s=", "slo.ttft_s", ["no value"]),
        ("engine.max_num_seqs", "", ["key=value"]),
        ("=5", "", ["key=value"]),
        ("engine..x=5", "", ["key=value"]),
        ("seeds[7]=5", "seeds[7]", ["no item 7"]),
        ("workload.num_requests.x=5", "workload.num_requests.x", ["has no keys"]),
        ("hardware=h100-sxm", "hardware", ["no such hardware profile"]),
        ("hardware.hbm_bytes_per_s=4 TB", "hardware.hbm_bytes_per_s", ["TB/s"]),
        ("workload.prompt_tokens=-3", "workload.prompt_tokens.value", ["at least 0"]),
    ],
)
def test_a_wrong_override_is_named_as_such(load: Load, override: str, path: str, words: list[str]) -> None:
    error = refusal(load, GOOD, overrides=[override])
    shown = str(error)
    assert (error.file, error.path) == ("--set", path), shown
    assert all(word in shown for word in words), shown


def test_an_override_without_effect_is_refused(load: Load) -> None:
    both = changed("continuous: {}", "continuous: {engine: {batching: continuous}}")
    error = refusal(load, both, overrides=["engine.batching=static"])
    assert "has no effect" in str(error) and "compare.variants.static" in error.hint


def test_an_override_that_a_variant_replaces_as_a_whole_has_no_effect_on_it(load: Load) -> None:
    closed = "{workload: {arrivals: {process: closed_loop, concurrency: 8}}}"
    text = changed("continuous: {}", f"continuous: {closed}")
    both = text.replace("static: {engine: {batching: static, kv_allocator: contiguous}}", f"static: {closed}")
    error = refusal(load, both, overrides=["workload.arrivals.requests_per_s=9"])
    assert "has no effect" in str(error) and "compare=null" in error.hint


def test_an_override_that_reaches_some_variants_says_which_it_does_not(load: Load) -> None:
    file = load(GOOD, overrides=["engine.kv_allocator=contiguous"])
    (warning,) = file.warnings
    assert warning.kind == "variants_not_reached"
    assert "does not reach variant static: it sets engine.kv_allocator itself" in str(warning)
    assert load(GOOD, overrides=["engine.max_num_seqs=64"]).warnings == ()
    assert load(GOOD, overrides=["engine.kv_allocator=paged"]).warnings == (), "as the file has it"
    merged = load(GOOD, overrides=["engine={max_num_seqs: 64}"])  # both variants know of engine
    assert merged.warnings == ()
    assert all(one.scenario.engine.max_num_seqs == 64 for one in merged.variants)


def test_null_takes_a_key_away_so_that_its_default_holds(load: Load) -> None:
    alone = load(GOOD, overrides=["compare=null", "thresholds=null", "slo=null", "engine.max_num_seqs=null"])
    assert [variant.name for variant in alone.variants] == ["base"]
    assert alone.base.slo.bounds == {} and alone.base.thresholds == ()
    assert alone.base.engine.max_num_seqs == 256 and "max_num_seqs" not in alone.raw["engine"]
    kept = load(GOOD, overrides=["slo={ttft_s: null}"]).base.slo
    assert (kept.ttft_s, kept.tpot_s) == (None, 0.05)
    three = changed("continuous: {}", "continuous: {}\n    small: {engine: {max_num_seqs: 8}}")
    assert [one.name for one in load(three, overrides=["compare.variants.small=null"]).variants] == [
        "static",
        "continuous",
    ]
    assert len(load(GOOD, overrides=["thresholds[0]=null"]).base.thresholds) == 0
    assert load(GOOD, overrides=["engine.profile=null"]).base.engine.profile is None, "it was not there"
    assert "did you mean profile?" in str(refusal(load, GOOD, overrides=["engine.profil=null"]))
    assert "missing" in str(refusal(load, GOOD, overrides=["hardware=null"]))


def test_a_null_of_a_variant_takes_the_key_away_too(load: Load) -> None:
    text = changed("continuous: {}", "continuous: {engine: {max_num_seqs: null, profile: null}}")
    assert load(text).variants[1].scenario.engine.max_num_seqs == 256
    small = text.replace("max_num_seqs: 256", "max_num_seqs: 9")
    assert [one.scenario.engine.max_num_seqs for one in load(small).variants] == [9, 256]


@pytest.mark.parametrize(
    ("override", "gone"),
    [
        ("engine.kv_allocator=paged", "engine.kv_reservation"),
        ("engine={kv_allocator: paged}", "engine.kv_reservation"),
        ("workload.arrivals={process: closed_loop, concurrency: 4}", "workload.arrivals.requests_per_s"),
        ("hardware=h200-sxm-141gb", "hardware.hbm_bytes_per_s"),
        ("hardware={base: h200-sxm-141gb}", "hardware.hbm_bytes_per_s"),
        ("workload.prompt_tokens=5", ""),
        ("slo=null", ""),
        ("slo={tpot_s: null}", ""),
        ("hardware.sm_count=100", ""),
    ],
)
def test_keys_that_leave_with_what_an_override_replaces_are_told(
    load: Load, override: str, gone: str
) -> None:
    contiguous = "kv_allocator: contiguous\n  kv_reservation: pow2\n"
    text = without_compare().replace("kv_allocator: paged\n", contiguous)
    text = text.replace("hardware: h100-sxm-80gb", "hardware: {base: h100-sxm-80gb, hbm_bytes_per_s: 4 TB/s}")
    told = [str(one) for one in load(text, overrides=[override]).warnings if one.kind == "keys_dropped"]
    meaning = "it belongs to what was chosen before; set what the new choice needs beside it"
    expected = f"{override} takes {gone} away: {meaning}"
    assert told == ([expected] if gone else [])


def test_a_variant_with_another_tag_replaces_the_object(load: Load) -> None:
    arrivals, prompts = "{process: closed_loop, concurrency: 8}", "{distribution: fixed, value: 3}"
    closed = f"{{workload: {{arrivals: {arrivals}, prompt_tokens: {prompts}}}}}"
    variant = load(changed("continuous: {}", f"continuous: {closed}")).variants[1].scenario.workload
    assert variant.arrivals == Arrivals(process="closed_loop", concurrency=8)
    assert variant.prompt_tokens == Distribution(distribution="fixed", value=3.0)
    assert variant.output_tokens is not None and variant.output_tokens.mean == 256.0
    faster = load(changed("continuous: {}", "continuous: {workload: {arrivals: {requests_per_s: 9}}}"))
    assert faster.variants[1].scenario.workload.arrivals == Arrivals(process="poisson", requests_per_s=9.0)


def test_a_variant_changes_hardware_by_name_or_by_differences(load: Load) -> None:
    text = changed(
        "continuous: {}",
        "continuous: {hardware: h200-sxm-141gb}\n    fast: {hardware: {hbm_bytes_per_s: 5 TB/s}}",
    )
    hardware = [variant.scenario.hardware for variant in load(text).variants]
    assert [one.name.split(" ")[0] for one in hardware] == [
        "h100-sxm-80gb",
        "h200-sxm-141gb",
        "h100-sxm-80gb",
    ]
    assert hardware[2].hbm_bytes_per_s == 5e12


def test_keys_of_a_left_kind_go_with_it(load: Load) -> None:
    text = changed("kv_allocator: paged\n", "kv_allocator: contiguous\n  kv_reservation: pow2\n")
    text = text.replace("continuous: {}", "continuous: {engine: {kv_allocator: paged}}")
    static, continuous = (variant.scenario.engine for variant in load(text).variants)
    assert (static.kv_reservation, continuous.kv_reservation) == ("pow2", "max")


def test_an_error_of_one_variant_names_it(load: Load) -> None:
    text = changed("continuous: {}", "continuous: {model: gpt2}")
    assert "(in variant continuous)" in str(refusal(load, text))
    text = changed("continuous: {}", "continuous: {engine: {max_num_batched_tokens: 9}}")
    assert refusal(load, text).path == "compare.variants.continuous.engine.max_num_batched_tokens"


def test_a_trace_from_the_command_line(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    with_trace = workload_of("  trace: {path: other.csv, time_scale: 0.5}")
    trace = load(with_trace, trace="t.csv").base.workload.trace
    assert trace is not None and trace.path == str(tmp_path / "t.csv") and trace.time_scale == 0.5
    drawn = load(without_compare(), trace="t.csv").base.workload
    assert drawn.arrivals is None and drawn.prompt_tokens is None and drawn.trace is not None
    error = refusal(load, GOOD, trace="tt.csv")
    assert error.file == "--trace" and error.hint == "t.csv"


def test_paths_in_a_scenario_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "lengths.csv").write_text("tokens\n3\n")
    text = without_compare().replace(
        "{distribution: lognormal, mean: 512, max: 4096}",
        "{distribution: empirical, file: lengths.csv, column: tokens}",
    )
    text = text.replace("hardware: h100-sxm-80gb", "hardware: mine.yaml")
    (tmp_path / "deep" / "mine.yaml").write_text(
        "base: h100-sxm-80gb\nhbm_bytes_per_s: {value: 3 TB/s, source: me}\n"
    )
    (tmp_path / "deep" / "chat.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert load_scenario("deep/chat.yaml").base.hardware.hbm_bytes_per_s == 3e12


def test_the_changed_line_says_which_variants_a_change_reached(tmp_path: Path) -> None:
    """Two variants set their own number of columns: their names stay true, the others' do not."""
    heads = {"algorithm": "flash_attention_2", "batch": 1, "num_heads": 8, "head_dim": 64}
    attention = heads | {"seqlen": 512, "dtype": "float16"}
    kernel = {"attention": attention, "tile": {"block_m": 64, "block_n": 64}}
    made = {
        "schema_version": 1,
        "question": "?",
        "kind": "kernel",
        "hardware": "a100-sxm-80gb",
        "kernel": kernel,
        "compare": {
            "reference": "64",
            "variants": {
                "64": {},
                "32": {"kernel": {"tile": {"block_n": 32}}},
                "128": {"kernel": {"tile": {"block_n": 128}}},
                "causal": {"kernel": {"attention": {"causal": True}}},
            },
        },
    }
    path = tmp_path / "kernel.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
    some = "kernel.tile.block_n=128"
    assert load_scenario(path, overrides=[some, "kernel.attention.seqlen=1024"]).changes == (
        f"{some} (in 64 and causal only; the others set their own)",
        "kernel.attention.seqlen=1024, so that 64 is the same as 128",
    )
    assert load_scenario(path, overrides=["kernel.tile.block_n=96"]).changes == (
        "kernel.tile.block_n=96 (in 64 and causal only; the others set their own)",
    )
    assert load_scenario(path, overrides=["kernel.attention.seqlen=1024"]).changes == (
        "kernel.attention.seqlen=1024",
    )
