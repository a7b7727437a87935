"""The tables of the results that were kept, from their JSON and nothing else.

`benchmarks/results/README.md` shows all of them, the project's README those of HEADLINES.
"""

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from melgpu import files
from melgpu.errors import InputError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: written by python -m benchmarks readme -->", "<!-- end of results -->"
Rows = Iterator[tuple[str, ...]]  # the first is the head


class Kind(NamedTuple):
    """What a benchmark's results show: one table, and how it is made again."""

    title: str
    command: str
    rows: Callable[[dict], Rows]


def suite(result: dict) -> Rows:
    yield "stage", "windows/s", "of its limit"
    for row in result["rows"]:
        if not row.get("curve"):
            limit = f"{_share(row['windows_per_s'] / row['limit_windows_per_s'])} of {row['limit']}"
            yield f"{row['stage']}: {row['way']}", _rate(row["windows_per_s"]), limit


def tune(result: dict) -> Rows:
    found = result["versus"]
    yield f"{found['backbone']} from files", "default, windows/s", "tuned, windows/s", "times as fast"
    for what in ("training", "prediction"):
        default, tuned = found[what]["default"], found[what]["tuned"]
        ratios = [new / old for new, old in zip(tuned, default, strict=True)]
        spread = _spread((statistics.median(ratios), min(ratios), max(ratios)))
        yield what, _rate(statistics.median(default)), _rate(statistics.median(tuned)), spread


def compare(result: dict) -> Rows:
    yield "way", "windows/s", "melgpu on the fly is times as fast", "on disk", "until the first step"
    for row in result["rows"]:
        wait = "" if row["wait_s"] is None else f"{row['wait_s'] / 60:.1f} min"
        disk = f"{row['disk_bytes'] / 1e9:.1f} GB"
        yield row["way"], _rate(row["windows_per_s"]), _spread(row["base_is_times_as_fast"]), disk, wait


def cost(result: dict) -> Rows:
    yield "work", "hours"
    yield "the whole recipe, 20 epochs to all epochs", " to ".join(_rate(own / 3600) for own in result["whole_s"])
    for tracks, own in result["libraries_s"].items():
        yield f"judging {int(tracks):,} tracks", _rate(own / 3600)


def decode(result: dict) -> Rows:
    most = max(row["workers"] for row in result["rows"])
    rows = {(row["way"], row["files"]): row for row in result["rows"] if row["workers"] == most}
    ways, formats = (list(dict.fromkeys(key[part] for key in rows)) for part in (0, 1))
    yield f"audio s/s in {most} processes (of bare decoding)", *formats
    for way in ways:
        own = (rows[way, name] for name in formats)
        yield way, *(f"{row['times_real_time']:,.0f} ({_share(row['share_of_limit'])})" for row in own)


def features(result: dict) -> Rows:
    yield "front end", "windows at once", "windows/s", "of bare FFT", "peak MiB"
    for row in result["rows"]:
        rate, share = _rate(row["windows_per_s"]), _share(row["share_of_limit"])
        yield row["front_end"], str(row["batch_size"]), rate, share, f"{row['peak_mib']:,.0f}"


def loader(result: dict) -> Rows:
    yield "way", "windows/s", "of a copy", "first batch after", "MiB in the first and last epoch"
    for row in result["rows"]:
        limit, memory = row["limit_windows_per_s"], row.get("memory_mib")
        share = _share(row["windows_per_s"] / limit) if limit else ""
        held = f"{memory[0]:,.0f} and {memory[-1]:,.0f}" if memory else ""
        yield row["way"], _rate(row["windows_per_s"]), share, f"{row['first_batch_s']:.2f} s", held


def train(result: dict) -> Rows:
    ways = list(result["rows"][0]["seconds_a_step"])
    yield f"ms a step of {result['batch_size']} windows", *ways
    for row in result["rows"]:
        yield row["backbone"], *(f"{1000 * row['seconds_a_step'][way]:,.0f}" for way in ways)


