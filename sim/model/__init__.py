"""Model shapes and what follows from them: parameters, bytes of KV and of weights, matrices.

A shape comes from a Hugging Face ``config.json`` or from the shipped ones (``sim/_data/models``).
Everything here is per decoder-only language model; sizes "per GPU" are under tensor parallelism.
"""

from __future__ import annotations

from sim.model.bytes import (
    DTYPE_BYTES,
    bits_per_weight,
    kv_bytes_for_request,
    kv_bytes_per_token,
    kv_dtype_bytes,
    served_dtype,
    served_quantization,
    state_bytes_per_request,
    weight_bytes,
)
from sim.model.loading import load_model, model_names
from sim.model.matrices import Matrix, check_tensor_parallel_size, kv_heads_per_gpu, layer_matrices
from sim.model.parameters import num_active_parameters, num_parameters
from sim.model.shape import LayerType, MambaShape, MlaShape, ModelShape, MoeShape
from sim.model.stages import Stage, check_pipeline_parallel_size, stages_of

__all__ = [
    "DTYPE_BYTES",
    "LayerType",
    "MambaShape",
    "Matrix",
    "MlaShape",
    "ModelShape",
    "MoeShape",
    "Stage",
    "bits_per_weight",
    "check_pipeline_parallel_size",
    "check_tensor_parallel_size",
    "kv_bytes_for_request",
    "kv_bytes_per_token",
    "kv_dtype_bytes",
    "kv_heads_per_gpu",
    "layer_matrices",
    "load_model",
    "model_names",
    "num_active_parameters",
    "num_parameters",
    "served_dtype",
    "served_quantization",
    "stages_of",
    "state_bytes_per_request",
    "weight_bytes",
]
