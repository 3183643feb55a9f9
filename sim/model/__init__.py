"""Model shapes and what follows from them: parameters, bytes of KV and of weights, matrices.

A shape comes from a Hugging Face ``config.json`` or from the shipped ones (``sim/_data/models``).
Everything here is per decoder-only language model; sizes "per GPU" are under tensor parallelism.
"""