def predict(result: dict) -> Rows:
    yield "networks", "s a track", "of the networks alone"
    yield str(result["models"]), _rate(1 / result["tracks_per_s"]), _share(result["share_of_the_networks"])


def parity(result: dict) -> Rows:
    yield "engine", "dB at most", "dB on average"
    for engine, row in result["engines"].items():
        yield engine, f"{row['max_db']:.4f}", f"{row['mean_db']:.6f}"


KINDS = {
    "suite": Kind("Each stage alone, then overlapped, beside what the machine can do at most", "", suite),
    "tune": Kind("Tuned settings beside the default ones", " tune", tune),
    "compare": Kind("From the same files to pictures, by turns", " compare", compare),
    "cost": Kind("The whole recipe on this machine", " cost", cost),
    "decode": Kind("Files to samples", ".bench_decode", decode),
    "features": Kind("Waveforms to pictures", ".bench_features", features),
    "loader": Kind("Files to batches", ".bench_stream", loader),
    "train": Kind("Training from files, and from what is ready", ".bench_train", train),
    "predict": Kind("The ensemble's judgement of a track", ".bench_predict", predict),
    "parity": Kind("How exact the engines are", ".parity", parity),
}
HEADLINES = ("suite", "tune", "compare")


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _spread(ratio: tuple[float, float, float]) -> str:
    middle, low, high = ratio
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def load(folder: Path = RESULTS) -> dict[Path, dict]:
    """The results in a folder, in the order of KINDS. Raises InputError for no result, or a first look."""
    results = {path: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    for path, result in results.items():
        if result.get("benchmark") not in KINDS:
            raise InputError(f"{path}: no result of a benchmark")
        if result.get("quick"):
            raise InputError(f"{path}: a first look (--quick), which is not to be shown")
    index = list(KINDS)
    return dict(sorted(results.items(), key=lambda found: index.index(found[1]["benchmark"])))


def section(path: Path, result: dict, link: str) -> str:
    """One result: what it is, what it was taken on, its table."""
    kind = KINDS[result["benchmark"]]
    device = result["device"] + (f", driver {result['driver']}" if result.get("driver") else "")
    commit = (result["git_commit"] or "none")[:7]
    made = f"{device}; torch {result['packages']['torch']}, {result['date'][:10]}, commit {commit}"
    head, *rows = kind.rows(result)
    table = "\n".join(f"| {' | '.join(line)} |" for line in [head, ("---",) * len(head), *rows])
    how = f"`python -m benchmarks{kind.command}`, [{path.name}]({link}{path.name})"
    return f"**{kind.title}** ({how}: {made}):\n\n{table}"


def block(results: dict[Path, dict]) -> str:
    """The part of README between its two comments, with both."""
    own = (item for item in results.items() if item[1]["benchmark"] in HEADLINES)
    return "\n\n".join([BEGIN, *(section(path, result, "benchmarks/results/") for path, result in own), END])


def catalogue(results: dict[Path, dict]) -> str:
    """All results that were kept, as a text of their own."""
    intro = "# Results that were kept\n\nWritten by `python -m benchmarks readme` from the JSON files beside it."
    return "\n\n".join([intro, *(section(path, result, "") for path, result in results.items())]) + "\n"


def written_anew(text: str, made: str) -> str:
    """README's text with another block. Raises InputError where the comments are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"README.md: the lines {BEGIN} and {END} are missing")
    return before + made + after


def main(args) -> int:
    """Write the tables anew: README.md's, and README.md beside the results."""
    path, results = ROOT / "README.md", load(RESULTS)
    text = written_anew(path.read_text(), block(results))
    files.write_text(RESULTS / "README.md", catalogue(results))
    files.write_text(path, text)
    print(f"{path} and {RESULTS / 'README.md'} show the results in {RESULTS}")
    return 0
