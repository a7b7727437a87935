"""How fast do audio files become samples, and how near is that to the limit of the decoders?

    python -m benchmarks.bench_decode [--music FOLDER] [--formats mp3 ogg flac wav] [--workers 1 2] [--plot FILE.png]

melgpu's decoder and its baselines, on the same two-minute files in as many processes, to samples at the recipe's rate.
The limit is libsndfile reading into one buffer and soxr resampling as many samples, and nothing else. A rate above its
limit fails the run.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import soundfile
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import corpus, plots, timing
from benchmarks.cli import make_parser, recipe_of
from benchmarks.references import baselines
from melgpu import cli
from melgpu.audio import worker
from melgpu.audio.pool import WorkerPool
from melgpu.audio.quarantine import AudioError
from melgpu.data import windows
from melgpu.errors import InputError
from melgpu.machine import num_usable_cores
from melgpu.recipe import Recipe


def variants(recipe: Recipe, target: str) -> dict[str, tuple[Callable, tuple]]:
    """Functions that a worker process calls, with their arguments after the path; `target` is a file for PCM."""
    audio = recipe.audio
    track_args = audio.sample_rate, audio.track_s
    return {
        "limit": (baselines.decode_limit, track_args),
        "soundfile, soxr": (baselines.soundfile_soxr, track_args),
        "melgpu": (
            worker.decode_to_file,
            (audio.sample_rate, windows.to_samples(audio.track_s, audio.sample_rate), target, 0),
        ),
        "NumPy's mean": (baselines.numpy_mean, track_args),
        "seeking": (baselines.seek_windows, track_args),
        "librosa": (baselines.librosa_load, track_args),
    }


def total_seconds(paths: list[str], track_s: float) -> float:
    """Seconds of audio in the files, at most `track_s` of each."""
    return sum(min(track_s, soundfile.info(path).duration) for path in paths)


def measure(call: Callable, args: tuple, paths: list[str], workers: int, repeats: int) -> list[float]:
    """Seconds to call a function for all paths, in `workers` warm processes. Raises InputError for an audio error."""
    samples = []
    with WorkerPool(workers, 600.0) as pool:
        for repeat in range(repeats + 1):
            started = time.perf_counter()
            for future in [pool.submit(call, path, *args) for path in paths]:
                if isinstance(audio_error := future.result(), AudioError):
                    raise InputError(str(audio_error))
            if repeat:  # the first is a warm-up
                samples.append(time.perf_counter() - started)
    return samples


def run(recipe: Recipe, sets: dict[str, list[str]], workers: list[int], repeats: int, target: str) -> dict:
    """Time all variants on every set of files."""
    import torch

    result = {"benchmark": "decode", **timing.describe_machine(torch.device("cpu")), "rows": []}
    for name, paths in sets.items():
        audio_s = total_seconds(paths, recipe.audio.track_s)
        for count in workers:
            limit = None
            for variant, (call, args) in variants(recipe, target).items():
                samples = measure(call, args, paths, count, repeats)
                median, low, high = timing.median_and_quartiles(samples)
                limit = limit or audio_s / min(samples)  # the first variant is the limit
                row = {"files": name, "workers": count, "way": variant, "times_real_time": audio_s / median}
                row |= {"quartiles": [audio_s / high, audio_s / low], "share_of_limit": audio_s / median / limit}
                result["rows"].append({**row, "samples_s": samples})
    return result


def make_table(result: dict) -> Table:
    names = list(dict.fromkeys(row["way"] for row in result["rows"]))
    table = Table(
        title=f"Decoding on {result['device']}, audio seconds a second (fraction of the limit)",
        caption="medians; quartiles are in the JSON",
        box=SIMPLE,
    )
    table.add_column("files")
    for column in ("processes", *names):
        table.add_column(column, justify="right")
    lines: dict[tuple, dict] = {}
    for row in result["rows"]:
        rate = f"{row['times_real_time']:,.0f} ({row['share_of_limit']:.0%})"
        lines.setdefault((row["files"], row["workers"]), {})[row["way"]] = rate
    for (files, workers), rates in lines.items():
        table.add_row(files, str(workers), *(rates[name] for name in names))
    return table


def plot(result: dict, path: Path) -> None:
    """Rates by variant, one group of bars a set of files, at the largest number of processes."""
    max_workers = max(row["workers"] for row in result["rows"])
    rates = {(r["way"], r["files"]): r["times_real_time"] for r in result["rows"] if r["workers"] == max_workers}
    plots.bars(rates, f"audio seconds a second, {max_workers} processes", f"Decoding, {result['device']}", path)


def main(argv: list[str] | None = None) -> int:
    parser = make_parser(__doc__, tracks=8)
    parser.add_argument("--formats", nargs="+", default=["mp3", "ogg", "flac", "wav"], help="of the synthetic music")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, num_usable_cores()], help="processes")
    parser.add_argument("--repeats", type=int, default=5, help="samples of each variant (default: 5)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="save a plot")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        sets = {str(args.music): corpus.select(args.music, args.tracks)} if args.music else {}
        for suffix in [] if args.music else args.formats:
            (Path(folder) / suffix).mkdir()
            sets[suffix] = corpus.compose(Path(folder) / suffix, suffix, args.tracks)
        target = Path(folder) / "pcm"
        target.touch()
        result = run(recipe_of(args), sets, args.workers, args.repeats, str(target))
    timing.console().print(make_table(result))
    if args.plot:
        plot(result, args.plot)
    implausible = (row["way"] for row in result["rows"] if row["share_of_limit"] > timing.TOLERANCE)
    return timing.finish(result, args.out, implausible)


if __name__ == "__main__":
    cli.run(main)
