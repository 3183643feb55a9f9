"""The waiting queue under vLLM's two policies."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from operator import attrgetter

from sim.serving.request import Request

by_rank = attrgetter("rank")


class WaitingQueue:
    """First come, first served; preempted requests go to the front."""

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def add(self, request: Request) -> None:
        """A new request."""
        self.requests.append(request)

    def put_back(self, request: Request) -> None:
        """A preempted request."""
        self.requests.appendleft(request)

    def arrange(self) -> None:
        """A step is about to look at the head: an order that changes with time is settled here."""

    def head(self) -> Request:
        """The next to be admitted."""
        return self.requests[0]

    def pop(self) -> Request:
        """The head leaves the queue."""
        return self.requests.popleft()

    def restore(self, skipped: Sequence[Request]) -> None:
        """Requests that were popped and passed over take their places again."""
        self.requests.extendleft(reversed(skipped))

    def remove(self, request: Request) -> None:
        """Its client has left."""
        self.requests.remove(request)


class PriorityQueue(WaitingQueue):
    """Smallest (priority, arrival, id as a string) first; a preempted request gets its old place back."""

    def add(self, request: Request) -> None:
        request.rank = (request.priority, request.arrival, request.request_id)
        insort(self.requests, request, key=by_rank)

    put_back = add


QUEUES = {"fcfs": WaitingQueue, "priority": PriorityQueue}
