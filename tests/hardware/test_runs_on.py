"""A kernel that was never built for a device is refused, with what there is in its place."""

from __future__ import annotations

from typing import Any

import pytest

from sim.errors import ScenarioError
from sim.hardware import hardware_names, load_hardware
from sim.hardware.architecture import ATTENTION_KERNELS, runs_on
from sim.kernel.algorithms import ALGORITHMS
from sim.kinds.load import load_tree
from sim.price.kernel_set import ATTENTION_BY_WORD

HOPPER, BLACKWELL = "h100-sxm-80gb h200-sxm-141gb", "b200-sxm-180gb gb200"
EVERYWHERE = f"a100-sxm-80gb {HOPPER} l40s t4 v100-sxm2-16gb {BLACKWELL} rtx-pro-6000 mi300x mi250x"
EXISTS = {
    "flash_attention_1": f"a100-sxm-80gb {HOPPER} l40s t4 mi300x mi250x",
    "flash_attention_2": f"a100-sxm-80gb {HOPPER} l40s {BLACKWELL} rtx-pro-6000 mi300x mi250x",
    "split_kv_decode": f"a100-sxm-80gb {HOPPER} l40s {BLACKWELL} rtx-pro-6000 mi300x mi250x",
    "flash_attention_3": HOPPER,
    "flash_trtllm": BLACKWELL,
    "standard": EVERYWHERE,
    "paged_decode": EVERYWHERE,
}


def kernel(algorithm: str, hardware: Any) -> dict[str, Any]:
    decodes = {"seqlen": 1, "seqlen_kv": 256} if "decode" in algorithm else {"seqlen": 256}
    attention = {"algorithm": algorithm, "num_heads": 8, "batch": 1, "head_dim": 64, "dtype": "float16"}
    head = {"schema_version": 1, "question": "?", "kind": "kernel", "hardware": hardware}
    return {**head, "kernel": {"attention": {**attention, **decodes}}}


@pytest.mark.parametrize("algorithm", EXISTS)
@pytest.mark.parametrize("hardware", EVERYWHERE.split())
def test_a_kernel_runs_where_it_was_built_and_nowhere_else(algorithm: str, hardware: str) -> None:
    if hardware in EXISTS[algorithm].split():
        load_tree(kernel(algorithm, hardware), "test.yaml")
        return
    with pytest.raises(ScenarioError, match=f"does not exist for {hardware}") as refused:
        load_tree(kernel(algorithm, hardware), "test.yaml")
    named = refused.value.allowed.split(", ")
    assert refused.value.path == "kernel.attention.algorithm"
    assert algorithm not in named and "standard" in named
    for name in named:  # what is offered in its place is not refused
        load_tree(kernel(name, hardware), "test.yaml")


@pytest.mark.parametrize(
    ("attention", "hardware", "is_there"),
    [
        ("flash_2", "t4", False),
        ("flash_2", "v100-sxm2-32gb", False),
        ("flash_1", "t4", True),
        ("flash_1", "v100-sxm2-32gb", False),
        ("flash", "v100-sxm2-32gb", True),
        ("flash_triton", "v100-sxm2-32gb", False),
        ("flash_2", "mi300x", True),
        ("standard", "t4", True),
    ],
)
def test_training_refuses_it_too(attention: str, hardware: str, is_there: bool) -> None:
    job = {
        "num_workers": 1,
        "num_steps": 1,
        "max_seq_len": 256,
        "precision": "amp_fp16",
        "attention": attention,
    }
    tree = {
        "schema_version": 1, "question": "?", "kind": "training", "hardware": hardware, "model": "gpt2",
        "training": job,
    }  # fmt: skip
    if is_there:
        load_tree(tree, "test.yaml")
        return
    with pytest.raises(ScenarioError, match=f"does not exist for {hardware}") as refused:
        load_tree(tree, "test.yaml")
    assert refused.value.path == "training.attention"
    assert "flash" in refused.value.allowed.split(", ") and attention not in refused.value.allowed.split(", ")


def test_a_group_of_workers_on_another_device_is_looked_at() -> None:
    job = {
        "num_workers": 4,
        "num_steps": 1,
        "max_seq_len": 256,
        "precision": "amp_fp16",
        "attention": "flash_2",
    }
    groups = [
        {"hardware": "v100-sxm2-32gb", "num_workers": 1},
        {"hardware": "a100-sxm-40gb", "num_workers": 1},
    ]
    tree = {
        "schema_version": 1, "question": "?", "kind": "training", "hardware": "a100-sxm-80gb",
        "model": "gpt2", "training": job, "devices": groups,
    }  # fmt: skip
    with pytest.raises(ScenarioError, match="does not exist for v100"):
        load_tree(tree, "test.yaml")


def test_the_table_names_what_scenarios_may_say_and_every_source() -> None:
    assert set(ATTENTION_KERNELS) <= {*ALGORITHMS, *(one.kernel for one in ATTENTION_BY_WORD.values())}
    assert {word for word, one in ATTENTION_BY_WORD.items() if not one.kernel} == {"flash", "standard"}
    architectures = {load_hardware(name).architecture for name in hardware_names()}
    for one in ATTENTION_KERNELS.values():
        assert one.source and set(one.architectures) <= architectures


def test_a_new_architecture_is_not_refused() -> None:
    novel = {"base": "h100-sxm-80gb", "architecture": "Novel", "compute_capability": "77.7"}
    load_tree(kernel("flash_attention_3", novel), "test.yaml")
    assert all(runs_on(name, load_hardware(novel)) for name in ATTENTION_KERNELS)
