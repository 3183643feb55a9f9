"""The fitted constants of training step times: four numbers, fitted once, by the mean absolute MFU error over
MosaicML's 61 FSDP runs on A100-80GB (llm-foundry, scripts/train/benchmarking, 8 to 64 GPUs). On runs that no
fit has seen: median error 2.7 % over its 78 runs on A100-40GB (8 to 128 GPUs), Megatron-LM's iteration times
(arXiv 2205.05198, table 5) within 5 %, FlashAttention-2's training table within 11 % (but see
``step_time_layer.EAGER_SCORE_BYTES``). Taken for every device: on others than Ampere nothing was checked.
"""

from __future__ import annotations

from sim.hardware.architecture import Chosen, by_architecture

# Fitted. Rate that GEMMs and attention sustain through a training step over the rate of the same kernel alone
# in a benchmark loop: clocks under the power limit, cold L2, launch gaps.
SUSTAINED_FRACTION = 0.82

# FlashAttention's backward pass has 5 matrix products for the forward's 2 (arXiv 2307.08691, section 4.1) and
# runs them at a lower rate: 63 against 73 % of an A100's peak (abstract and section 4.1). Not fitted.
FLASH_BACKWARD_FLOPS = 2.5
FLASH_BACKWARD_FRACTION = 0.85

# FlashAttention-1 over FlashAttention-2, which is "around 2x" faster (abstract). Not fitted.
FLASH_1_FRACTION = 0.5
# Fitted. The same for its port to Triton, 1.3 to 2.5 times slower than FlashAttention-2 (section 4.1).
FLASH_TRITON_FRACTION = 0.75

# Kernels written before Hopper's asynchronous instructions over FlashAttention-3 there: 35 against 75 % of an
# H100's peak (arXiv 2407.08608, abstract). Not fitted; taken for Blackwell too.
_FLASH_2_ON_HOPPER = 0.35 / 0.75
FLASH_2_FRACTIONS = {
    "Ampere": 1.0,
    "Ada": 1.0,
    "Hopper": _FLASH_2_ON_HOPPER,
    "Blackwell": _FLASH_2_ON_HOPPER,
}

# Fitted. HBM passes of norms, activation functions and the loss where every PyTorch operator is a kernel of
# its own, over those of fused kernels.
EAGER_PASSES = 1.75

# Fitted, weakly: 0 to 0.3 fit alike. SMs and HBM that NCCL's kernels take from computation that runs
# meanwhile: compute is longer by this share of the overlapped exchange.
OVERLAP_SLOWDOWN = 0.2

# Passes of PyTorch's multi-tensor optimizer over what one ideal kernel reads and writes. Assumed.
OPTIMIZER_PASSES = 1.5


def flash_2_fraction(architecture: str) -> Chosen[float]:
    """The share of the profile's curve that FlashAttention-2 reaches; on an unknown device as on Ampere."""
    what = "the share of the peak of attention kernels older than FlashAttention-3"
    return by_architecture(FLASH_2_FRACTIONS, architecture, what, stand_in="Ampere")
