"""Console output: lines, tables and progress.

In a terminal progress is a live display; elsewhere a plain line every `LINE_EVERY_S`. Both show the stage, the fraction
done, the throughput and the estimated time left.
"""

import functools
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

MAX_WIDTH = 1_000_000  # of a table without a terminal: in a file or a pipe nothing is cut or wrapped
LINE_EVERY_S = 10.0  # without a terminal
DETAIL_EVERY_S = 1.0  # in a terminal; a detail may synchronize with the device
RATE_PERIOD_S = 300.0  # of the throughput: long enough for uneven work, short enough to recover from a pause
RATE_SAMPLE_EVERY_S = 0.1  # bounds the memory of a fast loop

console = Console(highlight=False, soft_wrap=True)  # no line breaks of rich's: printed commands can be pasted


def say(text: str) -> None:
    """Print a line without markup."""
    console.print(escape(text))  # a file name with brackets is no markup


@functools.cache
def say_once(text: str) -> None:
    """Print a line, the first time that this process has it to print."""
    say(text)


def show(renderable: RenderableType) -> None:
    """Print a table, or whatever else rich renders; without a terminal as wide as it needs."""
    if not console.is_terminal:
        console.width = MAX_WIDTH
    console.print(renderable)


def set_quiet(quiet: bool) -> None:
    """Whether this process prints nothing: of several only the main process prints."""
    console.quiet = quiet


class Tracker:
    """Progress of `total` units of work; the throughput is the recent one, without the start-up."""

    def __init__(self, title: str, total: float, unit: str, bar: Progress | None):
        self.title = title
        self.total = total
        self.unit = unit
        self.bar = bar
        self.done = 0.0
        self.description = ""
        self.detail = ""
        self._last_line = time.monotonic()
        self._last_detail = -DETAIL_EVERY_S
        self._timed_amount = 0.0  # done after the first unit
        self._rate_samples: deque[tuple[float, float]] = deque()  # (time, timed amount), of the last RATE_PERIOD_S
        self._task = bar.add_task(title, total=total, speed="") if bar else None

    def is_detail_due(self) -> bool:
        """Whether a new `detail`, a text of some lines, is due; making it may synchronize with the device."""
        last = self._last_detail if self.bar else self._last_line  # a detail is part of a plain line
        interval = DETAIL_EVERY_S if self.bar else LINE_EVERY_S
        if time.monotonic() - last < interval:
            return False
        self._last_detail = time.monotonic()
        return True

    def advance(self, amount: float, note: str | None = None) -> None:
        if amount:
            self._sample_rate(amount)
        self._update(amount, note)

    def skip(self, amount: float) -> None:
        """Count work that is not needed as done, without an effect on the throughput."""
        self._update(amount, None)

    def _sample_rate(self, amount: float) -> None:
        samples = self._rate_samples
        now = time.monotonic()
        if samples:  # the first unit contains the start-up and is not timed
            self._timed_amount += amount
        if len(samples) > 1 and samples[-1][0] - samples[-2][0] < RATE_SAMPLE_EVERY_S:
            samples.pop()  # the new one takes its place
        samples.append((now, self._timed_amount))
        while len(samples) > 2 and samples[0][0] < now - RATE_PERIOD_S:  # a rate needs two, however long the steps
            samples.popleft()

    def _update(self, amount: float, note: str | None) -> None:
        self.done += amount
        self.description = self.description if note is None else note
        self._refresh()

    def rate(self) -> float | None:
        """The recent throughput, in units a second; None until there is one."""
        if not self._timed_amount:
            return None
        start, amount_at_start = self._rate_samples[0]
        end, amount_at_end = self._rate_samples[-1]
        # Two units may be done within one tick of the clock.
        return (amount_at_end - amount_at_start) / (end - start) if end > start else None

    def speed_text(self) -> str:
        """The throughput and the estimated time left."""
        rate = self.rate()
        if rate is None:
            return "estimating the time"
        seconds_left = max(0.0, self.total - self.done) / rate
        decimals = 0 if rate >= 10 else 1
        return f"{rate:.{decimals}f} {self.unit}/s, {duration(seconds_left)} left"

    def _refresh(self) -> None:
        speed = self.speed_text()
        if self.bar and self._task is not None:
            self.bar.update(self._task, completed=self.done, speed=speed)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            detail = "".join(f"; {line}" for line in self.detail.splitlines())
            say(f"{self.title}: {self.done / self.total:4.0%}  {self.description}  {speed}{detail}")

    def __rich__(self) -> Group:
        below_bar = [self.description, *self.detail.splitlines()]
        lines = [Text(f"  {line}", style="dim", no_wrap=True) for line in below_bar if line]
        return Group(self.bar, *lines) if self.bar else Group(*lines)


@contextmanager
def progress(title: str, total: float, unit: str) -> Iterator[Tracker]:
    """Show the progress of a long stage while the block runs."""
    if not console.is_terminal:
        say(f"{title}: 0%")
        yield Tracker(title, total, unit, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.percentage:3.0f}%"))
    bar = Progress(*columns, TextColumn("{task.fields[speed]}"), console=console)
    tracker = Tracker(title, total, unit, bar)
    with Live(tracker, console=console):
        yield tracker


def counted(number: int, noun: str) -> str:
    """`1 network`, `2 networks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """`m:ss` or `h:mm:ss`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
