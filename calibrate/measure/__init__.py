"""Measures kernels, copies and launches on the GPU at hand: ``python -m calibrate measure``."""
