"""Laws of a training step's price."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.step.published import A100, gpt

from sim.errors import ScenarioError
from sim.hardware import load_hardware
from sim.model.config import load_model
from sim.model.counts import num_parameters
from sim.training.step.layer import layer_times
from sim.training.step.shape import (
    PRECISIONS,
    Adapter,
    Parallelism,
    StepShape,
    adapter_parameters,
    useful_step_fraction,
)
from sim.training.step.time import (
    bubble_fraction,
    hardware_flops_per_token,
    model_flops_per_token,
    step_times,
    worker_step,
)

LLAMA = load_model("llama-3.1-8b")
SHAPE = StepShape(model=LLAMA, hardware=A100, max_seq_len=2048, micro_batch_size=1, fused_kernels=True)


def seconds(**changes: object) -> float:
    """Of one step, with these changes."""
    return step_times(replace(SHAPE, **changes)).step_s  # type: ignore[arg-type]


@given(
    st.sampled_from([1, 2, 8, 64]),
    st.sampled_from([0, 1, 2, 3]),
    st.integers(1, 4),
    st.sampled_from(["none", "selective", "full"]),
)
def test_the_parts_add_up(workers: int, stage: int, accumulated: int, kind: str) -> None:
    split = Parallelism(data_parallel_size=workers, zero_stage=stage)  # type: ignore[arg-type]
    shape = replace(
        SHAPE,
        parallelism=split,
        gradient_accumulation_steps=accumulated,
        activation_checkpointing=kind,  # type: ignore[arg-type]
    )
    times = step_times(shape)
    parts = (
        times.compute_s + times.bubble_s + times.pipeline_send_s + times.exposed_comm_s + times.optimizer_s
    )
    assert times.step_s == pytest.approx(parts)
    assert times.exposed_comm_s <= times.comm_s * 1.2 + 1e-12
    assert 0 < times.mfu <= times.hfu < 1
    assert times.tokens_per_s == pytest.approx(shape.global_batch_tokens / times.step_s)


def test_flops_of_gpt3_a_token() -> None:
    """6 P + 12 L h s (arXiv 2204.02311): GPT-3 at 2,048 tokens."""
    shape = replace(SHAPE, model=gpt(12288, 96, 96))
    parameters = num_parameters(shape.model)
    assert model_flops_per_token(shape) == 6 * parameters + 12 * 96 * 12288 * 2048
    full = replace(shape, activation_checkpointing="full")
    assert hardware_flops_per_token(full) == pytest.approx(4 / 3 * model_flops_per_token(shape))
    selective = replace(shape, activation_checkpointing="selective")
    assert hardware_flops_per_token(selective) - model_flops_per_token(shape) == 4 * 96 * 12288 * 2048


def test_full_recomputation_is_another_forward_pass() -> None:
    plain = layer_times(SHAPE)
    full = layer_times(replace(SHAPE, activation_checkpointing="full"))
    assert full.backward_s == pytest.approx(plain.backward_s + plain.forward_s)
    assert full.forward_s == plain.forward_s


def test_a_bubble_of_1f1b() -> None:
    """(p - 1)/(m + p - 1) of the time, an interleaved one over v (arXiv 2104.04473)."""
    split = Parallelism(pipeline_parallel_size=4)
    shape = replace(SHAPE, parallelism=split, gradient_accumulation_steps=12)
    times = step_times(shape)
    assert times.bubble_s / (times.bubble_s + times.compute_s) == pytest.approx(3 / 15)
    interleaved = replace(shape, parallelism=replace(split, virtual_pipeline_size=2))
    assert bubble_fraction(interleaved) == bubble_fraction(shape) / 2


def test_more_of_anything_takes_longer() -> None:
    base = seconds()
    assert seconds(micro_batch_size=2) > base
    assert seconds(gradient_accumulation_steps=2) > base
    assert seconds(max_seq_len=4096) > base
    assert seconds(activation_checkpointing="full") > base
    assert seconds(attention="flash_1") > seconds(attention="flash_triton") > base
    assert seconds(fused_kernels=False) > base
    assert seconds(fake_quantise=True) > base


def test_scores_in_hbm_cost_more_than_tiles() -> None:
    kinds = ("standard", "flash_1", "flash")
    times = [seconds(max_seq_len=8192, attention=kind) for kind in kinds]
    assert times == sorted(times, reverse=True)
    eager = seconds(max_seq_len=8192, attention="standard", fused_kernels=False)
    assert eager > times[0]


def test_kernels_before_flash_attention_3_are_slower_on_hopper_only() -> None:
    """35 against 75 % of an H100's peak (arXiv 2407.08608); on an A100 FlashAttention-2 is the profile's."""
    a100, h100 = replace(SHAPE, max_seq_len=8192), replace(SHAPE, hardware=load_hardware("h100-sxm-80gb"))
    second = {"attention": "flash_2"}
    assert layer_times(replace(a100, **second)) == layer_times(a100)  # type: ignore[arg-type]
    ratio = layer_times(h100).forward.attention_s / layer_times(replace(h100, **second)).forward.attention_s  # type: ignore[arg-type]
    assert ratio == pytest.approx(35 / 75)


def test_precisions_in_order() -> None:
    """On an H100: fp8 beats bf16 for large layers, tf32 and fp32 are slower; loss scaling costs a little."""
    h100 = load_hardware("h100-sxm-80gb")
    names = ("fp8", "bf16_mixed", "fp16_mixed", "tf32", "fp32")
    shape = replace(SHAPE, hardware=h100, micro_batch_size=4)
    times = [step_times(replace(shape, precision_name=name)).step_s for name in names]
    assert times == sorted(times)
    assert times[0] > times[1] / 2
    assert useful_step_fraction(PRECISIONS["fp16_mixed"]) < 1 == useful_step_fraction(PRECISIONS["fp8"])


def test_a_device_without_fp8_says_so() -> None:
    with pytest.raises(ScenarioError, match="has no float8 rate"):
        seconds(precision_name="fp8")


def test_adapters_spare_weight_gradients_and_exchange() -> None:
    split = Parallelism(data_parallel_size=8)
    whole = step_times(replace(SHAPE, parallelism=split))
    lora = step_times(replace(SHAPE, parallelism=split, adapter=Adapter(r=16)))
    qlora = step_times(replace(SHAPE, parallelism=split, adapter=Adapter(r=16, is_quantized=True)))
    assert lora.layer.backward.gemm_s == pytest.approx(whole.layer.backward.gemm_s / 2, rel=0.15)
    assert lora.comm_s < 0.05 * whole.comm_s
    assert lora.optimizer_s < 0.05 * whole.optimizer_s
    assert lora.step_s < qlora.step_s


def test_frozen_weights_need_no_gradient_of_their_own() -> None:
    """LoRA: 2 P forward, 2 P back to the activations, 6 for an adapter parameter; attention as ever."""
    adapter = Adapter(r=16)
    shape, whole = replace(SHAPE, adapter=adapter), replace(SHAPE, adapter=None)
    saved = model_flops_per_token(whole) - model_flops_per_token(shape)
    assert saved == 2 * num_parameters(SHAPE.model) - 6 * adapter_parameters(SHAPE.model, adapter)
    again = replace(shape, activation_checkpointing="full")
    assert model_flops_per_token(again) < hardware_flops_per_token(again) < model_flops_per_token(shape) * 1.6


def test_tensor_parallelism_splits_work_and_adds_all_reduces() -> None:
    shape = replace(SHAPE, micro_batch_size=8)  # tiles for every SM, with an eighth of the heads, too
    one, eight = (
        layer_times(shape),
        layer_times(replace(shape, parallelism=Parallelism(tensor_parallel_size=8))),
    )
    assert one.forward.tensor_parallel_s == 0 < eight.forward.tensor_parallel_s
    assert one.forward.gemm_s / 8 < eight.forward.gemm_s < one.forward.gemm_s
    assert eight.forward.attention_s < one.forward.attention_s / 4


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_exchange_grows_and_hides(stage: int) -> None:
    """With a larger micro-batch the same exchange hides behind more computation."""
    split = Parallelism(data_parallel_size=64, zero_stage=stage)  # type: ignore[arg-type]
    small = step_times(replace(SHAPE, parallelism=split))
    large = step_times(replace(SHAPE, parallelism=split, micro_batch_size=8))
    assert large.comm_s == pytest.approx(small.comm_s)
    assert large.exposed_comm_s <= small.exposed_comm_s


def test_sharding_exchanges_half_as_much_again() -> None:
    """ZeRO: 2Ψ for stages 0 to 2, 3Ψ for stage 3 (arXiv 1910.02054, section 7), in bytes that take long."""
    comm = []
    for stage in (0, 2, 3):
        split = Parallelism(data_parallel_size=64, zero_stage=stage)  # type: ignore[arg-type]
        comm.append(step_times(replace(SHAPE, parallelism=split)).comm_s)
    assert comm[1] == pytest.approx(comm[0], rel=0.1)
    assert comm[2] == pytest.approx(1.5 * comm[0], rel=0.1)


@given(st.booleans(), st.sampled_from([1, 2, 4]), st.integers(1, 4))
def test_a_workers_parts_are_the_steps(tied: bool, stages: int, accumulated: int) -> None:
    model = gpt(2048, 24, 16) if tied else LLAMA
    split = Parallelism(pipeline_parallel_size=stages, data_parallel_size=8)
    shape = replace(SHAPE, model=model, parallelism=split, gradient_accumulation_steps=accumulated)
    worker, times = worker_step(shape), step_times(shape)
    assert worker.total_gradient_bytes == pytest.approx(2 * num_parameters(model) / stages, abs=2)
    whole = times.compute_s + times.bubble_s + times.pipeline_send_s
    assert worker.compute_s == pytest.approx(whole)
    assert worker.optimizer_s == times.optimizer_s
    assert len(worker.forward_s) == len(worker.backward_s) == len(worker.gradient_bytes)
    assert (worker.gradient_bytes[-1] == 0) == tied
