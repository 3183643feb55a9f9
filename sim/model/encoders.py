"""The encoder beside the language model of a multimodal config: its parameters, or that they are not counted.

Counted are vision transformers whose every matrix follows from the config, projector included: Gemma-3's
SigLIP, Qwen's 2-VL, 2.5-VL and 3-VL, Llama-4's, Mistral-3's Pixtral; held against what transformers counts
on the meta device, and against the checkpoints' published totals. Of another encoder only the matrices of its
layers are estimated, for the note that says that it is not counted.

Not modelled: its run (its activations, its outputs in the encoder's cache, its CUDA graphs), audio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sim.scenario.dataclass import dataclass

_OTHER_PARTS = ("quantization_config", "rope_scaling", "rope_parameters", "auto_map", "generation_config")
_HIDDEN = ("hidden_size", "embed_dim", "width", "d_model")
_LAYERS = ("num_hidden_layers", "depth", "n_layers", "layers", "encoder_layers", "num_layers")
_MOST = 1_000_000


NOT_COUNTED = "not counted: {}; neither its weights nor its run are in the memory account"
RUN_NOT_COUNTED = (
    "the vision encoder's weights are counted; its run is not in the activation peak, nor its cache"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """What stands beside the language model. ``uncounted``: what is in no number; empty where all is."""

    num_parameters: int = 0
    uncounted: str = ""


class _Sizes:
    """Whole numbers of a config by their keys, 0 where one is missing or odd: then nothing is counted."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self.keys, self.is_complete = keys, True

    def of(self, *names: str, default: int = 0) -> int:
        value = next((self.keys[name] for name in names if self.keys.get(name) is not None), default)
        is_size = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST
        self.is_complete &= is_size
        return value if is_size else 1


def encoder_of(keys: Mapping[str, Any], hidden_size: int) -> Encoder:
    """Of a whole config; ``hidden_size`` is the language model's, into which the projector writes."""
    parts = {name: part for name, part in keys.items() if _is_encoder(name, part)}
    counted, told = 0, []
    for name, part in parts.items():
        count = _COUNTED.get(str(keys.get("model_type"))) if name == "vision_config" else None
        sizes = _Sizes(part)
        found = count(sizes, hidden_size) if count else 0
        if count and sizes.is_complete:
            counted += found
        else:
            told.append(_uncounted(name, part))
    named = str((keys.get("architectures") or [""])[0]) if isinstance(keys.get("architectures"), list) else ""
    if not parts and "ConditionalGeneration" in named and _has_text_part(keys):
        told.append(f"the encoder of {named}, of which the config has no sizes")
    return Encoder(num_parameters=counted, uncounted="; ".join(told))


def _has_text_part(keys: Mapping[str, Any]) -> bool:
    return any(isinstance(part, Mapping) and "vocab_size" in part for part in keys.values())


def _is_encoder(name: str, part: object) -> bool:
    """A mapping with layers of its own that has no vocabulary."""
    if not isinstance(part, Mapping) or name in _OTHER_PARTS or "vocab_size" in part:
        return False
    named = any(word in name for word in ("vision", "visual", "audio", "image", "speech", "vit", "encoder"))
    return named and any(key in part for key in (*_HIDDEN, *_LAYERS, "model_type"))


def _uncounted(name: str, part: Mapping[str, Any]) -> str:
    sizes = _Sizes(part)
    hidden, layers = sizes.of(*_HIDDEN), sizes.of(*_LAYERS)
    inner = sizes.of("intermediate_size", "mlp_dim", "encoder_ffn_dim", default=min(4 * hidden, _MOST))
    kind = f" ({part['model_type']})" if isinstance(part.get("model_type"), str) else ""
    if not sizes.is_complete:
        return f"the encoder in {name}{kind}"
    matrices = layers * (4 * hidden * hidden + 2 * hidden * inner)
    return f"the encoder in {name}{kind}, about {matrices / 1e9:.2g} billion parameters in its layers"


def _layer(hidden: int, inner: int, *, is_gated: bool = False, has_bias: bool = True, norms: int = 4) -> int:
    """A transformer layer: four square matrices, two or three of the MLP, ``norms`` vectors."""
    up = 2 if is_gated else 1
    matrices = 4 * hidden * hidden + (up + 1) * hidden * inner
    return matrices + norms * hidden + (4 * hidden + up * inner + hidden if has_bias else 0)


