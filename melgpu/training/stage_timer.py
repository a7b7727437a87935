"""Seconds of each stage of the training loop, measured without synchronizing with the device.

On a GPU marks are CUDA events in the current stream, read once they are complete; on a CPU they are clock times.
"""

import time
from collections import defaultdict, deque
from typing import Any

import torch

STAGES = ("audio", "pictures", "network", "other", "validation")  # audio: waiting for a batch; other: the caller's work
MAX_PENDING = 1000  # marks that are not read yet; by then the oldest are complete


class StageTimer:
    """Seconds by stage; call `mark` with the stage that has just ended, or None to discard the time since the last."""

    def __init__(self, device: torch.device):
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._marks: deque[tuple[str | None, Any]] = deque()  # CUDA events on a GPU, else clock times in s
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def mark(self, stage: str | None) -> None:
        self._marks.append((stage, self._now()))
        if len(self._marks) > MAX_PENDING:  # a loop that never asks for its seconds would keep all marks
            self._read()

    def seconds(self, wait: bool = False) -> dict[str, float]:
        """Seconds by stage of the work that the device has completed; with `wait`, of all work queued so far."""
        if wait and self._on_gpu and self._marks:
            _, last_event = self._marks[-1]
            last_event.synchronize()
        self._read()
        return dict(self._seconds)

    def restart(self) -> None:
        self._marks.clear()
        self._seconds.clear()

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self) -> None:
        while len(self._marks) > 1:  # the last mark stays, as the start of the next stage
            _, start = self._marks[0]
            stage, end = self._marks[1]
            if self._on_gpu and not end.query():
                return  # later marks of the same stream are not complete either
            if stage is not None:
                self._seconds[stage] += start.elapsed_time(end) / 1000 if self._on_gpu else end - start  # ms to s
            self._marks.popleft()


def fractions(seconds: dict[str, float]) -> dict[str, float]:
    """Each stage's fraction of the total time, the largest first."""
    total_s = sum(seconds.values()) or 1.0  # 0 as long as no stage is complete
    return {stage: stage_s / total_s for stage, stage_s in sorted(seconds.items(), key=lambda item: -item[1])}


def throughput(timer: StageTimer, steps: int) -> dict[str, float]:
    """Training steps per second of the epoch, and the seconds of each stage."""
    seconds = timer.seconds(wait=True)  # the marks of the last steps may be pending
    train_s = sum(stage_s for stage, stage_s in seconds.items() if stage != "validation")
    rounded = {f"{stage}_s": round(seconds.get(stage, 0.0), 3) for stage in STAGES}
    steps_per_s = round(steps / max(train_s, 1e-9), 3)  # 1e-9 s: no division by 0
    return {"steps_per_s": steps_per_s} | rounded
