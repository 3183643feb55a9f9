"""The kernels that can be simulated: attention algorithms, products and streaming kernels."""
