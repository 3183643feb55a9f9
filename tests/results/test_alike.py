"""An answer compares like with like: what is asked for is answered each for itself, in every kind of file."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario, settings_of
from sim.report.decision import decision_table
from sim.results.answer import answer_line, best_variant, deciding_numbers
from sim.results.comparison import Comparison

GEMM: dict[str, Any] = {
    "schema_version": 1,
    "question": "?",
    "kind": "kernel",
    "hardware": "a100-sxm-80gb",
    "kernel": {"gemm": {"m": 16, "n": 4096, "k": 4096}},
}


def compared(tmp_path: Path, base: dict[str, Any], reference: str, **variants: Any) -> Comparison:
    path = tmp_path / "scenario.yaml"
    made = {**base, "compare": {"reference": reference, "variants": variants}}
    path.write_text(yaml.safe_dump(made, sort_keys=False), encoding="utf-8")
    return run_scenario(load_scenario(path)).comparison


def shipped(name: str, *overrides: str) -> Comparison:
    return run_scenario(load_scenario(name, overrides=overrides)).comparison


def names(comparison: Comparison) -> list[tuple[str, ...]]:
    return [part.names for part in comparison.parts]


def test_other_work_is_answered_for_itself() -> None:
    """int4 for 16 rows against bf16 for 16 rows, and for 2,048 rows: where it no longer pays."""
    comparison = shipped("kernel/int4_gemm")
    line = answer_line(comparison)
    assert names(comparison) == [
        ("bf16_16_rows", "int4_16_rows"),
        ("bf16_2048_rows", "int4_2048_rows"),
    ]
    assert line.startswith("int4_16_rows is 2.82 × as fast as bf16_16_rows (")
    assert ". At m: 2048, int4_2048_rows takes 1.15 × the time of bf16_2048_rows (" in line
    numbers = deciding_numbers(comparison)  # of both that the answer compares
    assert [one.label for one in numbers] == ["time, int4_16_rows", "time, int4_2048_rows"]
    assert "best of" not in line


def test_a_rival_that_only_loses_is_one_of_the_pairs(tmp_path: Path) -> None:
    """What one tile more costs was asked first; split-K, which nobody should take, does not lead."""
    tile = {"block_m": 128, "block_n": 256, "block_k": 32, "num_stages": 3, "num_warps": 8}
    base = {**GEMM, "kernel": {"gemm": {"m": 1152, "n": 3072, "k": 4096}, "tile": tile}}
    more = {"kernel": {"gemm": {"m": 13952, "n": 256}}}
    split = {"kernel": {"tile": {"num_splits": 2}}}
    comparison = compared(tmp_path, base, "108", **{"108": {}, "109": more, "split": split})
    assert names(comparison) == [("109", "108"), ("108", "split")]
    assert answer_line(comparison).startswith("109 (m: 13952, n: 256) takes 1.97 × the time of 108 (")
    numbers = deciding_numbers(comparison)
    assert [(one.label, one.metric) for one in numbers] == [
        ("time, 109", "time_s"),
        ("time, split", "time_s"),
    ]
    faster = {"kernel": {"gemm": {"weight_bits": 4}}}
    wins = compared(tmp_path, GEMM, "bf16", bf16={}, longer={"kernel": {"gemm": {"m": 64}}}, int4=faster)
    assert names(wins) == [("bf16", "int4"), ("longer", "bf16")]


def test_fewer_tokens_are_no_speed(tmp_path: Path) -> None:
    """A quarter of the work in less time must not lead, and is told with what it is asked for."""
    shape = {"algorithm": "standard", "batch": 4, "num_heads": 16, "seqlen": 2048, "dtype": "float16"}
    comparison = compared(
        tmp_path,
        {**GEMM, "kernel": {"attention": shape}},
        "standard",
        standard={},
        shorter={"kernel": {"attention": {"seqlen": 1024}}},
        flash={"kernel": {"attention": {"algorithm": "flash_attention_2"}}},
    )
    line = answer_line(comparison)
    assert best_variant(comparison) == "flash"
    assert line.startswith("flash is ")
    assert "; shorter (seqlen: 1024) is " in line
    assert "best of 3" not in line


def test_a_variant_that_nothing_is_like_is_named_and_not_compared(tmp_path: Path) -> None:
    comparison = compared(
        tmp_path,
        GEMM,
        "bf16",
        bf16={},
        int8={"kernel": {"gemm": {"weight_bits": 8}}},
        other={"kernel": {"gemm": {"weight_bits": 4, "m": 64}}},
    )
    assert answer_line(comparison).endswith("; other (m: 64) is not compared.")


def test_what_a_slow_gpu_costs_is_told_of_each_scheme() -> None:
    """Each scheme with the slow GPU against itself without; BSP without is never set against ASP with it."""
    comparison = shipped("training/one_slow_gpu", "training.num_steps=200", "seeds=[1,2]", "thresholds=[]")
    line = answer_line(comparison)
    kept = {
        scheme: comparison.against(scheme, f"{scheme} healthy", "tokens_per_s").ratio
        for scheme in ("BSP", "SSP 3", "SSP 50", "ASP")
    }
    said, _, then = line.partition(". ")
    shown = re.findall(r"([A-Z]+(?: \d+)?) keeps ([\d.]+) %", said)
    assert [name for name, _ in shown] == list(kept)
    for name, share in shown:
        ratio = kept[name]
        assert ratio is not None
        assert float(share) == pytest.approx(100 * ratio.estimate, abs=0.5)
        assert " of the tokens per second of BSP healthy, " in said
    assert said.endswith(" % of each)")
    assert then.startswith("ASP, the best of 4, trains on ")
    assert "ASP, the best of 4, trains on " in line
    assert " the tokens of BSP (" in line
    assert line.endswith(" on gradients 62.8 updates old.")  # the one that leads, at that price
    (warned,) = [one for one in comparison.warnings if one[1].kind == "stale_gradients"]
    assert warned[0] == "SSP 3 healthy, SSP 50 healthy, ASP healthy, SSP 3, SSP 50, ASP"
    assert "and a variant is asked for what BSP healthy is" in decision_table(comparison).notes[0]
    ratio = comparison.against("ASP", "ASP healthy", "tokens_per_s").ratio
    assert ratio is not None
    assert ratio.estimate == pytest.approx(63.5 / 64, rel=2e-3)  # one worker of 64 at half speed
    halved = comparison.against("SSP 3", "SSP 3 healthy", "tokens_per_s").ratio
    assert halved is not None
    assert halved.estimate == pytest.approx(0.5, rel=0.03)  # the slow one's pace
    numbers = deciding_numbers(comparison)
    assert [one.label.partition(", ")[2] for one in numbers] == ["BSP", "SSP 3", "ASP"]
    assert [one.beside.partition(":")[0] for one in numbers] == [
        "BSP healthy",
        "SSP 3 healthy",
        "ASP healthy",
    ]


def test_many_variants_share_the_badge_of_their_verdict() -> None:
    changes = ["training.num_steps=200", "seeds=[1]", "thresholds=[]"]
    answer = run_scenario(load_scenario("training/one_slow_gpu", overrides=changes))
    shown = [badge.text for badge in report_of(answer).badges]
    assert shown == [
        "5 of 8: bound by compute (COMPUTE_BOUND)",
        "BSP, SSP 3, SSP 50: waits for stragglers (STRAGGLER_BOUND)",
    ]


def test_without_a_healthy_fleet_of_its_own_a_scheme_is_set_against_the_others(tmp_path: Path) -> None:
    """As the file was shipped before: BSP alone without the slow GPU."""
    base = {
        "schema_version": 1,
        "question": "?",
        "kind": "training",
        "hardware": "a100-sxm-80gb",
        "training": {"num_workers": 8, "num_steps": 60, "micro_batch_size": 1, "max_seq_len": 1000},
        "compute": {"compute_s": 1.0},
        "exchange": {"algorithm": "none"},
        "variation": {"slow_workers": [{"worker": 0, "slowdown": 2}]},
    }
    comparison = compared(
        tmp_path,
        base,
        "all alike",
        **{"all alike": {"variation": {"slow_workers": []}}, "BSP": {}, "ASP": {"sync": {"scheme": "asp"}}},
    )
    assert names(comparison) == [("BSP", "all alike"), ("BSP", "ASP")]
    line = answer_line(comparison)
    assert line.startswith("BSP trains on 0.5 × the tokens of all alike (4,000 against 8,000 a second)")
    assert ". ASP trains on 1.88 × the tokens of BSP (7,500 against 4,000 a second)" in line
    assert comparison.is_other("ASP")
    judged = [cell.small for row in decision_table(comparison).rows for cell in row[1:]]
    assert not any("better" in text or "worse" in text for text in judged)


def test_another_device_is_a_circumstance_where_ways_are_crossed_with_it_and_else_a_choice() -> None:
    crossed = answer_line(shipped("kernel/hbm3e"))
    assert "standard_hbm3e is 2.6 × as fast as standard_hbm2 (" in crossed
    assert "flash_2_hbm3e is 1.05 × as fast as flash_2_hbm2 (" in crossed
    alone = answer_line(shipped("kernel/sram_size"))
    assert "1_MB, the best of 3, is 1.07 × as fast as 192_KB" in alone


@pytest.mark.parametrize("name", ["kernel/fused_norm", "training/bucket_size", "serving/quantization_fp8"])
def test_where_all_are_asked_for_the_same_all_compete(name: str) -> None:
    file = load_scenario(name)
    settings = settings_of(file)
    assert not any(setting.asked for setting in settings.values())


# --- what the sentence says beside ---------------------------------------------------------------


def test_the_answer_names_the_algorithm_and_device_that_all_share() -> None:
    line = answer_line(shipped("kernel/block_size"))
    assert line.startswith("With flash_attention_1 on a100-sxm-40gb, 512_columns, the best of 5, is ")
    rows = ("kernel.tile.block_m=128", "kernel.tile.num_warps=8")  # 16 for each warp
    second = ("kernel.attention.algorithm=flash_attention_2", *rows)
    changed = answer_line(shipped("kernel/block_size", *second))
    assert changed.startswith("With flash_attention_2 on ")


def test_a_best_at_the_edge_of_what_was_tried_says_so() -> None:
    assert "; 512 is the largest block_n tried, the best may lie beyond" in answer_line(
        shipped("kernel/block_size")
    )
    inside = answer_line(shipped("training/bucket_size", "training.num_steps=20", "seeds=[1]"))
    assert "tried" not in inside


def test_a_largest_value_that_cannot_be_smaller_is_no_edge(tmp_path: Path) -> None:
    heads = {f"kv_{n}": {"kernel": {"attention": {"num_kv_heads": n}}} for n in (1, 4, 16)}
    base = {
        **GEMM,
        "kernel": {
            "attention": {
                "algorithm": "paged_decode",
                "batch": 8,
                "num_heads": 16,
                "seqlen": 1,
                "seqlen_kv": 2048,
            }
        },
    }
    line = answer_line(compared(tmp_path, base, "kv_16", **heads))
    assert "kv_1, the best of 3, is " in line
    assert "tried" not in line


def test_where_variants_differ_in_more_than_one_thing_the_sentence_lists_them() -> None:
    line = answer_line(shipped("training/zero_stages", "training.num_steps=20", "seeds=[1]"))
    assert "ZeRO 3 batch 8, the best of 5, " in line
    assert "they differ in micro_batch_size and zero_stage" in line


def test_the_longer_time_is_told_as_a_time() -> None:
    line = answer_line(shipped("kernel/kv_offload"))
    assert "over_nvlink_c2c, takes 6.97 × the time of in_hbm (1.21 ms against 174 µs)" in line


def test_a_scenario_may_ask_for_memory_in_place_of_time() -> None:
    comparison = shipped("kernel/memory_at_4k")
    assert "needs 1/26.2 of the memory of standard (0.68 GB against 17.7 GB)" in answer_line(comparison)
    assert "standard_at_8k (seqlen: 8192) needs 3.94 × the memory of standard" in answer_line(comparison)
    assert deciding_numbers(comparison)[0].metric == "memory_bytes"


def test_others_within_a_few_per_cent_of_the_best_are_named() -> None:
    """512 columns lead by so little that 256, of half the shared memory, do as well."""
    comparison = shipped("kernel/block_size")
    ratio = comparison.against("256_columns", "512_columns", "time_s").ratio
    assert ratio is not None and 1.03 < ratio.estimate < 1.04
    assert f"; 256_columns is within {math.ceil(1000 * (ratio.estimate - 1)) / 10:g} %; " in answer_line(
        comparison
    )
    shorter = shipped("kernel/block_size", "compare.variants.256_columns=null")
    assert "within" not in answer_line(shorter)


SERVING: dict[str, Any] = {
    "schema_version": 1,
    "question": "?",
    "kind": "serving",
    "hardware": "h100-sxm-80gb",
    "model": "llama-3.1-8b",
    "workload": {
        "num_requests": 150,
        "arrivals": {"process": "poisson", "requests_per_s": 4},
        "prompt_tokens": {"distribution": "fixed", "value": 128},
        "output_tokens": {"distribution": "fixed", "value": 16},
    },
    "engine": {"max_model_len": 1024, "max_num_seqs": 32},
    "slo": {"ttft_s": 0.5, "tpot_s": 0.1},
}
TWICE = {"workload": {"arrivals": {"process": "poisson", "requests_per_s": 8}}}


def test_another_load_is_no_speed_up(tmp_path: Path) -> None:
    """Twice the requests are served because twice as many come: both rates are told, and no ratio."""
    comparison = compared(tmp_path, SERVING, "today", today={}, doubled=TWICE)
    line = answer_line(comparison)
    assert names(comparison) == [("doubled", "today")]
    assert re.match(r"P\d\d TTFT: today [\d.]+ ms .*, doubled \(requests_per_s: 8.0\) [\d.]+ ms ", line)
    assert " × " not in line
    assert "both meet the SLO" in line
    assert best_variant(comparison) == "doubled"
    cells = [cell for row in decision_table(comparison).rows for cell in row]
    assert not any(cell.small.endswith(("better", "worse")) for cell in cells)


def test_another_model_is_other_work_and_its_heads_are_a_choice(tmp_path: Path) -> None:
    smaller = compared(tmp_path, SERVING, "8b", **{"8b": {}, "1b": {"model": "llama-3.2-1b"}})
    assert "1b (model: llama-3.2-1b) " in answer_line(smaller)
    heads = {"model": {"base": "llama-3.1-8b", "num_key_value_heads": 32}}
    assert names(compared(tmp_path, SERVING, "gqa", gqa={}, mha=heads)) == [("gqa", "mha")]
    layers = {"model": {"base": "llama-3.1-8b", "num_hidden_layers": 16}}
    halved = answer_line(compared(tmp_path, SERVING, "whole", whole={}, half=layers))
    assert "half (num_hidden_layers: 16) " in halved


def test_ways_of_serving_compete_at_each_load(tmp_path: Path) -> None:
    """Two limits at two loads: each limit against the other at its load, never across."""
    small = {"engine": {"max_num_seqs": 1}}
    variants = {"wide": {}, "narrow": small, "wide_8": TWICE, "narrow_8": {**small, **TWICE}}
    comparison = compared(tmp_path, SERVING, "wide", **variants)
    assert names(comparison) == [("wide", "narrow"), ("wide_8", "narrow_8")]
    line = answer_line(comparison)
    assert "narrow " in line
    assert "At requests_per_s: 8.0, narrow_8 " in line


def test_where_all_serve_the_same_nothing_changes(tmp_path: Path) -> None:
    """Patience is the clients', the load is the same; and no list of settings joins the sentence."""
    path = tmp_path / "scenario.yaml"
    ways = {"patient": {}, "gives_up": {"workload": {"timeout_s": 20}, "engine": {"max_num_seqs": 16}}}
    whole = {**SERVING, "compare": {"reference": "patient", "variants": ways}}
    path.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    assert settings_of(load_scenario(path)) == {}
