"""The keys of a Hugging Face ``config.json``, checked as they are read, and those that nobody read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from sim.errors import ScenarioError

# Where a rule knows nothing better: most broken values are slips of whoever edited the file.
_AS_PUBLISHED = "write it as config.json on the model's page has it; gpuyard show NAME prints a shipped shape"
LARGEST = 2**31 - 1
MOST_LAYERS = 10_000
MOST_HEADS = 1_000_000


class ConfigReader:
    """The keys of one config, checked as they are read.

    ``read`` remembers which keys were asked for, ``used`` which of them answered. ``defaults`` are what the
    architecture's own config class has where a key is left out; a key written as null is not left out.
    ``notes``: what a rule assumed, for the reader of the result.
    """

    def __init__(
        self, keys: Mapping[str, Any], *, file: str, path: str, defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.keys, self.file, self.path = keys, file, path
        self.defaults: Mapping[str, Any] = defaults or {}
        self.notes: list[str] = []
        self.children: dict[str, ConfigReader] = {}
        self.read: set[str] = set()
        self.used: set[str] = set()

    def refuse(
        self, problem: str, key: str, *, given: object = None, allowed: str = "", hint: str = ""
    ) -> ScenarioError:
        """The error to raise about ``key``."""
        path = f"{self.path}.{key}" if self.path else key
        hint = hint or _AS_PUBLISHED
        return ScenarioError(problem, file=self.file, path=path, given=given, allowed=allowed, hint=hint)

    def inner(self, key: str) -> ConfigReader | None:
        """The mapping under a key (``linear_attn_config`` and its like), None where there is none."""
        given = self.value(key)
        if key in self.children:
            return self.children[key]
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise self.refuse("not a mapping", key, given=given)
        child = ConfigReader(given, file=self.file, path=f"{self.path}.{key}" if self.path else key)
        self.children[key] = child
        return child

    def value(self, *names: str) -> Any:
        """The first of these keys that is there and not null, else the class's default, else None."""
        self.read.update(names)
        name = next((name for name in names if self.keys.get(name) is not None), None)
        if name is not None:
            self.used.add(name)
            return self.keys[name]
        written = {name for name in names if name in self.keys}
        # A key written as null is an answer too.
        self.used |= written
        return None if written else next((self.defaults[one] for one in names if one in self.defaults), None)

    def has(self, name: str) -> bool:
        """Whether the key is written, even as null."""
        self.read.add(name)
        self.used.update({name} & self.keys.keys())
        return name in self.keys

    def count(self, *names: str, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        """A whole number under one of these names; required unless there is a default."""
        given = self.value(*names)
        if given is None and default is not None:
            return default
        if given is None:
            others = f" (also read: {', '.join(names[1:])})" if names[1:] else ""
            raise self.refuse(
                f"missing{others}",
                names[0],
                allowed=f"a whole number, {least} to {most}",
                hint="a decoder-only model's config.json has it; or start from a shipped shape: "
                "{base: llama-3.1-8b, ...}; gpuyard list names them",
            )
        return self.whole(given, self._name(names), least=least, most=most)

    def whole(self, given: object, name: str, *, least: int = 1, most: int = LARGEST) -> int:
        """``given`` as a whole number in these bounds."""
        if isinstance(given, bool) or not isinstance(given, int):
            raise self.refuse("not a whole number", name, given=given, allowed=f"{least} to {most}")
        if not least <= given <= most:
            raise self.refuse("out of range", name, given=given, allowed=f"{least} to {most}")
        return given

    def optional_count(self, *names: str, least: int = 1, most: int = LARGEST) -> int | None:
        """A whole number, or None where the key is absent or null."""
        return None if self.value(*names) is None else self.count(*names, least=least, most=most)

    def by_layer(
        self, *names: str, layers: int, default: int | None = None, least: int = 1, most: int = LARGEST
    ) -> tuple[int, ...]:
        """One whole number per layer: a list of them, or a single one for all."""
        given = self.value(*names)
        if not isinstance(given, list):
            return (self.count(*names, default=default, least=least, most=most),) * layers
        name = self._name(names)
        if len(given) != layers:
            raise self.refuse("not one entry per layer", name, given=given, allowed=f"{layers} numbers")
        return tuple(self.whole(one, name, least=least, most=most) for one in given)

    def indices(self, *names: str, layers: int, first: int = 0) -> frozenset[int] | None:
        """A list of layers, counted from ``first``; None where there is none."""
        given = self.value(*names)
        if given is None:
            return None
        name, last = self._name(names), layers - 1 + first
        if isinstance(given, str):  # Step-3.5: "4,5,6"
            given = [int(one) if one.strip().isdigit() else one for one in given.split(",") if one.strip()]
        if not isinstance(given, list) or not all(type(i) is int and first <= i <= last for i in given):
            raise self.refuse("not a list of layers", name, given=given, allowed=f"{first} to {last}")
        return frozenset(i - first for i in given)

    def words(self, *names: str, layers: int | None = None) -> list[str] | None:
        """A list of words, one per layer where ``layers`` says how many; None where there is none."""
        given = self.value(*names)
        if given is None:
            return None
        name = self._name(names)
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise self.refuse("not a list of words", name, given=given)
        if layers is not None and len(given) != layers:
            raise self.refuse(
                "not one entry per layer",
                name,
                given=given,
                allowed=f"{layers} kinds, one per layer",
                hint=f"write {name} together with num_hidden_layers",
            )
        return given

    def flag(self, *names: str, default: bool) -> bool:
        """true or false."""
        given = self.value(*names)
        if given is None:
            return default
        if not isinstance(given, bool):
            raise self.refuse("not a switch", self._name(names), given=given, allowed="true or false")
        return given

    def text(self, *names: str, default: str = "") -> str:
        """A string."""
        given = self.value(*names)
        if given is None:
            return default
        if not isinstance(given, str):
            raise self.refuse("not a string", names[0], given=given)
        return given

    def ignore(self, *names: str) -> None:
        """These keys are understood, and change nothing here: asked for by a user, they are refused."""
        self.read.update(names)

    def blocks(self, part: str, layers: int) -> list[ConfigReader] | None:
        """``block_configs`` (Nemotron-NAS): the part (attention, ffn) of every block; None without them."""
        given = self.value("block_configs")
        if given is None:
            return None
        if not isinstance(given, list) or len(given) != layers or not all(isinstance(x, dict) for x in given):
            raise self.refuse(
                "not one entry per layer", "block_configs", given=given, allowed=f"{layers} blocks"
            )
        found = []
        for index, block in enumerate(given):
            at = ConfigReader(
                block, file=self.file, path=f"{self.path}.block_configs[{index}]".removeprefix(".")
            )
            inner = at.inner(part) or ConfigReader({}, file=self.file, path=at.path)
            for switch in ("replace_with_linear", "sparsify"):
                if inner.value(switch):
                    raise inner.refuse("not modelled", switch, given=inner.value(switch))
            found.append(inner)
        return found

    def unread(self) -> list[str]:
        """Keys that could change the shape, by their words, and that nobody asked for."""
        return sorted(
            key
            for key, value in self.keys.items()
            if key not in self.read and is_structural(key) and says_something(value)
        )

    def _name(self, names: Collection[str]) -> str:
        """Which of the names was written, for the error."""
        return next((name for name in names if self.keys.get(name) is not None), next(iter(names)))


# Words of keys that say what a layer is or how large something is.
STRUCTURAL = (
    r"layer|block|head|expert|moe|window|chunk|state|rank|dim$|dims$|_dim_|size|width|attn|attention|mamba|ssm|conv"
    r"|kv|key|value|query|ffn|ff_|mlp|router|gate|gating|latent|linear|lora|pattern|interval|period|group"
    r"|share|top_?k|index|compress|recurrent|memory|cache|altup|laurel|hyper|codebook|adapter|loop|cycle|expand"
    r"|mixer|routed|intermediate|ut_steps|branch|multiple_of|hybrid|token_shift|retention|glu$|sinks$"
    r"|d_model|d_inner|n_inner|sparse|dense|parallel|bias|hc_|norm|channels|ratio|depth|stack|delta|kda|swa|local|global"
)


# What such keys say besides: numbers that scale, training, kernels, sampling, other modalities, and how
# experts are chosen (which ones, never how many or how large).
HARMLESS = (
    r"dropout|drop|init|eps$|epsilon|_eps_|loss|coef|token|rope|rotary|theta|jitter|clip|softcap|capping|temperature"
    r"|scal(e|ing)|multiplier|scalar|alpha|beta|gamma|factor$|noise|(^|_)act(ivation)?(_|$)|_act$|act_fn|dtype|version"
    r"|^vision|^image|^audio|^video|^speech|^mm_|^visual|vision_|image_|audio_|video_|projector|mrope"
    r"|(^|_)mtp(_|$)|nextn|pretrain|^ep_size$|^output_|^return_|^use_cache$|^cache_|problem_type|classifier|summary"
    r"|time_step|kernels?$|^use_mamba_kernel|mambapy|associative_scan|mem_eff|chunk_size$|chunk_size_feed_forward"
    r"|^n_groups?$|^num_expert_groups?$|^topk_group$|^norm_topk|^scoring_func$|topk_method|^seq_aux$|renormalize"
    r"|_attn_implementation|flash_attn|sdpa|attn_implementation|fp32|float32|logits_to_keep|^tokenizer|label"
    r"|^_|auto_map|architectures|torch|gradient|train|regulari[sz]|prune|z_loss|aux|residual_in|rescale|overlap"
    r"|score_function|score_func|use_bidirectional|load_balanc|router_(dtype|logit|z)|logit|attn_temperature"
    r"|no_rope|nope|mup|partial|max_position|position_embedding_type|is_decoder|fused?_"
    r"|quant|scan|layerdrop|^layer_switch$|^use_parallel_embedding$|^group_norm_size$|^moe_(gate|capacity)$"
    r"|^num_beam|^top_k$|gemma_norm|router_bias|sparsity|remote|hub|^for_|unpadded|neftune|seq_length|max_seq|model_max_length"
    r"|moe_norm|selection_fn|combination|elementwise_affine|_(a_log|dt)_|^block_size$|prefix_dense"
    r"|pad_to|special|conversation|norm_before_gate|safe_gate|lower_bound|allow_neg|keys_to_ignore|deterministic"
)


# What a key is whatever other words are in it: how many there are, how large, or what a layer is made of.
COUNTS = (
    r"(^|_)(layers|experts|heads|ranks?|branches|recurrences?|ut_steps)$|(head|rope|nope)_dim$|state_size$|mixers?(_types?)?$"
    r"|(ffn|qkv|dim|width|hidden|intermediate|expert)_?multipliers?$|intermediate|multiple_of"
    r"|token_shift|yoco|(^|_)nsa(_|$)|(^|_)dsa(_|$)|self_decoder|hgrn"
)
# Parts of a model that are not its decoder, and what is done with counted things in training.
OTHER_PARTS = (
    r"vision|image|audio|video|speech|^mm_|visual|projector|mtp|nextn|medusa|eagle|draft|freeze|frozen|drop|prune"
    r"|keep|^output_|^tie_|loss|jitter|activation|time_step|quant"
)


def is_structural(key: str) -> bool:
    """Whether a key's words say that it could change the shape."""
    lower = key.lower()
    # Compiled when first needed: few configs have a key that nobody read.
    if re.search(COUNTS, lower) and not re.search(OTHER_PARTS, lower):
        return True
    return bool(re.search(STRUCTURAL, lower)) and not re.search(HARMLESS, lower)


def says_something(value: object) -> bool:
    """Whether a value asks for anything: not null, false, 0, nor empty; nor a list of nothing else."""
    if isinstance(value, list):
        return any(says_something(one) for one in value)
    return value not in (None, False, 0, "", {}) or (isinstance(value, Mapping) and bool(value))
