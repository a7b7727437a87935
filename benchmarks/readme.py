"""README's table of the results that were kept, from their JSON and nothing else."""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from melgpu import files
from melgpu.errors import InputError

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: written by python -m benchmarks readme -->", "<!-- end of results -->"
Line = tuple[str, str, str]  # what, how much, of its limit


def of_suite(result: dict) -> Iterator[Line]:
    for row in result["rows"]:
        if not row.get("curve"):
            limit = f"{_share(row['windows_per_s'] / row['limit_windows_per_s'])} of {row['limit']}"
            yield f"{row['stage']}: {row['way']}", f"{_rate(row['windows_per_s'])} windows/s", limit


def of_tune(result: dict) -> Iterator[Line]:
    for what in ("training", "prediction"):
        own = result["versus"][what]
        ratios = [tuned / default for tuned, default in zip(own["tuned"], own["default"], strict=True)]
        times = f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f}-{max(ratios):.2f})"
        yield f"{what} {result['versus']['backbone']} from files, tuned against default", times, ""


def of_compare(result: dict) -> Iterator[Line]:
    for row in result["rows"][1:]:
        middle, low, high = row["base_is_times_as_fast"]
        yield f"melgpu beside {row['way']}", f"{middle:.2f} times as fast ({low:.2f}-{high:.2f})", ""


def of_cost(result: dict) -> Iterator[Line]:
    usual, most = (own / 3600 for own in result["whole_s"])
    yield "the whole recipe, 20 epochs to all epochs", f"{_rate(usual)} to {_rate(most)} h", ""
    for tracks, own in result["libraries_s"].items():
        yield f"judging {int(tracks):,} tracks", f"{_rate(own / 3600)} h", ""


def of_decode(result: dict) -> Iterator[Line]:
    most = max(row["workers"] for row in result["rows"])
    for row in result["rows"]:
        if (row["way"], row["workers"]) == ("melgpu", most):
            what = f"decode: {row['files']}, {most} processes"
            yield (
                what,
                f"{row['times_real_time']:,.0f} times real time",
                f"{_share(row['share_of_limit'])} of bare decoding",
            )


def of_features(result: dict) -> Iterator[Line]:
    for row in result["rows"]:
        limit = f"{_share(row['share_of_limit'])} of {row['limit']}" if row["front_end"].startswith("melgpu") else ""
        what = f"features: {row['front_end']}, batch of {row['batch_size']}"
        yield what, f"{_rate(row['windows_per_s'])} windows/s", limit


def of_stream(result: dict) -> Iterator[Line]:
    for row in result["rows"]:
        most = row["limit_windows_per_s"]
        limit = f"{_share(row['windows_per_s'] / most)} of a copy" if most else ""
        yield f"stream: {row['way']}", f"{_rate(row['windows_per_s'])} windows/s", limit


def of_train(result: dict) -> Iterator[Line]:
    for row in result["rows"]:
        rate = result["batch_size"] / row["seconds_a_step"]["from files"]
        yield f"train: {row['backbone']}, from files", f"{_rate(rate)} windows/s", ""


def of_predict(result: dict) -> Iterator[Line]:
    limit = f"{_share(result['share_of_the_networks'])} of the networks alone"
    yield f"predict: {result['models']} networks", f"{_rate(result['tracks_per_s'])} tracks/s", limit


def of_parity(result: dict) -> Iterator[Line]:
    for engine, row in result["engines"].items():
        yield f"parity: {engine}", f"{row['max_db']:.4f} dB at most, {row['mean_db']:.6f} dB on average", ""


KINDS = {name.removeprefix("of_"): call for name, call in list(globals().items()) if name.startswith("of_")}


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def block(folder: Path = RESULTS) -> str:
    """The part of README between its two comments, with both. Raises InputError for a file that is no result."""
    parts = [BEGIN]
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        if result.get("benchmark") not in KINDS:
            raise InputError(f"{path}: no result of a benchmark")
        made = (
            f"torch {result['packages']['torch']}, {result['date'][:10]}, commit {(result['git_commit'] or 'none')[:7]}"
        )
        device = result["device"] + (f", driver {result['driver']}" if result.get("driver") else "")
        parts += ["", f"[`{path.stem}`](benchmarks/results/{path.name}): {device}; {made}", ""]
        parts += ["| | measured | of its limit |", "|---|---|---|"]
        parts += [f"| {' | '.join(line)} |" for line in KINDS[result["benchmark"]](result)]
    return "\n".join([*parts, "", END])


def written_anew(text: str, made: str) -> str:
    """README's text with another block. Raises InputError where the comments are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"README.md: the lines {BEGIN} and {END} are missing")
    return before + made + after


def main(args) -> int:
    """Write README.md's table anew."""
    path = ROOT / "README.md"
    files.write_text(path, written_anew(path.read_text(), block()))
    print(f"{path}: the table of results is that of {RESULTS}")
    return 0
