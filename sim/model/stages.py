"""A model cut into pipeline stages: each is a model of fewer layers, the ends with embedding and lm_head."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim.errors import ScenarioError
from sim.model.shape import ModelShape, MoeShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Consecutive layers. The first stage holds the token embedding, the last the final norm and lm_head.

    A tied lm_head needs the table twice where first and last are not the same GPU.
    """

    shape: ModelShape  # of these layers alone
    index: int
    num_stages: int

    @property
    def is_first(self) -> bool:
        """Whether tokens come in here."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether tokens are sampled here."""
        return self.index == self.num_stages - 1


def layers_of_stages(num_layers: int, num_stages: int) -> list[int]:
    """How many layers each stage has, as vLLM cuts: a remainder goes to the stages before the last one.

    36 layers over 8 stages: 4 4 4 5 5 5 5 4. The last stage has lm_head besides (vLLM's get_pp_indices).
    """
    counts = [num_layers // num_stages] * num_stages
    for place in range(num_layers % num_stages):
        counts[-2 - place] += 1
    return counts


def stages_of(m: ModelShape, num_stages: int) -> tuple[Stage, ...]:
    """The stages of a pipeline; one stage is the model as it is."""
    check_pipeline_parallel_size(m, num_stages)
    if num_stages == 1:
        return (Stage(shape=m, index=0, num_stages=1),)
    stages, first = [], 0
    for index, count in enumerate(layers_of_stages(m.num_hidden_layers, num_stages)):
        shape = replace(
            m,
            num_hidden_layers=count,
            layer_types=m.layer_types[first : first + count],
            moe=_experts_of(m, first, count),
        )
        stages.append(Stage(shape=shape, index=index, num_stages=num_stages))
        first += count
    return tuple(stages)


def check_pipeline_parallel_size(m: ModelShape, num_stages: int) -> None:
    """Every stage has a layer."""
    if num_stages > m.num_hidden_layers:
        raise ScenarioError(
            f"{m.num_hidden_layers} layers of {m.name} are fewer than {num_stages} stages",
            path="engine.pipeline_parallel_size",
            given=num_stages,
            allowed=f"1 to {m.num_hidden_layers}",
        )


def _experts_of(m: ModelShape, first: int, count: int) -> MoeShape | None:
    """Dense layers are taken to be the first ones, as in DeepSeek's models."""
    if m.moe is None:
        return None
    return replace(m.moe, num_dense_layers=min(max(m.moe.num_dense_layers - first, 0), count))
