"""How fast do audio files become samples, and how near is that to what the decoders themselves can do?

    python -m benchmarks.bench_decode [--music FOLDER] [--formats mp3 ogg flac wav] [--workers 1 2] [--plot FILE.png]

Ways to get the 20 s windows of two-minute tracks at the recipe's rate, side by side in as many processes, on the same
files. The limit is libsndfile reading into one buffer and soxr resampling as many samples, and nothing else. A rate
above its limit fails the run.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import soundfile
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import corpus, plots, timing
from benchmarks.cli import arguments, recipe_of
from benchmarks.references import baselines
from melgpu import cli
from melgpu.audio import worker
from melgpu.audio.pool import WorkerPool
from melgpu.audio.quarantine import AudioError
from melgpu.data import windows
from melgpu.errors import InputError
from melgpu.recipe import Recipe


def ways(recipe: Recipe, target: str) -> dict[str, tuple[Callable, tuple]]:
    """Functions that a decoding process calls, with what follows the path."""
    audio = recipe.audio
    job = audio.sample_rate, audio.track_s
    return {
        "limit": (baselines.limit, job),
        "soundfile, soxr": (baselines.raw, job),
        "melgpu": (
            worker.decode_to_file,
            (audio.sample_rate, windows.to_samples(audio.track_s, audio.sample_rate), target, 0),
        ),
        "NumPy's mean": (baselines.by_hand, job),
        "seeking": (baselines.seek_windows, job),
        "librosa": (baselines.librosa_load, job),
    }


def track_seconds(paths: list[str], most: float) -> float:
    """Audio that the tracks hold, as far as the recipe uses it."""
    return sum(min(most, soundfile.info(path).duration) for path in paths)


def measure(call: Callable, more: tuple, paths: list[str], workers: int, repeats: int) -> list[float]:
    """Seconds to call a function for all paths, in `workers` processes that are warm. Raises InputError for a flaw."""
    samples = []
    with WorkerPool(workers, 600.0) as pool:
        for repeat in range(repeats + 1):
            started = time.perf_counter()
            for answer in [pool.submit(call, path, *more) for path in paths]:
                if isinstance(audio_error := answer.result(), AudioError):
                    raise InputError(str(audio_error))
            if repeat:  # the first one warms up
                samples.append(time.perf_counter() - started)
    return samples


def run(recipe: Recipe, sets: dict[str, list[str]], workers: list[int], repeats: int, target: str) -> dict:
    """Time every way on every set of files."""
    import torch

    result = {"benchmark": "decode", **timing.machine(torch.device("cpu")), "rows": []}
    for name, paths in sets.items():
        audio_s = track_seconds(paths, recipe.audio.track_s)
        for count in workers:
            most = None
            for way, (call, more) in ways(recipe, target).items():
                samples = measure(call, more, paths, count, repeats)
                middle, low, high = timing.spread(samples)
                most = most or audio_s / min(samples)
                row = {"files": name, "workers": count, "way": way, "times_real_time": audio_s / middle}
                row |= {"quartiles": [audio_s / high, audio_s / low], "share_of_limit": audio_s / middle / most}
                result["rows"].append({**row, "samples_s": samples})
    return result


def table(result: dict) -> Table:
    names = list(dict.fromkeys(row["way"] for row in result["rows"]))
    shown = Table(
        title=f"Decoding on {result['device']}, audio seconds a second (share of the limit)",
        caption="medians; quartiles are in the JSON",
        box=SIMPLE,
    )
    shown.add_column("files")
    for column in ("processes", *names):
        shown.add_column(column, justify="right")
    lines: dict[tuple, dict] = {}
    for row in result["rows"]:
        rate = f"{row['times_real_time']:,.0f} ({row['share_of_limit']:.0%})"
        lines.setdefault((row["files"], row["workers"]), {})[row["way"]] = rate
    for (files, workers), rates in lines.items():
        shown.add_row(files, str(workers), *(rates[name] for name in names))
    return shown


def plot(result: dict, path: Path) -> None:
    """Rates by way, one group of bars a set of files, at the largest number of processes."""
    most = max(row["workers"] for row in result["rows"])
    rates = {(r["way"], r["files"]): r["times_real_time"] for r in result["rows"] if r["workers"] == most}
    plots.bars(rates, f"audio seconds a second, {most} processes", f"Decoding, {result['device']}", path)


def main(given: list[str] | None = None) -> int:
    parser = arguments(__doc__, tracks=8)
    parser.add_argument("--formats", nargs="+", default=["mp3", "ogg", "flac", "wav"], help="of composed music")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1], help="processes")
    parser.add_argument("--repeats", type=int, default=5, help="times that each figure is taken (default: 5)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="keep a plot")
    args = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as folder:
        sets = {str(args.music): corpus.own(args.music, args.tracks)} if args.music else {}
        for form in [] if args.music else args.formats:
            (Path(folder) / form).mkdir()
            sets[form] = corpus.compose(Path(folder) / form, form, args.tracks)
        target = Path(folder) / "pcm"
        target.touch()
        result = run(recipe_of(args), sets, args.workers, args.repeats, str(target))
    timing.console().print(table(result))
    if args.plot:
        plot(result, args.plot)
    beyond = (row["way"] for row in result["rows"] if row["share_of_limit"] > timing.TOLERANCE)
    return timing.finish(result, args.out, beyond)


if __name__ == "__main__":
    cli.run(main)
