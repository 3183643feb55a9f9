"""The waiting queue under vLLM's two policies."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from sim.serving.request import Request


class WaitingQueue(Protocol):
    """Requests that wait; the head is the next to be admitted."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]: ...

    def add(self, request: Request) -> None:
        """A new request."""

    def put_back(self, request: Request) -> None:
        """A preempted request."""

    def arrange(self) -> None:
        """A step is about to look at the head: an order that changes with time is settled here."""

    def head(self) -> Request: ...

    def pop(self) -> Request: ...

    def restore(self, skipped: Sequence[Request]) -> None:
        """Requests that were passed over keep their places."""

    def remove(self, request: Request) -> None: ...


class FcfsQueue:
    """First come, first served; preempted requests go to the front."""

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def add(self, request: Request) -> None:
        self.requests.append(request)

    def put_back(self, request: Request) -> None:
        self.requests.appendleft(request)

    def arrange(self) -> None:
        """The order stands."""

    def head(self) -> Request:
        return self.requests[0]

    def pop(self) -> Request:
        return self.requests.popleft()

    def restore(self, skipped: Sequence[Request]) -> None:
        self.requests.extendleft(reversed(skipped))

    def remove(self, request: Request) -> None:
        self.requests.remove(request)


class PriorityQueue:
    """Smallest (priority, arrival, id as a string) first; preempted requests take their place again."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, float, str, int, Request]] = []
        self._pushes = 0

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Request]:
        return (entry[-1] for entry in sorted(self._heap))

    def add(self, request: Request) -> None:
        self._pushes += 1
        entry = (request.priority, request.arrival, request.request_id, self._pushes, request)
        heapq.heappush(self._heap, entry)

    put_back = add

    def arrange(self) -> None:
        """The order stands."""

    def head(self) -> Request:
        return self._heap[0][-1]

    def pop(self) -> Request:
        return heapq.heappop(self._heap)[-1]

    def restore(self, skipped: Sequence[Request]) -> None:
        for request in skipped:
            self.add(request)

    def remove(self, request: Request) -> None:
        self._heap = [entry for entry in self._heap if entry[-1] is not request]
        heapq.heapify(self._heap)


QUEUES: dict[str, type[FcfsQueue] | type[PriorityQueue]] = {"fcfs": FcfsQueue, "priority": PriorityQueue}
