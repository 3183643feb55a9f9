"""One GPU runs a kernel: thread blocks on SMs, tiles through SRAM, traffic to HBM."""
