"""The decode batch: requests that make one token each per step, counted together.

While requests decode in lockstep their own counts are updated only when somebody asks (``settle``):

- ``step`` counts the steps; a request has grown by ``step - settled_step`` tokens since it was settled;
- its KV memory grows whenever ``step`` is congruent to its phase modulo ``period`` (tokens between two
  growths, one block): ``counts`` says how many requests grow in the steps of each phase;
- the step in which it makes its last token is known when it begins to decode (``ends``).

So a step costs nothing by itself, and many can be taken at once. ``members`` lists who grows in each phase,
in order of admission, where somebody has to know which block goes to whom.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from heapq import heapify, heappop, heappush
from math import isqrt

from sim.serving.request import Request


class DecodeBatch:
    """Requests in steady decode. ``period`` 0: their KV memory does not grow.

    ``settle_memory``: what else counts a request's tokens, and is told when they are brought up to date.
    """

    def __init__(
        self,
        period: int,
        *,
        lists_members: bool = False,
        settle_memory: Callable[[Request], None] = lambda request: None,
    ) -> None:
        self.step, self.period = 0, max(period, 1)
        self._grows, self._lists_members = period > 0, lists_members and period > 0
        self._settle_memory = settle_memory
        self.clear()

    def clear(self) -> None:
        """Nobody decodes. Those that did were settled."""
        self.num_decoding = self.num_context_tokens = 0
        """(The latter is the sum of the decoding requests' tokens: what the next step attends to.)"""
        self.counts = [0] * self.period
        self.members: list[dict[int, Request]] | None = None
        if self._lists_members:
            self.members = [{} for _ in range(self.period)]
        self.ends: dict[int, list[Request]] = {}
        self.end_steps: list[int] = []  # the steps in ``ends``, a heap

    def join(self, request: Request) -> None:
        """A request whose next step is a decode, as it stands between two steps."""
        step, tokens = self.step, request.num_tokens
        request.settled_step = step
        request.phase = phase = (step + 1 - tokens) % self.period
        self.counts[phase] += 1
        if self.members is not None:
            members, order = self.members[phase], request.order
            is_late = bool(members) and next(reversed(members)) > order
            members[order] = request
            if is_late:
                self.members[phase] = dict(sorted(members.items()))
        request.end_step = end = step + request.end_tokens - 1 - tokens
        ending = self.ends.get(end)
        if ending is None:
            self.ends[end] = [request]
            heappush(self.end_steps, end)
        else:
            ending.append(request)
        self.num_decoding += 1
        self.num_context_tokens += tokens

    def leave(self, request: Request) -> None:
        """A request stops decoding before its end, if it does; its counts become its own again."""
        if request.end_step >= 0:
            ending = self.ends[request.end_step]
            ending.remove(request)
            if not ending:
                del self.ends[request.end_step]
                self.end_steps.remove(request.end_step)
                heapify(self.end_steps)
            self.part(request)

    def part(self, request: Request) -> None:
        """A request is out of the batch; its counts are up to date."""
        if self.members is not None:
            del self.members[request.phase][request.order]
        self.settle(request)
        self.counts[request.phase] -= 1
        self.num_decoding -= 1
        self.num_context_tokens -= request.num_tokens
        request.end_step = -1

    def settle(self, request: Request) -> None:
        """Brings a request's counts up to date, if it decodes and they are not."""
        grown = self.step - request.settled_step
        if grown and request.end_step >= 0:
            request.num_tokens += grown
            request.num_computed_tokens += grown
            request.settled_step = self.step
            self._settle_memory(request)

    def take_steps(self, num_steps: int) -> list[Request]:
        """Every decoding request has so many tokens more; those that have made their last part."""
        self.step += num_steps
        self.num_context_tokens += num_steps * self.num_decoding
        finished = self.ends.pop(self.step - 1, [])
        if finished:
            heappop(self.end_steps)
        for request in finished:
            self.part(request)
        return finished

    def num_growing(self) -> int:
        """Requests whose memory grows in the next step."""
        return self.counts[self.step % self.period] if self._grows else 0

    def growing(self) -> Collection[Request]:
        """Who they are, where members are listed."""
        return self.members[self.step % self.period].values() if self.members is not None else ()

    def steps_that_stand(self, free: int) -> int:
        """Whole steps until somebody has the last token, or ``free`` units of memory do not last."""
        limit, size, left = self.end_steps[0] - self.step + 1, self.period, free
        if not self._grows or self.num_decoding * (limit // size + 1) <= left:
            return limit
        rounds, left = divmod(left, self.num_decoding)
        steps = rounds * size
        while steps < limit:
            left -= self.counts[(self.step + steps) % size]
            if left < 0:
                break
            steps += 1
        return min(steps, limit)


def steps_until(first: int, growth: int, time_ps: int, most: int) -> int:
    """The fewest steps (at least 1, at most ``most``) that last ``time_ps`` or longer.

    Solves k·first + growth·k(k − 1)/2 ≥ time_ps in integers.
    """
    if growth == 0:
        steps = -(-time_ps // first) if first else most
    elif time_ps < 64 * first:
        steps = -(-time_ps // first)  # enough without growth; growth makes it a few fewer
        while (steps - 1) * first + growth * ((steps - 1) * (steps - 2) // 2) >= time_ps:
            steps -= 1
    else:
        linear = 2 * first - growth
        steps = (isqrt(linear * linear + 8 * growth * time_ps) - linear) // (2 * growth)
        while steps * first + growth * (steps * (steps - 1) // 2) < time_ps:
            steps += 1
    return min(max(steps, 1), most)
