"""Everything a person sees: progress and tables.

In a terminal progress is a live display; elsewhere a plain line now and then. Both say what runs, how far it is, how
fast, and how long the whole will still take.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from melgpu import records
from melgpu.audio.quarantine import Flaw
from melgpu.audio.remote import is_url
from melgpu.data import dataset_check
from melgpu.data.dataset_check import Look
from melgpu.data.manifest import Manifest
from melgpu.errors import InputError
from melgpu.training.stage_timer import shares

LINE_EVERY_S, DETAIL_EVERY_S = 10.0, 1.0

console = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """A line for the reader, as is."""
    console.print(escape(text))


class Tracker:
    """Counts work that is measured in `unit`s; speed counts from the first unit done, without the start-up before."""

    def __init__(self, title: str, total: float, unit: str, bar: Progress | None):
        self.title, self.total, self.unit, self.bar = title, total, unit, bar
        self.done, self.note, self.last_line = 0.0, "", time.monotonic()
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
        self.note = self.note if note is None else note
        self._show()

    def seconds_left(self) -> float | None:
        """None until there is a speed."""
        if not self.worked:
            return None
        return (time.monotonic() - self.started) / self.worked * max(0.0, self.total - self.done)

    def pace(self) -> str:
        """How fast, and how long it will still take."""
        left = self.seconds_left()
        if left is None:
            return "estimating the time"
        rate = self.worked / max(1e-9, time.monotonic() - self.started)
        return f"{rate:.{0 if rate >= 10 else 1}f} {self.unit}/s, {duration(left)} left"

    def _show(self) -> None:
        left = self.pace()
        if self.bar and self._task is not None:
            self.bar.update(self._task, completed=self.done, left=left)
        elif time.monotonic() - self.last_line >= LINE_EVERY_S:
            self.last_line = time.monotonic()
            detail = "".join(f"; {line}" for line in self.detail.splitlines())
            say(f"{self.title}: {self.done / self.total:4.0%}  {self.note}  {left}{detail}")

    def __rich__(self) -> Group:
        lines = [
            Text(f"  {line}", style="dim", no_wrap=True) for line in [self.note, *self.detail.splitlines()] if line
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


def training_detail(loss: float, accuracy: float, best: float, seconds: Mapping[str, float]) -> str:
    """Two lines: how well a training does, and where its time goes; `best` is below 0 before the first validation."""
    so_far = f", {best:.3f} on validation at best" if best >= 0 else ""
    stages = ", ".join(f"{stage} {share:.0%}" for stage, share in shares(dict(seconds)).items() if share >= 0.005)
    return f"loss {loss:.3f}, accuracy {accuracy:.3f} on training windows{so_far}\ntime: {stages}"


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def score_table(title: str, scores: Mapping[str, Mapping[str, Mapping]]) -> Table:
    """Accuracies with their 95 % confidence intervals: a row a judge, a column a set of tracks; see `Judged.scores`."""
    table = Table(title=title, title_justify="left", box=SIMPLE, caption="accuracy on tracks, 95 % confidence interval")
    table.add_column("")
    columns = list(dict.fromkeys(column for cells in scores.values() for column in cells))
    for column in columns:
        cell = next(cells[column] for cells in scores.values() if column in cells)
        seen = f"\n{cell['trained_on']} trained on" if cell["trained_on"] else ""
        table.add_column(f"{column}\n{cell['tracks']} tracks{seen}", justify="right")
    for name, cells in scores.items():
        table.add_row(escape(name), *(_score(cells[c]) if c in cells else "" for c in columns))
    return table


def _score(score: Mapping) -> str:
    low, high = score["interval"]
    return f"{score['accuracy']:.3f} [dim]{low:.2f}-{high:.2f}[/dim]"


def doubt_line(judge: str, scores: Mapping[str, Mapping[str, Mapping]]) -> str | None:
    """What to think of a judge that is right less often than the mean of the networks on validation tracks."""
    own = scores[judge].get("validation")
    if own is None or own["gain"] >= 0:
        return None
    return (
        f"On validation tracks the plain mean of the networks is right more often than the {judge}: "
        f"{own['tracks']} may be too few to stack. A new run with --set stacking.answer=mean believes the mean"
    )


def gain_line(judge: str, scores: Mapping[str, Mapping[str, Mapping]]) -> str:
    """What a judge gains over the mean of the networks, with its 95 % interval; see `Judged.scores`."""
    gains = ((split, score["gain"], *score["gain_interval"]) for split, score in scores[judge].items())
    told = ", ".join(f"{split} {gain:+.3f} ({low:+.2f} to {high:+.2f})" for split, gain, low, high in gains)
    return f"{judge} against the mean of the networks: {told}"


def answer_table(paths: Sequence[str], probs: np.ndarray, class_names: Sequence[str], lost: Sequence[bool]) -> Table:
    """The three likeliest classes of each file, named from the folder that they share; probs (N, C)."""
    table = Table("file", "likeliest", "second", "third", box=SIMPLE)
    here = [path for path in paths if not is_url(path)]
    shared = os.path.commonpath([Path(path).absolute().parent for path in here]) if here else ""
    for path, own, is_lost in zip(paths, probs, lost, strict=True):
        best = own.argsort()[::-1][:3]
        answers = [f"{escape(class_names[c])} {own[c]:.0%}" for c in best] if not is_lost else ["not readable"]
        table.add_row(escape(path if is_url(path) else os.path.relpath(path, shared)), *answers)
    return table


def refuse_foreign(out: Path) -> None:
    """Raise InputError where `write_answers` would replace anything but what it has written itself."""
    if out.is_dir():
        raise InputError(f"--out {out}: a folder; name a file in it")
    if out.exists():
        with records.reading(out, "an earlier result of this script, which alone --out may replace") as (header, _):
            if (header[:1], header[-1:]) != (["file"], ["flaw"]):
                raise ValueError(f"its columns are {', '.join(header)}")


def write_answers(
    out: Path, paths: Sequence[str], probs: np.ndarray, class_names: Sequence[str], flaws: Mapping[str, Flaw]
) -> None:
    """Probabilities of all classes, (N, C), one row a file; empty cells for one that gave nothing."""
    rows = (_answer(path, own, flaws.get(path)) for path, own in zip(paths, probs, strict=True))
    records.write(out, ["file", *class_names, "flaw"], rows)


def _answer(path: str, probs: np.ndarray, flaw: Flaw | None) -> list[str]:
    cells = [""] * len(probs) if flaw and flaw.is_lost else [f"{p:.6f}" for p in probs]
    return [path, *cells, flaw.reason if flaw else ""]


def say_survey(
    paths: Sequence[str], found: Sequence[Look], tracks: Manifest | None, track_s: float, problems: Sequence[str]
) -> None:
    """What a check of a data set found: formats, lengths, silence, duplicates, labels, and what is wrong."""
    rates = Counter(f"{one.source_rate:,} Hz" for one in found if one.source_rate)
    channels = Counter(f"{one.channels} channels" if one.channels > 1 else "mono" for one in found if one.channels)
    say(f"{len(paths)} files: {_counts(rates)}; {_counts(channels)}")
    lengths = sorted(one.length_s for one in found if one.length_s)
    if lengths:
        short = sum(length < track_s - 1 for length in lengths)
        middle = lengths[len(lengths) // 2]
        say(f"lengths by their headers: {duration(lengths[0])} to {duration(lengths[-1])}, median {duration(middle)}")
        say(f"  {short} are shorter than a track of {duration(track_s)} and will be repeated up to it")
    _say_list("silent", [path for path, one in zip(paths, found, strict=True) if one.is_silent])
    where = _places(tracks) if tracks else [""] * len(paths)
    groups = dataset_check.same_content(paths, found)
    _say_list("groups of files with the same content", [" = ".join(paths[i] + where[i] for i in g) for g in groups])
    pairs = sorted(dataset_check.near_duplicates(found, groups), key=lambda pair: where[pair[0]] == where[pair[1]])
    names = [f"{paths[i]}{where[i]} ~ {paths[j]}{where[j]}: {e:.0%} of the bits differ" for i, j, e in pairs]
    _say_list("pairs that sound like the same recording", names)
    if tracks:
        say(f"labels: {_counts(Counter(label for label in tracks.labels if label))}")
    _say_list("problems", list(problems))


def _counts(counter: Counter) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counter.most_common()) or "none"


def _say_list(title: str, items: list[str]) -> None:
    say(f"{title}: {len(items) or 'none'}")
    for item in items:
        say(f"  {item}")


def _places(tracks: Manifest) -> list[str]:
    """What each track is for: a leak is a pair of two kinds."""
    folds = zip(tracks.splits, tracks.folds.tolist(), strict=True)
    return [f" (fold {fold})" if split == "train" else f" ({split} test)" for split, fold in folds]


def write_submission(path: Path, ids: Sequence[str], labels: Sequence[str]) -> None:
    """The competition's form: `Id,Genre`, one row a test track, in the order of the test list."""
    records.write(path, ("Id", "Genre"), zip(ids, labels, strict=True))
