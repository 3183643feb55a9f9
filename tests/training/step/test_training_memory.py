"""Training memory: the papers' arithmetic, laws, and the error of what does not fit."""

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
from sim.training.step.memory import (
    FRAGMENTATION_FRACTION,
    check_fits,
    kept_layer_bytes,
    layer_activations,
    micro_batches_in_flight,
    model_states,
    recomputed_layer_bytes,
    render_training_memory,
    selective_saving,
    training_memory,
)
from sim.training.step.shape import (
    NF4_BITS_PER_WEIGHT,
    PRECISIONS,
    Adapter,
    Parallelism,
    StepShape,
    adapter_parameters,
    check_shape,
    fake_quantise_bytes,
    frozen_weight_bytes,
    precision_of,
    unscale_bytes,
)

LLAMA = load_model("llama-3.1-8b")
SMALL = StepShape(model=LLAMA, hardware=A100, max_seq_len=2048, micro_batch_size=1)


def megatron_layer(hidden: int, heads: int, **changes: object) -> StepShape:
    """One micro-batch of 2,048 tokens with standard attention and dropout, as Korthikanti counts."""
    shape = StepShape(
        model=gpt(hidden, 4, heads),
        hardware=A100,
        max_seq_len=2048,
        micro_batch_size=1,
        attention="standard",
        dropout=True,
        fused_kernels=True,
    )
    return replace(shape, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("hidden", "heads", "saved"), [(12288, 96, 0.702), (20480, 128, 0.653)])
def test_selective_recomputation_saves_what_the_paper_states(hidden: int, heads: int, saved: float) -> None:
    """GPT-3: 80 of 114 per s b h; MT-NLG 530B: 64 of 98 (arXiv 2205.05198, section 5)."""
    shape = megatron_layer(hidden, heads)
    per_sbh = 5 * heads * 2048 / hidden
    assert layer_activations(shape).total_bytes == pytest.approx(2048 * hidden * (34 + per_sbh))
    assert selective_saving(shape) == pytest.approx(per_sbh / (34 + per_sbh))
    assert round(selective_saving(shape), 3) == saved


@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 8), st.sampled_from([512, 2048, 8192]), st.booleans())
def test_tensor_parallel_activations_are_the_papers_formula(t: int, b: int, s: int, sequence: bool) -> None:
    """s b h (10 + 24/t + 5 a s / (h t)), and all of it over t under sequence parallelism."""
    h, a = 4096, 32
    split = Parallelism(tensor_parallel_size=t, sequence_parallel=sequence and t > 1)
    shape = megatron_layer(h, a, max_seq_len=s, micro_batch_size=b, parallelism=split)
    whole = s * b * h * (10 + 24 / t + 5 * a * s / (h * t))
    if split.sequence_parallel:
        whole = s * b * h * (34 + 5 * a * s / h) / t
    assert layer_activations(shape).total_bytes == pytest.approx(whole)


def test_flash_attention_keeps_no_scores() -> None:
    shape = megatron_layer(12288, 96, attention="flash")
    statistics = 4 * 96 * 2048
    assert layer_activations(shape).total_bytes == pytest.approx(34 * 2048 * 12288 + statistics)


def test_checkpointing_orders_memory() -> None:
    shape = megatron_layer(4096, 32)
    kinds = ("none", "selective", "full")
    kept = [kept_layer_bytes(replace(shape, activation_checkpointing=kind)) for kind in kinds]  # type: ignore[arg-type]
    assert kept[0] > kept[1] > kept[2] == 2 * 2048 * 4096
    assert kept[1] == 34 * 2048 * 4096
    every = replace(shape, activation_checkpointing="every_k", checkpoint_every=4)
    assert kept_layer_bytes(every) == kept[2] / 4


@pytest.mark.parametrize(
    ("name", "num_bytes"),
    [("fp32", 16), ("tf32", 16), ("bf16_mixed", 16), ("fp16_mixed", 16), ("amp_bf16", 18), ("amp_fp16", 18)],
)
def test_bytes_per_parameter_of_adam(name: str, num_bytes: float) -> None:
    """16 after ZeRO (arXiv 1910.02054), 18 with float32 gradients and both types of weights."""
    assert PRECISIONS[name].bytes_per_parameter("adamw") == num_bytes


