"""Batching policies, and ``BATCHING``, which names every way to batch."""
