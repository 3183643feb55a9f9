"""A minimal real engine: forward passes of a random-weight Llama with the Triton kernels."""