@given(st.integers(1, 1024))
def test_zero_stages_are_the_papers_formulas(n: int) -> None:
    """K = 12: 16Ψ, 4Ψ + KΨ/N, 2Ψ + (2 + K)Ψ/N, (4 + K)Ψ/N (arXiv 1910.02054, figure 1)."""
    psi = num_parameters(LLAMA)
    expected = [16 * psi, 4 * psi + 12 * psi / n, 2 * psi + 14 * psi / n, 16 * psi / n]
    for stage, num_bytes in enumerate(expected):
        split = Parallelism(data_parallel_size=n, zero_stage=stage)  # type: ignore[arg-type]
        shape = StepShape(model=LLAMA, hardware=A100, max_seq_len=2048, micro_batch_size=1, parallelism=split)
        assert model_states(shape).total_bytes == pytest.approx(num_bytes)


def test_zero_on_7_5_billion_parameters_over_64_gpus() -> None:
    """The worked example of ZeRO's figure 1: 120, 31.4, 16.6 and 1.9 GB."""
    shape = StepShape(model=LLAMA, hardware=A100, max_seq_len=2048, micro_batch_size=1)
    scale = 7.5e9 / num_parameters(LLAMA)
    for stage, gigabytes in enumerate((120, 31.4, 16.6, 1.9)):
        split = Parallelism(data_parallel_size=64, zero_stage=stage)  # type: ignore[arg-type]
        states = model_states(replace(shape, parallelism=split))
        assert states.total_bytes * scale / 1e9 == pytest.approx(gigabytes, abs=0.05)


def test_pipeline_stages_hold_their_micro_batches() -> None:
    shape = megatron_layer(4096, 32, gradient_accumulation_steps=64)
    four = replace(shape, parallelism=Parallelism(pipeline_parallel_size=4))
    interleaved = replace(shape, parallelism=Parallelism(pipeline_parallel_size=4, virtual_pipeline_size=1))
    assert micro_batches_in_flight(shape) == 1
    assert micro_batches_in_flight(four) == 4 == micro_batches_in_flight(interleaved)
    assert micro_batches_in_flight(replace(four, gradient_accumulation_steps=2)) == 2
    split = Parallelism(pipeline_parallel_size=8, virtual_pipeline_size=3)
    assert micro_batches_in_flight(replace(shape, parallelism=split)) == pytest.approx(8 * (1 + 7 / 24))


def test_lora_parameters_are_pefts() -> None:
    """PEFT prints 39,976,960 trainable parameters for Llama-7B with r = 16 on all seven linear layers."""
    model = load_model("llama-2-7b")
    assert adapter_parameters(model, Adapter(r=16)) == 39_976_960
    assert adapter_parameters(model, Adapter(r=8, targets="attention")) == 8 * 4 * 2 * 4096 * 32


def test_qlora_holds_weights_in_four_bits() -> None:
    """4 bits and 0.127 of scales (arXiv 2305.14314, section 3); embeddings and lm_head stay in 16 bits."""
    assert round(NF4_BITS_PER_WEIGHT, 3) == 4.127
    model = load_model("llama-2-7b")
    linear = num_parameters(model) - 2 * 32000 * 4096 - (2 * 32 + 1) * 4096
    rest = num_parameters(model) - linear
    expected = linear * NF4_BITS_PER_WEIGHT / 8 + rest * 2
    assert frozen_weight_bytes(model, Adapter(is_quantized=True)) == pytest.approx(expected)


