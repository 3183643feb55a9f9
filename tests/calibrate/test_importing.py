"""Importers on small made-up folders, the own format's strictness, and what a table prices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from plain_engine import plain_engine

from calibrate.commands import main
from sim.errors import ScenarioError
from sim.hardware import load_hardware
from sim.model.config import load_model
from sim.price.providers.analytic import AnalyticTimes
from sim.price.providers.table import TablePrice, load_price_table
from sim.serving.scenario import Scenario, Trace, Workload

LAYERS = load_model("llama-3.1-8b").num_hidden_layers


def attention_us(chunk: int, cached: int, count: int, context: int) -> float:
    """A made-up kernel: linear in everything, so that interpolation must reproduce it exactly."""
    return 10.0 + 0.05 * chunk + 0.01 * cached * bool(chunk) + 0.5 * count + 0.002 * count * context


def llmservingsim(folder: Path) -> Path:
    """A profile folder of LLMServingSim with linear times."""
    tables = folder / "profile" / "tp1"
    tables.mkdir(parents=True)
    shape = {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}
    meta = {
        "gpu": "a GPU",
        "model": "llama",
        "engine_effective": {"hf_overrides": {**shape, "num_hidden_layers": 1}},
    }
    (folder / "profile" / "meta.yaml").write_text(yaml.safe_dump(meta))
    dense = [("layernorm", 2.0, 0.0), ("qkv_proj", 50.0, 0.1), ("embedding", 3.0, 0.0)]
    lines = [f"{name},{m},{a + b * m}" for name, a, b in dense for m in (1, 64, 2048)]
    (tables / "dense.csv").write_text("\n".join(["layer,tokens,time_us", *lines]) + "\n")
    head = [f"lm_head,{n},{1000 + n}" for n in (1, 256)]
    (tables / "per_sequence.csv").write_text("\n".join(["layer,sequences,time_us", *head]) + "\n")
    rows = ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"]
    for chunk in (0, 16, 2048):
        for cached in (0, 16, 4096) if chunk else (0,):
            for count, context in [(0, 0), *((n, c) for n in (1, 8, 64) for c in (16, 1024, 4096))]:
                if chunk or count:
                    time = attention_us(chunk, cached, count, context)
                    rows.append(f"{chunk},{cached},{count},{context},{time}")
    (tables / "attention.csv").write_text("\n".join(rows) + "\n")
    return folder / "profile"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    out = tmp_path / "table"
    assert main(["import", "llmservingsim", str(llmservingsim(tmp_path)), str(out)]) == 0
    return out


def scenario(**engine: Any) -> Scenario:
    return Scenario(
        schema_version=1, question="?", kind="serving",
        hardware=load_hardware("rtx-4090"), model=load_model("llama-3.1-8b"),
        workload=Workload(trace=Trace(path="none.csv")),
        engine=plain_engine(**engine),
    )  # fmt: skip


def priced(table: Path) -> TablePrice:
    return TablePrice(scenario(), load_price_table(table))


def test_a_decode_step_is_the_sum_of_its_measurements(table: Path) -> None:
    """layernorm twice in a layer, the embedding once; times are linear, so their sum is known."""
    tokens, context = 8, 8 * 700
    linear = LAYERS * (2 * 2.0 + 50.0 + 0.1 * tokens) + 3.0
    expected = linear + 1000 + tokens + LAYERS * attention_us(0, 0, tokens, 700)
    assert priced(table).step_ps(tokens, context, []) * 1e-6 == pytest.approx(expected, rel=1e-6)


def test_a_newer_profile_says_keys_in_place_of_context(tmp_path: Path, table: Path) -> None:
    """``prefill_key`` is the context and half of the chunk; rows that verify drafts are another kernel's."""
    file = tmp_path / "profile" / "tp1" / "attention.csv"
    rows = [[int(float(cell)) for cell in line.split(",")[:4]] for line in file.read_text().splitlines()[1:]]
    lines = ["layer,prefill_chunk,prefill_key,n_decode,kv_decode,decode_q_len,time_us,measurement_protocol"]
    for chunk, cached, count, context in rows:
        time = attention_us(chunk, cached, count, context)
        lines.append(f"attention,{chunk},{cached + chunk / 2},{count},{context},1,{time},v4")
        if count:
            lines.append(f"attention,{chunk},{cached + chunk / 2},{count},{context},4,{3 * time},v4")
    file.write_text("\n".join(lines) + "\n")
    assert main(["import", "llmservingsim", str(tmp_path / "profile"), str(tmp_path / "newer")]) == 0
    first, second = load_price_table(table).attention, load_price_table(tmp_path / "newer").attention
    assert first.points == second.points and np.allclose(first.times_s, second.times_s)
    file.write_text("\n".join([*lines, "indexer,16,8,0,0,1,5.0,v4"]) + "\n")
    assert main(["import", "llmservingsim", str(tmp_path / "profile"), str(tmp_path / "other")]) == 2


