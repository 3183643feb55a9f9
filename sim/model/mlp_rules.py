"""Which MLP each layer of a config has, and how large: a plain one, experts, or both."""

from __future__ import annotations

from collections.abc import Sequence

from sim.model.mixer_rules import Found, Kind, is_recurrent_only
from sim.model.reader import MOST_LAYERS, ConfigReader
from sim.model.shape import Mlp, MlpShape, MoeShape

LARGEST_LAYER = 10 * MOST_LAYERS


WIDTH = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff", "dff")
EXPERTS = (
    "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts",
    "moe_num_primary_experts",
)  # fmt: skip
PER_TOKEN = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k", "moe_top_k",
    "top_k_experts", "num_selected_experts",
)  # fmt: skip
EXPERT_WIDTH = (
    "moe_intermediate_size",
    "expert_ffn_hidden_size",
    "moe_ffn_hidden_size",
    "expert_intermediate_size",
)
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
SHARED_WIDTH = (
    "shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size",
    "shared_experts_intermediate_size", "share_expert_dim", "moe_shared_expert_dim",
)  # fmt: skip


class MlpReader:
    """The MLPs of each layer: a plain one, experts, or both."""

    def __init__(self, c: ConfigReader, found: Found, kinds: Sequence[Kind]) -> None:
        self.c, self.found, self.kinds, self.layers = c, found, kinds, len(kinds)
        speaks_of_them = found["needs_experts"] or any(c.keys.get(one) for one in (*PER_TOKEN, *EXPERT_WIDTH))
        if speaks_of_them and not any(one in c.keys or one in c.defaults for one in EXPERTS):
            c.count(*EXPERTS)  # which refuses: a mixture of experts is not read as dense
        self.experts = c.by_layer(*EXPERTS, layers=self.layers, default=0, least=0, most=1_000_000)
        if not c.flag("enable_moe_block", "is_moe", default=True):
            c.ignore(*PER_TOKEN, *EXPERT_WIDTH)
            self.experts = (0,) * self.layers
        self.has_experts = max(self.experts, default=0) > 1
        self.blocks = c.blocks("ffn", self.layers)
        self.widths = self._widths()
        self.sparse = self._sparse()
        self.moes = self._moes() if self.has_experts else {}

    def of(self, index: int) -> tuple[Mlp, ...]:
        """The MLPs of one layer."""
        kind = self.kinds[index]
        if any(one in ("mlp", "moe") for one in self.kinds):
            if kind not in ("mlp", "moe"):
                return ()
            return (self.moes[index] if kind == "moe" and index in self.moes else self._plain(index),)
        if not self.widths[index] and index not in self.sparse:
            return ()
        if index not in self.sparse:
            return (self._plain(index),) * int(self.found["sublayers"])
        both = self.found["sublayers"] > 1 or "enable_moe_block" in self.c.used
        plain = (self._plain(index),) * int(self.found["sublayers"]) if both else ()
        return (*plain, self.moes[index])

    def _plain(self, index: int) -> MlpShape:
        return MlpShape(
            intermediate_size=self.widths[index],
            num_matrices=self.found["mlp_matrices"],
            bias=self.found["mlp_bias"],
        )

    def _widths(self) -> tuple[int, ...]:
        """Of plain MLPs; 0: none."""
        if self.blocks is not None:
            return tuple(self._width_of_block(one) for one in self.blocks)
        if (
            all(kind == "recurrent" for kind in self.kinds)
            and not self.has_experts
            and is_recurrent_only(self.c)
        ):
            self.c.ignore(*WIDTH)
            return (0,) * self.layers
        if "intermediate_size" in self.found:
            return (int(self.found["intermediate_size"]),) * self.layers
        names: tuple[str, ...] = WIDTH
        own = ["intermediate_size_mlp", "dense_intermediate_size"]
        if not self.has_experts:
            own.insert(0, "shared_intermediate_size")  # Granite 4 without experts
        if any(self.c.value(one) for one in own):
            names = (*own, *WIDTH)
        default = 0 if self.has_experts else None
        widths = self.c.by_layer(*names, layers=self.layers, default=default, least=1, most=100_000_000)
        if self.c.flag("use_double_wide_mlp", default=False):  # Gemma 4: in layers without K and V
            shared = self.c.count("num_kv_shared_layers", default=0, least=0, most=MOST_LAYERS)
            widths = tuple(w * (1 + (i >= self.layers - shared)) for i, w in enumerate(widths))
        return widths

    def _width_of_block(self, block: ConfigReader) -> int:
        if block.flag("no_op", default=False):
            return 0
        given = block.optional_count("intermediate_size", most=100_000_000)
        if given is not None:
            return given
        factor = block.value("ffn_mult")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1000:
            raise block.refuse("not a factor", "ffn_mult", given=factor, allowed="above 0")
        return -(-int(2 * factor * self.found["hidden_size"] / 3) // 256) * 256

    def _sparse(self) -> frozenset[int]:
        """The layers that have experts."""
        listed = frozenset(i for i, kind in enumerate(self.kinds) if kind == "moe")
        if not self.has_experts:
            self._ignore_experts()
            return frozenset()
        if listed or any(kind == "mlp" for kind in self.kinds):
            return listed
        words = self.c.words("mlp_layer_types", layers=self.layers)
        if words is not None:
            self.c.ignore("first_k_dense_replace", "moe_layer_freq", "mlp_only_layers", "decoder_sparse_step")
            return frozenset(i for i, word in enumerate(words) if self._has_experts(word))
        listed_experts = self.c.indices("moe_layers", "moe_layers_enum", layers=self.layers)
        if listed_experts is not None:
            self.c.ignore("interleave_moe_layer_step")
            return listed_experts
        return self._by_rule()

    def _has_experts(self, word: str) -> bool:
        if word not in ("sparse", "moe", "dense", "mlp"):
            raise self.c.refuse("a kind of MLP that is not modelled", "mlp_layer_types", given=word)
        return word in ("sparse", "moe")

    def _by_rule(self) -> frozenset[int]:
        """After the first dense layers, every n-th, but for those listed."""
        c, layers = self.c, self.layers
        if isinstance(c.value("moe_layer_freq"), list):
            marks = c.by_layer("moe_layer_freq", layers=layers, least=0, most=1)
            return frozenset(i for i, mark in enumerate(marks) if mark)
        first_names = ("first_k_dense_replace", "num_dense_layers", "n_dense_layers", "moe_layer_start_index")
        first = c.count(*first_names, "num_dense_layer", default=0, least=0, most=LARGEST_LAYER)
        last = c.count("moe_layer_end_index", default=layers - 1, least=0, most=LARGEST_LAYER)
        dense = c.indices("mlp_only_layers", layers=layers) or frozenset()
        within = [i for i in range(first, min(last + 1, layers)) if i not in dense]
        if c.value("expert_layer_period") is not None:  # Jamba
            period = c.count("expert_layer_period", most=MOST_LAYERS)
            offset = c.count("expert_layer_offset", default=0, least=0, most=MOST_LAYERS)
            return frozenset(i for i in within if i % period == offset)
        from_one = ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval")
        step = c.count(*from_one, default=1, most=MOST_LAYERS)
        every = c.count("moe_layer_freq", default=1, most=MOST_LAYERS)  # DeepSeek counts from layer 0
        return frozenset(i for i in within if (i + 1) % step == 0 and i % every == 0)

    def _ignore_experts(self) -> None:
        """Keys that mean nothing without experts."""
        self.c.ignore(*PER_TOKEN, *EXPERT_WIDTH, *SHARED, *SHARED_WIDTH, "mlp_only_layers", "moe_layer_freq")
        self.c.ignore("decoder_sparse_step", "first_k_dense_replace", "expert_layer_period")
        self.c.ignore("expert_layer_offset", "mlp_layer_types", "moe_layers", "interleave_moe_layer_step")

    def _moes(self) -> dict[int, MoeShape]:
        c, layers = self.c, self.layers
        per_token = c.by_layer(*PER_TOKEN, layers=layers, most=1_000_000)
        inner = self._expert_widths()
        shared = c.by_layer(*SHARED, layers=layers, default=0, least=0, most=1_000_000)
        width = c.optional_count(*SHARED_WIDTH, least=0, most=100_000_000)
        idle = c.count("zero_expert_num", default=0, least=0, most=1_000_000)
        latent = c.optional_count("moe_latent_size", most=10_000_000)
        gate = c.has("shared_expert_intermediate_size")
        moes = {}
        for index in sorted(self.sparse):
            if per_token[index] > self.experts[index] + idle:
                raise c.refuse(
                    "more than there are experts",
                    "num_experts_per_tok",
                    given=per_token[index],
                    allowed=f"1 to {self.experts[index]}",
                )
            whole = shared[index] * inner[index] if width is None else width
            moes[index] = MoeShape(
                num_experts=self.experts[index],
                num_experts_per_tok=min(per_token[index], self.experts[index]),
                moe_intermediate_size=inner[index],
                num_shared_experts=shared[index] or int(whole > 0),
                shared_expert_intermediate_size=whole,
                router_bias=self.found["router_bias"],
                shared_expert_gate=gate,
                num_matrices=self.found["mlp_matrices"],
                bias=self.found["mlp_bias"],
                latent_size=latent,
            )
        return moes

    def _expert_widths(self) -> tuple[int, ...]:
        names = (*EXPERT_WIDTH, *WIDTH)
        return self.c.by_layer(*names, layers=self.layers, most=100_000_000)
