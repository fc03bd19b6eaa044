"""Requests that wait for a sequence, and whose turn it is.

Higher priorities go first. Within one, the client goes first that has the fewest requests running, then the one that
was given the fewest tokens so far, then the request that came first: nobody gets more of a busy engine by asking more
often.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge.job import Job


@dataclass
class _Share:
    """What a client has of the engine. `requests` are those waiting and running."""

    requests: int = 0
    running: int = 0
    served_tokens: int = 0


class WaitingRequests:
    """Used by the loop's thread only."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._shares: dict[str, _Share] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        """The requests in the order in which they came."""
        return iter(list(self._jobs))

    def add(self, job: Job) -> None:
        client = job.request.client
        if client not in self._shares:  # one that comes anew has no claim on the time it was away
            served = min((share.served_tokens for share in self._shares.values()), default=0)
            self._shares[client] = _Share(served_tokens=served)
        self._shares[client].requests += 1
        self._jobs.append(job)

    def by_turn(self) -> list[Job]:
        """The requests, the one whose turn it is first."""
        return sorted(self._jobs, key=self._turn)

    def start(self, job: Job) -> None:
        """Note that a request was given a sequence."""
        self._jobs.remove(job)
        self._shares[job.request.client].running += 1

    def end(self, job: Job) -> None:
        """Note that a request has ended, whether it was started or not."""
        share = self._shares[job.request.client]
        if job in self._jobs:
            self._jobs.remove(job)
        else:
            share.running -= 1
            share.served_tokens += job.served_tokens
        share.requests -= 1
        if not share.requests:
            del self._shares[job.request.client]

    def _turn(self, job: Job) -> tuple[int, int, int]:
        share = self._shares[job.request.client]
        return -job.request.priority, share.running, share.served_tokens