def test_a_profile_of_two_degrees_states_a_rank_s_sizes(tmp_path: Path, table: Path) -> None:
    """16 of the model's 32 heads: not a reason to refuse the model."""
    file = tmp_path / "profile" / "meta.yaml"
    meta = yaml.safe_load(file.read_text())
    overrides = {**meta["engine_effective"]["hf_overrides"], "num_attention_heads": 16, "hidden_size": 4096}
    meta |= {"tp_degrees": [1, 2], "engine_effective": {"hf_overrides": overrides}}
    file.write_text(yaml.safe_dump(meta))
    (tmp_path / "profile" / "tp1").rename(tmp_path / "profile" / "tp2")
    command = ["import", "llmservingsim", str(tmp_path / "profile"), str(tmp_path / "two")]
    assert main([*command, "--tensor-parallel-size", "2"]) == 0
    found = load_price_table(tmp_path / "two")
    assert dict(found.shape) == {"hidden_size": 4096} and found.tensor_parallel_size == 2
    assert TablePrice(scenario(tensor_parallel_size=2), found).step_ps(1, 100, []) > 0
    with pytest.raises(ScenarioError, match="hidden_size"):
        TablePrice(replace(scenario(tensor_parallel_size=2), model=load_model("opt-13b")), found)


def test_experts_are_read_where_even_chances_hit_them(tmp_path: Path, table: Path) -> None:
    """Times linear in both sizes; two tokens that pick 2 of 8 hit 8 (1 − 0.75²) = 3.5 of them in the mean."""
    rows = [f"1,{m},{hit},{20 + 3 * hit + 0.1 * m}" for m in (1, 2, 64) for hit in (2, 4, 8) if hit <= 2 * m]
    rows.append("2,1,1,7.0")
    text = "\n".join(["ep,tokens,activated_experts,time_us", *rows]) + "\n"
    (tmp_path / "profile" / "tp1" / "moe.csv").write_text(text)
    assert main(["import", "llmservingsim", str(tmp_path / "profile"), str(tmp_path / "experts")]) == 0
    found = load_price_table(tmp_path / "experts")
    hit = np.array([2.0, 3.5, 8 * (1 - 0.75**64)])
    expected = 20 + 3 * hit + 0.1 * np.array([1, 2, 64])
    assert found.calls["moe"] == 1
    assert found.per_token["moe"].at(np.array([1.0, 2.0, 64.0])) * 1e6 == pytest.approx(expected, rel=1e-6)


