"""Where the time goes: seconds of each stage of a loop, told without waiting for the device.

On a GPU marks are events in its current stream, read once they have happened; on a CPU they are the clock's.
"""

import time
from collections import Counter, deque

import torch

MAX_PENDING = 1000  # events not read yet; older ones have long happened


class StageTimer:
    """Seconds by stage; call `mark` with the stage that has just ended, and None where the time before is nobody's."""

    def __init__(self, device: torch.device):
        self._device, self._on_gpu = device, device.type == "cuda"
        self._marks: deque[tuple[str | None, torch.cuda.Event | float]] = deque()
        self._seconds: Counter[str] = Counter()

    def mark(self, stage: str | None) -> None:
        self._marks.append((stage, self._now()))
        if len(self._marks) > MAX_PENDING:
            self._read()

    def seconds(self, wait: bool = False) -> dict[str, float]:
        """Seconds by stage, of all that the device has done by now, or (`wait`) will have done."""
        if wait and self._on_gpu and self._marks:
            self._marks[-1][1].synchronize()
        self._read()
        return dict(self._seconds)

    def restart(self) -> None:
        self._marks.clear()
        self._seconds.clear()

    def _now(self) -> torch.cuda.Event | float:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self) -> None:
        while len(self._marks) > 1:
            (_, begin), (stage, end) = self._marks[0], self._marks[1]
            if self._on_gpu and not end.query():
                return
            if stage is not None:
                self._seconds[stage] += begin.elapsed_time(end) / 1000 if self._on_gpu else end - begin
            self._marks.popleft()


def fractions(seconds: dict[str, float]) -> dict[str, float]:
    """Each stage's share of the whole, the largest first."""
    whole = sum(seconds.values()) or 1.0
    return {stage: own / whole for stage, own in sorted(seconds.items(), key=lambda item: -item[1])}
