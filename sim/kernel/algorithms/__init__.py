"""The kernels that can be simulated: attention by one of ``ALGORITHMS``, products, streaming kernels.

An algorithm is a file here and its entry in ``ALGORITHMS``, the only place that names it: what a scenario may
say, its checks, the launches, a training step's attention and the report follow.
"""

from __future__ import annotations

from sim.kernel.algorithms import decode, flash, flash1, standard
from sim.kernel.algorithms.problem import Algorithm

ALGORITHMS: dict[str, Algorithm] = {
    "standard": standard.ALGORITHM,
    "flash_attention_1": flash1.ALGORITHM,
    "flash_attention_2": flash.FLASH_ATTENTION_2,
    "flash_attention_3": flash.FLASH_ATTENTION_3,
    "flash_trtllm": flash.FLASH_TRTLLM,
    "split_kv_decode": decode.SPLIT_KV,
    "paged_decode": decode.PAGED,
}


def training_algorithms() -> list[str]:
    """Those that a training step may take."""
    return [name for name, one in ALGORITHMS.items() if one.in_training_step]