def test_qlora_fits_65b_in_48_gigabytes() -> None:
    """A 65B model on one 48 GB GPU (arXiv 2305.14314, abstract); its r = 64 needs the paged optimizer."""
    sizes = {"hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 64}
    model = load_model({"base": "llama-2-7b", **sizes, **heads})
    shape = StepShape(
        model=model,
        hardware=load_hardware({"base": "a100-sxm-80gb", "hbm_bytes": "48 GB"}),
        max_seq_len=512,
        micro_batch_size=1,
        activation_checkpointing="full",
        adapter=Adapter(r=16, is_quantized=True),
    )
    assert num_parameters(model) == pytest.approx(65.2e9, rel=0.01)
    assert training_memory(shape).fits
    assert not training_memory(replace(shape, adapter=Adapter(r=16))).fits
    assert not training_memory(replace(shape, adapter=None)).fits


def test_lines_add_up_and_fragmentation_is_a_share() -> None:
    shape = StepShape(
        model=LLAMA,
        hardware=A100,
        max_seq_len=4096,
        micro_batch_size=1,
        parallelism=Parallelism(data_parallel_size=8, zero_stage=3),
    )
    memory = training_memory(shape)
    assert memory.peak_memory_bytes == sum(line.num_bytes for line in memory.lines)
    before = sum(line.num_bytes for line in memory.lines[:-2])
    assert memory.lines[-2].num_bytes == int(before * FRAGMENTATION_FRACTION)
    assert memory.room_bytes == memory.hbm_bytes - memory.peak_memory_bytes
    assert memory.to_dict()["fits"] == memory.fits


def test_the_account_reads_line_by_line() -> None:
    text = render_training_memory(training_memory(replace(SMALL, micro_batch_size=4)))
    assert "weights" in text
    assert "8,030,261,248 parameters x 2 B" in text
    assert text.splitlines()[-1].startswith("missing")


def test_checkpointing_every_k_layers_is_best_near_the_square_root() -> None:
    """Kept inputs L/k and k layers brought back: least at k = sqrt(L input / layer) (arXiv 1604.06174)."""
    shape = replace(SMALL, activation_checkpointing="every_k", max_seq_len=8192)
    held = {}
    for k in range(1, 33):
        every = replace(shape, checkpoint_every=k)
        held[k] = kept_layer_bytes(every) * 32 + recomputed_layer_bytes(every)
    whole = layer_activations(shape).total_bytes
    best = (32 * kept_layer_bytes(replace(shape, checkpoint_every=1)) / whole) ** 0.5
    assert min(held, key=held.__getitem__) in (int(best), int(best) + 1)


def test_what_does_not_fit_is_said_with_numbers_and_ways_out() -> None:
    shape = StepShape(
        model=LLAMA,
        hardware=A100,
        max_seq_len=4096,
        micro_batch_size=1,
        parallelism=Parallelism(data_parallel_size=8),
    )
    with pytest.raises(ScenarioError) as error:
        check_fits(shape, file="job.yaml")
    message = str(error.value)
    assert message.startswith("job.yaml: training: llama-3.1-8b does not fit: ")
    assert "85.0 GB are there" in message
    assert "optimizer states 96.4 GB" in message
    assert "try: zero_stage: 1 (72.1 GB), or zero_stage: 2 (" in message
    assert check_fits(replace(shape, parallelism=Parallelism(data_parallel_size=8, zero_stage=1))).fits


def test_ways_out_do_what_they_promise() -> None:
    """Every offered change, applied, fits."""
    from sim.training.step.memory import ways_out

    shape = StepShape(
        model=LLAMA,
        hardware=A100,
        max_seq_len=8192,
        micro_batch_size=8,
        parallelism=Parallelism(data_parallel_size=16, zero_stage=3),
    )
    assert not training_memory(shape).fits
    offered = ways_out(shape)
    assert any(way.startswith("micro_batch_size: ") for way in offered)
    for way in offered:
        name, value = way.split(" (")[0].split(": ")
        parsed = int(value) if value.isdigit() else value
        target = (
            replace(shape, parallelism=replace(shape.parallelism, **{name: parsed}))
            if name in ("zero_stage", "tensor_parallel_size")
            else replace(shape, **{name: parsed})  # type: ignore[arg-type]
        )
        assert training_memory(target).fits, way


def test_a_model_that_fits_nowhere_still_has_a_hint() -> None:
    shape = StepShape(model=load_model("llama-3.1-405b"), hardware=A100, max_seq_len=2048, micro_batch_size=1)
    with pytest.raises(ScenarioError, match=r"a smaller model, or hardware with more hbm_bytes"):
        check_fits(shape)


def test_loss_scaling_and_fake_quantise_are_passes_over_memory() -> None:
    assert unscale_bytes(precision_of("fp16_mixed"), 1000) == 2 * 2 * 1000
    assert unscale_bytes(precision_of("bf16_mixed"), 1000) == 0
    assert fake_quantise_bytes(1000, 2) == (1000 * 5, 1000 * 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch_size": 0}, "micro_batch_size: must be at least 1"),
        ({"parallelism": Parallelism(data_parallel_size=0)}, "num_workers: must be at least 1"),
        ({"parallelism": Parallelism(tensor_parallel_size=3)}, "cannot be split over 3 GPUs"),
        ({"parallelism": Parallelism(pipeline_parallel_size=64)}, "fewer than the pipeline's stages"),
        ({"parallelism": Parallelism(sequence_parallel=True)}, "there is none"),
        ({"model": load_model("deepseek-v3")}, "is not modelled"),
        ({"precision_name": "bf61"}, "unknown precision"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, object], message: str) -> None:
    shape = StepShape(model=LLAMA, hardware=A100, max_seq_len=2048, micro_batch_size=1)
    with pytest.raises(ScenarioError, match=message):
        changed = replace(shape, **changes)  # type: ignore[arg-type]
        check_shape(changed)
        training_memory(changed)
