"""Everything a person sees: progress and tables.

In a terminal progress is a live display; elsewhere a plain line now and then. Both say what runs, how far it is, how
fast, and how long the whole will still take.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

LINE_EVERY_S, DETAIL_EVERY_S = 10.0, 1.0

console = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line for the reader, as is."""
    console.print(escape(text))


def show(renderable: RenderableType) -> None:
    """A table, or whatever else rich renders."""
    console.print(renderable)


def silence(quiet: bool) -> None:
    """Whether this process says nothing: of several only the main process speaks."""
    console.quiet = quiet


class Tracker:
    """Counts work that is measured in `unit`s; speed counts from the first unit done, without the start-up before."""

    def __init__(self, title: str, total: float, unit: str, bar: Progress | None):
        self.title, self.total, self.unit, self.bar = title, total, unit, bar
        self.done, self.description, self.last_line = 0.0, "", time.monotonic()
        self.detail, self._last_detail = "", -DETAIL_EVERY_S
        self.worked, self.started = 0.0, 0.0  # since the first unit
        self._task = bar.add_task(title, total=total, left="") if bar else None

    def wants_detail(self) -> bool:
        """Whether it is time for a new `detail`, a text of some lines; what it needs may cost a wait for the device."""
        since, every = (self._last_detail, DETAIL_EVERY_S) if self.bar else (self.last_line, LINE_EVERY_S)
        if time.monotonic() - since < every:
            return False
        self._last_detail = time.monotonic()
        return True

    def advance(self, amount: float, note: str | None = None) -> None:
        if amount and not self.started:
            self.started = time.monotonic()
        elif amount:
            self.worked += amount
        self._move(amount, note)

    def skip(self, amount: float) -> None:
        """Work that turned out not to be needed: done, but not a measure of speed."""
        self._move(amount, None)

    def _move(self, amount: float, note: str | None) -> None:
        self.done += amount
        self.description = self.description if note is None else note
        self._show()

    def seconds_left(self) -> float | None:
        """None until there is a speed."""
        if not self.worked:
            return None
        return (time.monotonic() - self.started) / self.worked * max(0.0, self.total - self.done)

    def speed_text(self) -> str:
        """How fast, and how long it will still take."""
        left = self.seconds_left()
        if left is None:
            return "estimating the time"
        rate = self.worked / max(1e-9, time.monotonic() - self.started)
        return f"{rate:.{0 if rate >= 10 else 1}f} {self.unit}/s, {duration(left)} left"

    def _show(self) -> None:
        left = self.speed_text()
        if self.bar and self._task is not None:
            self.bar.update(self._task, completed=self.done, left=left)
        elif time.monotonic() - self.last_line >= LINE_EVERY_S:
            self.last_line = time.monotonic()
            detail = "".join(f"; {line}" for line in self.detail.splitlines())
            say(f"{self.title}: {self.done / self.total:4.0%}  {self.description}  {left}{detail}")

    def __rich__(self) -> Group:
        lines = [
            Text(f"  {line}", style="dim", no_wrap=True)
            for line in [self.description, *self.detail.splitlines()]
            if line
        ]
        return Group(self.bar, *lines) if self.bar else Group(*lines)


@contextmanager
def progress(title: str, total: float, unit: str) -> Iterator[Tracker]:
    """Show a long piece of work while the block runs."""
    if not console.is_terminal:
        say(f"{title}: 0%")
        yield Tracker(title, total, unit, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.percentage:3.0f}%"))
    bar = Progress(*columns, TextColumn("{task.fields[left]}"), console=console)
    tracker = Tracker(title, total, unit, bar)
    with Live(tracker, console=console):
        yield tracker


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