def test_a_table_of_one_rank_is_charged_the_profile_s_all_reduces(table: Path) -> None:
    """Two in a layer over the A100s' NVLink; a table that times them itself is left alone."""
    header = table / "price_table.yaml"
    header.write_text(header.read_text().replace("tensor_parallel_size: 1", "tensor_parallel_size: 2"))
    split = replace(scenario(tensor_parallel_size=2), hardware=load_hardware("a100-sxm-80gb"))
    plain = load_price_table(table)
    price = TablePrice(split, plain)
    analytic = AnalyticTimes(split)
    tokens = np.array([256.0])
    exchange = float(analytic.all_reduce_s(tokens)[0])
    assert exchange > 64 * 256 * 4096 * 2 / 600e9  # both directions of every link busy all the time
    own = 1e-6 * (LAYERS * (2 * 2.0 + 50.0 + 0.1 * 256) + 3.0)
    assert price.linear_ps(256) * 1e-12 == pytest.approx(own + exchange, rel=1e-6)
    assert any("all-reduces" in warning for warning in price.warnings)
    timed = replace(
        plain,
        per_token={**plain.per_token, "all_reduce": plain.per_token["embedding"]},
        calls={**plain.calls, "all_reduce": 2},
    )
    assert TablePrice(split, timed).linear_ps(256) * 1e-12 == pytest.approx(own + 2 * LAYERS * 3e-6, rel=1e-6)


def test_a_mixed_step_is_looked_up_as_it_is(table: Path) -> None:
    chunk, cached, count, context = 500, 300, 20, 900
    linear = LAYERS * (2 * 2.0 + 50.0 + 0.1 * (count + chunk)) + 3.0
    expected = linear + 1000 + count + 1 + LAYERS * attention_us(chunk, cached, count, context)
    found = priced(table).step_ps(count, count * context, [(chunk, cached, True, None)]) * 1e-6
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_run_of_decode_steps_adds_up(table: Path) -> None:
    """``decode_run`` promises first + growth · i for as long as it says."""
    price = priced(table)
    first, growth, steps = price.decode_run(8, 4000)
    for step in range(min(steps, 50)):
        assert price.step_ps(8, 4000 + 8 * step, []) == first + growth * step


def test_beyond_the_last_measurement_its_slope_goes_on(table: Path) -> None:
    price = priced(table)
    expected = LAYERS * attention_us(0, 0, 64, 9000)
    assert price.decode_attention_ps(64, 64 * 9000) * 1e-6 == pytest.approx(expected, rel=0.02)
    grid = load_price_table(table).attention
    assert grid.at((4096, 0, 0, 0)) * 1e6 == pytest.approx(attention_us(4096, 0, 0, 0), rel=1e-3)


def test_a_gap_is_filled_by_the_parts_alone(table: Path) -> None:
    file = table / "attention.csv"
    kept = [line for line in file.read_text().splitlines() if not line.startswith("2048,4096,64,")]
    file.write_text("\n".join(kept) + "\n")
    grid = load_price_table(table).attention
    alone = grid.at((2048, 4096, 0, 0)) + grid.at((0, 0, 64, 4096)) - grid.floor_s
    assert grid.at((2048, 4096, 64, 4096)) == pytest.approx(alone, rel=1e-9)


