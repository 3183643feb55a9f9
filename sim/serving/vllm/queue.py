"""The waiting queue under vLLM's two policies."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from operator import attrgetter

from sim.serving.request import Request

by_rank = attrgetter("rank")


class WaitingQueue(deque[Request]):
    """First come, first served; preempted requests go to the front."""

    def add(self, request: Request) -> None:
        """A new request."""
        self.append(request)

    def put_back(self, request: Request) -> None:
        """A preempted request."""
        self.appendleft(request)

    def arrange(self) -> None:
        """A step is about to look at the head: an order that changes with time is settled here."""

    def head(self) -> Request:
        """The next to be admitted."""
        return self[0]

    def take(self) -> Request:
        """The head leaves the queue."""
        return self.popleft()

    def restore(self, skipped: Sequence[Request]) -> None:
        """Requests that were taken and passed over get their places back."""
        self.extendleft(reversed(skipped))


class PriorityQueue(WaitingQueue):
    """Smallest (priority, arrival, id as a string) first; a preempted request gets its old place back."""

    def add(self, request: Request) -> None:
        request.rank = (request.priority, request.arrival, request.request_id)
        insort(self, request, key=by_rank)

    put_back = add


QUEUES = {"fcfs": WaitingQueue, "priority": PriorityQueue}
