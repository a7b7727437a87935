"""The whole suite: each stage alone, then overlapped, with its physical limit; the bottleneck, and what to change."""

import argparse
import tempfile
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import measurement, plots, roofline, timing
from benchmarks.commands import bottleneck
from benchmarks.commands.bench import Bench, prepare
from benchmarks.commands.saved import SavedSuite
from benchmarks.commands.stages import STAGES
from melgpu.errors import InputError


def run(bench: Bench, names: list[str], out: Path | None = None) -> dict:
    """Measure stages, merged with those in the file `out`, which is written after each row; then advise.

    What fails costs its row. Raises InputError for a file of another machine or recipe, and where nothing succeeds.
    """
    recipe = bench.recipe
    metadata = {**bench.metadata(), "track_windows": bench.track_windows, "track_s": recipe.audio.track_s}
    metadata |= {"engine": measurement.front_end(recipe, bench.device).engine_on(bench.device)}
    saved = SavedSuite(out, metadata)
    for i, name in enumerate(names, start=1):
        with saved.stage(name):
            for way, measure in STAGES[name](bench):
                saved.add(name, way, measure)
                _say(f"{i}/{len(names)} {name}: {saved.last}")
    result = saved.result
    result["rows"].sort(key=lambda measured: list(STAGES).index(measured["stage"]))  # stable: those merged in between
    if not result["rows"]:
        raise InputError([f"{failure['stage']}, {failure['way']}: {failure['reason']}" for failure in result["failed"]])
    stages = {measured["stage"] for measured in result["rows"]}
    if {"features", "train"} <= stages and ("roofline" not in result or {"features", "train"} & set(names)):
        result["roofline"] = roofline_points(bench, result["rows"])
    result["findings"] = bottleneck.findings(result) if bottleneck.is_complete(result, list(STAGES)) else []
    saved.write()
    return result


def _say(message: str) -> None:
    Console(stderr=True, highlight=False).print(message)


def roofline_points(bench: Bench, rows: list[dict]) -> dict:
    """FLOPs a byte and FLOP/s of networks and engines, and the machine's limits."""
    points = []
    for measured in rows:
        rate = measured["windows_per_s"]
        if "flops" in measured:
            points.append((measured["backbone"], measured["flops"] / measured["bytes"], measured["flops"] * rate))
        elif measured.get("batch_size") == bench.effort.batch_size and "engine" in measured:
            flops = roofline.front_end_flops(measured["engine"], bench.recipe)
            intensity = flops / roofline.front_end_bytes(bench.recipe)
            points.append((f"front end, {measured['engine']}", intensity, flops * rate))
    return {"points": points, "peaks_flops": bench.peaks, "bandwidth": bench.limits["memory bandwidth"].best_for(0.0)}


def make_table(result: dict) -> Table:
    """Rates and limits by stage, for the terminal."""
    per_window_s = result["track_s"] / result["track_windows"]
    table = Table(
        title=f"melgpu on {result['device']}, {result['cores']} cores, {result['workers']} worker processes",
        caption=f"medians; times real time: seconds of music a second, {result['track_windows']} windows of a track of "
        f"{result['track_s']:g} s overlap",
        box=SIMPLE,
    )
    for column in ("stage", "", "windows/s", "times real time", "physical limit", "windows/s", "of its limit"):
        table.add_column(
            column, justify="right" if column in ("windows/s", "times real time", "of its limit") else "left"
        )
    previous = ""
    for measured in [measured for measured in result["rows"] if not measured.get("curve")]:
        rate, limit, stage = measured["windows_per_s"], measured["limit_windows_per_s"], measured["stage"]
        texts = [
            f"{rate:,.1f}",
            f"{rate * per_window_s:,.0f}",
            measured["limit"],
            f"{limit:,.1f}",
            f"{rate / limit:.0%}",
        ]
        table.add_row("" if stage == previous else stage, measured["way"], *texts)
        previous = stage
    return table


def plot(result: dict, folder: Path) -> None:
    """bars.png, curves.png and, where there are networks and engines, roofline.png."""
    rows, title = result["rows"], result["device"]
    bars = [
        (f"{measured['stage']}: {measured['way']}", measured["windows_per_s"], measured["limit_windows_per_s"])
        for measured in rows
        if not measured.get("curve")
    ]
    plots.limit_bars(bars, "windows a second", f"Measured rates and physical limits: {title}", folder / "bars.png")
    panels: dict[str, dict] = {}
    for measured in rows:
        rate = measured["windows_per_s"]
        if "workers" in measured:
            panels.setdefault("worker processes", {}).setdefault("decode", {})[measured["workers"]] = rate
        if "batch_size" in measured:
            name = measured.get("engine") or f"training {measured['backbone']}"
            panels.setdefault("batch of windows", {}).setdefault(name, {})[measured["batch_size"]] = rate
    if panels:
        plots.curves(panels, "windows a second", title, folder / "curves.png")
    if "roofline" in result:
        limits = result["roofline"]
        peaks = {f"matmul {name}": peak for name, peak in limits["peaks_flops"].items()}
        plots.roofline(limits["points"], peaks, limits["bandwidth"], f"Roofline: {title}", folder / "roofline.png")


def main(args: argparse.Namespace) -> int:
    """Measure the stages that the flags select, print and save the result; returns 1 where a rate exceeds its limit."""
    with tempfile.TemporaryDirectory() as folder:
        result = run(prepare(args, Path(folder), "loader.workers"), args.only or list(STAGES), args.out)
    console = timing.console()
    console.print(make_table(result))
    for failure in result["failed"]:
        console.print(f"{failure['stage']}, {failure['way']} failed: {failure['reason']}", markup=False)
    for finding in result["findings"]:
        console.print(finding)
    if args.plots:
        plot(result, args.plots)
    exceeding = [measured for measured in result["rows"] if timing.exceeds_limit(measured)]
    return timing.finish(result, args.out, [f"{measured['stage']}, {measured['way']}," for measured in exceeding])
