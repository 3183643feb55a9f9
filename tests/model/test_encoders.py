"""Vision encoders of multimodal configs: counted as transformers counts them, or said not to be counted."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sim.cli.command import main
from sim.hardware import load_hardware
from sim.model.config import load_model
from sim.model.counts import num_parameters
from sim.model.encoders import encoder_of
from sim.price.memory import memory_plan
from sim.serving.scenario import EngineConfig

TEXT = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_encoders_have_the_parameters_that_transformers_counts(shared: Path) -> None:
    """What ``parameters.csv`` left out of the text part, to the last one."""
    with (shared / "models" / "parameters.csv").open() as table:
        rows = {row["name"]: row["note"] for row in csv.DictReader(table)}
    counted, unsaid = 0, []
    for name, note in rows.items():
        left_out = re.search(r"vision parts left out: (\d+)", note)
        shape = load_model(str(shared / "models" / "configs" / f"{name}.json"))
        if left_out is None:
            assert (shape.encoder_parameters, shape.uncounted) == (0, ""), name
        elif shape.encoder_parameters:
            assert shape.encoder_parameters == int(left_out[1]), name
            counted += 1
        else:
            unsaid.append(name)
    assert counted == 12
    # Their files have no vision_config: transformers filled in the sizes of its class.
    assert unsaid == [
        "meta-llama--Llama-4-Maverick-17B-128E-Instruct",
        "meta-llama--Llama-4-Scout-17B-16E-Instruct",
    ]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # "Total parameters" of the checkpoints on Hugging Face.
        ("gemma-3-4b", 4_300_079_472),
        ("gemma-3-12b", 12_187_325_040),
        ("gemma-3-27b", 27_432_406_640),
        ("llama-4-scout", 108_641_793_536),
        ("llama-4-maverick", 401_583_781_376),
        ("mistral-small-3.2-24b", 24_011_361_280),
    ],
)
def test_shipped_shapes_have_their_encoder(name: str, published: int) -> None:
    shape = load_model(name)
    assert num_parameters(shape) + shape.encoder_parameters == published
    assert shape.notes == ()


@pytest.mark.parametrize(
    ("kind", "vision", "published"),
    [
        # Checkpoints' totals less Qwen2.5-7B's and Qwen2-7B's 7,615,616,512.
        ("qwen2_5_vl", {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584,
                        "patch_size": 14, "spatial_merge_size": 2}, 8_292_166_656),
        ("qwen2_vl", {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "hidden_size": 3584, "patch_size": 14,
                      "spatial_merge_size": 2}, 8_291_375_616),
    ],
)  # fmt: skip
def test_older_qwen_encoders(kind: str, vision: dict[str, Any], published: int) -> None:
    found = encoder_of({"model_type": kind, "vision_config": vision, "hidden_size": 3584}, 3584)
    assert found.num_parameters == published - 7_615_616_512 and not found.uncounted


@pytest.mark.parametrize(
    ("outer", "words"),
    [
        (
            {"vision_config": {"model_type": "vit", "hidden_size": 1152, "num_hidden_layers": 27}},
            "vit",
        ),
        ({"model_type": "qwen3_vl", "vision_config": {"depth": "27"}}, "vision_config"),
        ({"audio_config": {"d_model": 1280, "encoder_layers": 32}}, "audio_config, about 0.63 billion"),
        ({"architectures": ["NewForConditionalGeneration"]}, "NewForConditionalGeneration"),
    ],
)
def test_what_is_not_counted_is_said_beside_the_answer(
    outer: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "new", **outer, "text_config": TEXT}))
    shape = load_model(str(config))
    assert words in shape.uncounted and any(note.startswith("not counted: ") for note in shape.notes)
    given = ["memory", "--model", str(config), "--hardware", "l4"]
    assert main([*given, "--out", str(tmp_path)]) == 0
    assert "not counted: " in capsys.readouterr().out
    assert "not counted: " in (tmp_path / "memory.json").read_text()
    assert "not counted" in (tmp_path / "memory.html").read_text()
    assert main(["check", str(config)]) == 0
    assert "not counted" in capsys.readouterr().err


def test_the_encoder_of_a_nested_part_is_found() -> None:
    thinker = {"text_config": TEXT, "vision_config": {"depth": 27, "hidden_size": 1152}}
    shape = load_model({"model_type": "omni", "thinker_config": thinker})
    assert "vision_config" in shape.uncounted


def test_tensor_parallelism_splits_it_and_the_first_stage_has_it() -> None:
    """Scout on four H100 under 0.19: 53.14 GiB of weights a GPU were logged, 50.19 of them text."""
    h100, model = load_hardware("h100-sxm-80gb"), load_model("llama-4-scout")
    engine = EngineConfig(tensor_parallel_size=4, max_model_len=8192, vllm_version="0.19.0").on(h100)
    weights = next(line for line in memory_plan(model, h100, engine).lines if line.label == "weights")
    assert -weights.num_bytes / 2**30 == pytest.approx(53.14, rel=0.005)
    assert "871,932,416 of the vision encoder x 2 B / 4 GPUs" in weights.formula
    notes = memory_plan(model, h100, engine).notes
    assert any("vision encoder" in note and "not in the activation peak" in note for note in notes)
