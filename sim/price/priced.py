"""What a price reads of a scenario: a device, a model, and what of an engine costs time or memory.

A serving scenario has all of it; these protocols keep its other sections out of the prices.
"""

from __future__ import annotations

from dataclasses import Field
from typing import Any, ClassVar, Literal, Protocol

from sim.hardware import HardwareProfile
from sim.hardware.engine_profile import EngineOverheads, Runtime
from sim.hardware.vllm_releases import SamplerChoice
from sim.model.counts import DTYPE_BYTES, kv_dtype_bytes, served_dtype
from sim.model.shape import ModelShape, Quantization
from sim.model.weights import served_quantization
from sim.scenario.dataclass import dataclass


class StepEngine(Protocol):
    """The keys of an engine that the price of its steps depends on; what they mean stands beside them."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def async_scheduling(self) -> bool: ...
    @property
    def dtype(self) -> Literal["auto", "bfloat16", "float16", "float32"]: ...
    @property
    def kv_cache_dtype(self) -> Literal["auto", "bfloat16", "float16", "fp8", "float32"]: ...
    @property
    def quantization(self) -> Literal["none", "fp8", "int8", "int4"]: ...
    @property
    def attention(self) -> Literal["flash", "standard"]: ...
    @property
    def tensor_parallel_size(self) -> int: ...
    @property
    def pipeline_parallel_size(self) -> int: ...
    @property
    def gpus_per_replica(self) -> int: ...
    @property
    def overheads(self) -> EngineOverheads: ...


class PricedEngine(StepEngine, Protocol):
    """And those that its memory depends on."""

    @property
    def runtime(self) -> Runtime: ...
    @property
    def vllm_version(self) -> str: ...
    @property
    def sampler(self) -> SamplerChoice: ...
    @property
    def enable_prefix_caching(self) -> bool: ...
    @property
    def kv_cache_memory_bytes(self) -> int | None: ...
    @property
    def mem_fraction_static(self) -> float | None: ...
    @property
    def free_gpu_memory_fraction(self) -> float | None: ...
    @property
    def needs_room_for_longest(self) -> bool: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def max_num_batched_tokens(self) -> int: ...
    @property
    def max_model_len(self) -> int | None: ...
    @property
    def block_size(self) -> int: ...
    @property
    def gpu_memory_utilization(self) -> float: ...
    @property
    def num_gpu_blocks_override(self) -> int | None: ...
    @property
    def price_table(self) -> str | None: ...


class PricedSteps(Protocol):
    """A model on a device under those settings of an engine that its steps depend on."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def hardware(self) -> HardwareProfile: ...
    @property
    def model(self) -> ModelShape: ...
    @property
    def engine(self) -> StepEngine: ...


class Priced(PricedSteps, Protocol):
    """And under all settings that its memory depends on."""

    @property
    def engine(self) -> PricedEngine: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Types of activations, weights and KV, and the peaks that they run at."""

    dtype: str
    quantization: Quantization
    activation_bytes: int
    kv_bytes: int
    of_checkpoint: bool = False  # each matrix is held as the checkpoint has it


def precision_of(model: ModelShape, engine: StepEngine) -> Precision:
    """What ``dtype``, ``kv_cache_dtype`` and ``quantization`` come to for this model."""
    dtype = served_dtype(model, engine.dtype)
    return Precision(
        dtype=dtype,
        quantization=served_quantization(model, engine.quantization),
        activation_bytes=DTYPE_BYTES[dtype],
        kv_bytes=kv_dtype_bytes(model, engine.kv_cache_dtype, engine.dtype),
        of_checkpoint=engine.quantization == "none",
    )
