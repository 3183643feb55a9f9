"""What the kernel simulation leaves out: one list, printed in every report."""

from __future__ import annotations

NOT_MODELLED = (
    "Instruction issue, bank conflicts, register spills: the fitted efficiencies hold them.",
    "Thread-block clusters, distributed shared memory, persistent kernels' hidden prologues.",
    "Which lines L2 keeps: shared tiles pass once if they fit, else once per group that runs together.",
    "Clock changes with power and temperature, ECC, other work on the device.",
    "DRAM pages, refresh, reads turning to writes: streaming reaches one measured share of the peak.",
    "Host time between launches beyond a fixed gap; concurrent streams, except host copies in chunks.",
    "Numerical error of low-precision types; the random numbers of dropout inside flash kernels.",
    "Of a training step: the exchange of gradients, data loading, recomputation of activations.",
)