def test_the_own_format_survives_a_round_trip(table: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert main(["import", "price_table", str(table), str(again)]) == 0
    first, second = load_price_table(table), load_price_table(again)
    assert np.allclose(first.attention.times_s, second.attention.times_s)
    assert first.calls == second.calls and first.shape == second.shape


def test_another_model_is_refused(table: Path) -> None:
    other = replace(scenario(), model=load_model("opt-13b"))
    with pytest.raises(ScenarioError, match="the scenario's model has"):
        TablePrice(other, load_price_table(table))
    split = scenario(tensor_parallel_size=2)
    with pytest.raises(ScenarioError, match="measured with tensor_parallel_size 1"):
        TablePrice(split, load_price_table(table))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("per_token.csv", "operator,tokens,time_s", "name,tokens,time_s", "wrong header line"),
        ("per_token.csv", "qkv_proj,64,", "qkv_proj,64,oops", "expected a number"),
        ("per_token.csv", "qkv_proj,64,", "qkv_proj,1,", "two times at one size"),
        ("per_sequence.csv", "lm_head,1,", "lm_head,1,1,", "wrong number of columns"),
        ("price_table.yaml", "format: 1", "format: 2", "not a format that is known"),
        ("price_table.yaml", "format: 1", "format: 1\ncolour: red", "unknown field"),
        ("price_table.yaml", "  qkv_proj: 1", "  other: 1", "does not say how often qkv_proj"),
        ("price_table.yaml", "tensor_parallel_size: 1", "tensor_parallel_size: 0", "expected a whole number"),
    ],
)
def test_a_broken_table_is_refused(table: Path, file: str, old: str, new: str, message: str) -> None:
    text = (table / file).read_text()
    assert old in text
    (table / file).write_text(text.replace(old, new, 1))
    with pytest.raises(ScenarioError, match=message):
        load_price_table(table)


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "message"),
    [
        (b"qkv_proj,64,", b"qkv_proj,64,-", 0, "time_s", "expected a number"),
        (b"qkv_proj,64,", b"qkv_proj,nan,", 0, "tokens", "expected a number"),
        (b"qkv_proj,64,", b"qkv_proj,64,1,", 0, "", "wrong number of columns"),
        (b"qkv_proj,64,", b"qkv\xffproj,64,", 0, "", "not UTF-8"),
        (b"qkv_proj,64,", b'"qkv_proj,64,', -1, "", "not a line of CSV"),
    ],
)
def test_a_bad_row_is_named_with_line_and_column(
    table: Path, old: bytes, new: bytes, line: int, column: str, message: str
) -> None:
    file = table / "per_token.csv"
    content = file.read_bytes()
    lines = content.splitlines()
    wanted = next(i for i, one in enumerate(lines, 1) if old in one) if line == 0 else len(lines)
    file.write_bytes(content.replace(old, new, 1))
    with pytest.raises(ScenarioError, match=message) as refused:
        load_price_table(table)
    assert (refused.value.file, refused.value.path) == (f"{file}:{wanted}", column)
    assert refused.value.allowed


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ScenarioError, match="no such price table"):
        load_price_table(tmp_path / "none")
    assert main(["import", "vidur", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "mlp.csv" in capsys.readouterr().err


def test_vidurs_tables(tmp_path: Path) -> None:
    """Milliseconds, a row per operator and token count, prompts and decodes apart."""
    shape = "n_head,n_kv_head,n_embd,n_expanded_embd,vocab_size,num_tensor_parallel_workers"
    values = "32,8,4096,14336,128256,1"
    mlp = [f"num_tokens,{shape},time_stats.mlp_up_proj.median,time_stats.emb.median,time_stats.add.median"]
    mlp += [f"{m},{values},{0.1 + 0.001 * m},0.003,0.002" for m in (1, 100, 1000)]
    (tmp_path / "mlp.csv").write_text("\n".join(mlp) + "\n")
    columns = "batch_size,prefill_chunk_size,kv_cache_size,num_tensor_parallel_workers"
    stats = ("attn_prefill", "attn_decode", "attn_kv_cache_save")
    attention = [f"{columns}," + ",".join(f"time_stats.{name}.median" for name in stats)]
    attention += [f"1,{chunk},{kv},1,{0.02 + chunk * 1e-4},,0.001" for chunk in (64, 1024) for kv in (0, 512)]
    attention += [f"{n},0,{kv},1,,{0.01 + n * kv * 1e-6},0.001" for n in (1, 32) for kv in (128, 2048)]
    (tmp_path / "attention.csv").write_text("\n".join(attention) + "\n")
    assert main(["import", "vidur", str(tmp_path), str(tmp_path / "out"), "--gpu", "a100"]) == 0
    price = priced(tmp_path / "out")
    linear = LAYERS * (0.1 + 0.032 + 2 * 0.002) + 0.003
    decode = LAYERS * (0.01 + 32 * 2048 * 1e-6 + 0.001)
    assert price.step_ps(32, 32 * 2048, []) * 1e-9 == pytest.approx(linear + decode, rel=0.01)
    assert price.chunk_ps(1024, 0) * 1e-9 == pytest.approx(LAYERS * (0.02 + 0.1024 + 0.001), rel=1e-6)
