"""How fast Gpuyard simulates: ``python -m benchmarks.speed``."""