def _gemma_3(s: _Sizes, hidden_size: int) -> int:
    """SigLIP with a bias on every matrix, then a norm and one matrix without."""
    hidden, patch = s.of("hidden_size"), s.of("patch_size")
    positions = (s.of("image_size") // patch) ** 2
    layers = s.of("num_hidden_layers") * _layer(hidden, s.of("intermediate_size"))
    return (
        layers + 3 * patch**2 * hidden + hidden + positions * hidden + 2 * hidden + hidden * (hidden_size + 1)
    )


def _patches_of_qwen(s: _Sizes, hidden: int) -> int:
    return 3 * s.of("temporal_patch_size", default=2) * s.of("patch_size", "spatial_patch_size") ** 2 * hidden


def _merger(merged: int, out: int) -> int:
    return merged * (merged + 1) + (merged + 1) * out


def _qwen_3(s: _Sizes, hidden_size: int) -> int:
    """Biases everywhere, learned positions, and a merger more for each layer that is fed in deep."""
    hidden, merge = s.of("hidden_size"), s.of("spatial_merge_size", default=2)
    out, deep = s.of("out_hidden_size", default=hidden_size), s.keys.get("deepstack_visual_indexes", ())
    merged = hidden * merge**2
    layers = s.of("depth", "num_hidden_layers") * _layer(hidden, s.of("intermediate_size"))
    first = _patches_of_qwen(s, hidden) + hidden + s.of("num_position_embeddings") * hidden
    mergers = 2 * hidden + _merger(merged, out)
    if isinstance(deep, list | tuple):
        mergers += len(deep) * (2 * merged + _merger(merged, out))
    return layers + first + mergers


def _qwen_2_5(s: _Sizes, hidden_size: int) -> int:
    """RMSNorm, a gated MLP, rotary positions."""
    hidden, merge = s.of("hidden_size"), s.of("spatial_merge_size", default=2)
    layer = _layer(hidden, s.of("intermediate_size"), is_gated=True, norms=2)
    out = s.of("out_hidden_size", default=hidden_size)
    return s.of("depth") * layer + _patches_of_qwen(s, hidden) + hidden + _merger(hidden * merge**2, out)


def _qwen_2(s: _Sizes, hidden_size: int) -> int:
    """The tower has its own width, ``embed_dim``; its ``hidden_size`` is the language model's."""
    hidden, merge = s.of("embed_dim"), s.of("spatial_merge_size", default=2)
    layer = _layer(hidden, hidden * s.of("mlp_ratio", default=4))
    out = s.of("hidden_size", default=hidden_size)
    return s.of("depth") * layer + _patches_of_qwen(s, hidden) + 2 * hidden + _merger(hidden * merge**2, out)


def _llama_4(s: _Sizes, hidden_size: int) -> int:
    """A class token, learned positions, two norms around; pixel shuffle, its MLP, and the projector."""
    hidden, patch, inner = s.of("hidden_size"), s.of("patch_size"), s.of("intermediate_size")
    positions = (s.of("image_size") // patch) ** 2 + 1
    first = 3 * patch**2 * hidden + hidden + positions * hidden + 4 * hidden
    middle, out = s.of("projector_input_dim"), s.of("projector_output_dim")
    adapter = inner * middle + middle * out + s.of("vision_output_dim") * hidden_size
    return s.of("num_hidden_layers") * _layer(hidden, inner) + first + adapter


def _pixtral(s: _Sizes, hidden_size: int) -> int:
    """Gated, without biases, rotary positions; the projector's norm, its merger of 2 x 2 patches, its MLP."""
    hidden, patch = s.of("hidden_size"), s.of("patch_size", default=16)
    inner = s.of("intermediate_size", default=4096)
    layer = _layer(hidden, inner, is_gated=True, has_bias=False, norms=2)
    projector = hidden + 4 * hidden * hidden + hidden * hidden_size + hidden_size * hidden_size
    return s.of("num_hidden_layers", default=24) * layer + 3 * patch**2 * hidden + hidden + projector


_COUNTED: Mapping[str, Callable[[_Sizes, int], int]] = {
    "gemma3": _gemma_3,
    "qwen3_vl": _qwen_3,
    "qwen3_vl_moe": _qwen_3,
    "qwen2_5_vl": _qwen_2_5,
    "qwen2_vl": _qwen_2,
    "llama4": _llama_4,
    "mistral3": _pixtral,
}
"""By the config's ``model_type``, which says what stands between encoder and language model."""
