"""vLLM's engine over pipeline stages: as many batches under way as there are stages.

The scheduler plans a batch whenever fewer than p are under way, and takes the results in one after another,
in order. A sequence whose token is being made is in no other batch, so p batches share the running
sequences; how evenly is the scheduler's doing. A batch that is planned at t leaves the last stage when
``Stations`` says. In the records a step lasts from the batch before it leaving to this one leaving.
"""

from __future__ import annotations

from typing import Any

from sim.cost.pipeline import PipelinePrice, Stations
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.request import Request
from sim.serving.vllm_engine import VllmEngine


class PipelinedVllmEngine(VllmEngine):
    """Drives ``Scheduler`` with a queue of p batches."""

    is_stepwise = True
    price: PipelinePrice

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.stations = Stations(self.num_stages, self.price.cold_start_ps)
        self.just_made: set[Request] = set()
        self.done_ps: dict[int, int] = {}  # of planned batches, by the plan's identity

    @property
    def stages_ps(self) -> int:
        """See ``EngineBase``."""
        return sum(self.stations.busy_ps)

    def _note(self, plan: Plan, now: int) -> None:
        super()._note(plan, now)
        if not plan.num_requests:
            return
        shape = self.shapes[id(plan)]
        passage = self.price.passage(shape.num_decode, shape.context, shape.chunks, shape.drafts)
        self.done_ps[id(plan)] = self.stations.enter(now, passage)

    def _step_ps(self, due: Plan, now: int) -> int:
        return self.done_ps.pop(id(due)) - now

    def _complete(self, plan: Plan, now: int) -> None:
        self.just_made = set(plan.emitting())
        super()._complete(plan, now)

    def _tokens_just_made(self, request: Request) -> int:
        """Only the batch that left made tokens; also for those that were preempted while they were in it."""
        return int(request in self.just_made)
