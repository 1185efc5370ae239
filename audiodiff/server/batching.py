"""One thread that computes for all clients: first come, first served, clips of one length together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiodiff.pipelines import SynthesisChanges, Vocoder
from audiodiff.server.metrics import Metrics

MAX_BATCH = 8
"""Clips at a time; more gain nothing on a CPU and let the others wait."""


@dataclass(eq=False)
class _Job:
    """Something to compute, and who waits for it; a clip to vocode has a mel."""

    done: asyncio.Future[Any]
    function: Callable[[], Any] | None = None
    mel: NDArray[Any] | None = None
    vocoder: Vocoder | None = None
    seed: int = 0
    changes: SynthesisChanges | None = None

    def fits(self, other: _Job) -> bool:
        """Tell whether both can be computed as one batch."""
        if self.mel is None or other.mel is None:
            return False
        given = [None if job.vocoder is None else job.vocoder.given.config for job in (self, other)]
        return self.mel.shape == other.mel.shape and self.changes == other.changes and given[0] == given[1]


class Worker:
    """A queue and one thread. A batch holds clips of equal length only: padding would change how they end.

    Args:
        vocoder: The model.
        metrics: What is computed is counted there.
    """

    def __init__(self, vocoder: Vocoder, metrics: Metrics) -> None:
        self.vocoder, self._metrics = vocoder, metrics
        self._jobs: deque[_Job] = deque()
        self._some = asyncio.Event()

    async def vocode(
        self, mel: NDArray[Any], vocoder: Vocoder, seed: int, changes: SynthesisChanges
    ) -> NDArray[np.float32]:
        """Return the audio `(time,)` of a mel `(n_mels, frames)`, by the model with the convention of this mel."""
        job = _Job(_future(), mel=mel, vocoder=vocoder, seed=seed, changes=changes)
        return await self._submit(job)  # type: ignore[no-any-return]

    async def run(self, function: Callable[[], Any]) -> Any:
        """Return what a function returns, called by the thread when it is its turn."""
        return await self._submit(_Job(_future(), function=function))

    async def _submit(self, job: _Job) -> Any:
        self._jobs.append(job)
        self._some.set()
        return await job.done

    async def work(self) -> None:
        """Compute until cancelled."""
        with ThreadPoolExecutor(1, "audiodiff-serve") as thread:
            while True:
                await self._some.wait()
                if batch := self._next():
                    await self._compute(batch, thread)

    def _next(self) -> list[_Job]:
        """Take the next job, and those that fit it, out of the queue; whoever has left is left out."""
        waiting = [job for job in self._jobs if not job.done.done()]
        batch = [waiting[0], *(job for job in waiting[1:] if waiting[0].fits(job))][:MAX_BATCH] if waiting else []
        self._jobs = deque(job for job in waiting if job not in batch)
        self._metrics.values["waiting"] = len(self._jobs)
        if not self._jobs:
            self._some.clear()
        return batch

    async def _compute(self, batch: Sequence[_Job], thread: ThreadPoolExecutor) -> None:
        function = batch[0].function or partial(self._vocode, batch)
        started = time.perf_counter()
        try:
            result = await asyncio.get_running_loop().run_in_executor(thread, function)
        except Exception as error:  # of whatever kind: the others are still to be served
            _settle(batch, error)
        else:
            _settle(batch, result)
        self._metrics.add("compute_seconds_total", time.perf_counter() - started)
        self._metrics.add("computations_total")

    def _vocode(self, batch: Sequence[_Job]) -> NDArray[np.float32]:
        mels = np.stack([job.mel for job in batch if job.mel is not None])
        self._metrics.add("batched_clips_total", len(batch))
        return (batch[0].vocoder or self.vocoder)(mels, seed=[job.seed for job in batch], **(batch[0].changes or {}))


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def _settle(batch: Sequence[_Job], result: Any) -> None:
    for i, job in enumerate(batch):
        if job.done.done():
            continue
        if isinstance(result, Exception):
            job.done.set_exception(result)
        else:
            job.done.set_result(result if job.mel is None else result[i])
