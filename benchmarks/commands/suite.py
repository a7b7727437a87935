"""The whole suite: each stage alone, then overlapped, beside what the machine can do; what limits, what to change."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks import bench_features, bench_loader, bench_predict, bench_train, measurement, plots, roofline, timing
from benchmarks.commands import bottleneck
from benchmarks.commands.bench import Bench, Limit, networks, powers, prepare
from benchmarks.references import baselines
from melgpu.data.loader import WindowLoader
from melgpu.recipe import Recipe


def row(stage: str, way: str, samples: list[float], *bounds: tuple[Limit, float], **more) -> dict:
    """A line of the table; `samples` are rates in windows/s, `bounds` limits with what a window needs of each."""
    found = measurement.rates_of(samples)
    most, name = min((limit.over(found["windows_per_s"] * work) / work, limit.name) for limit, work in bounds)
    return {"stage": stage, "way": way, **found, "limit": name, "limit_windows_per_s": most, **more}


def decode(bench: Bench) -> Iterator[dict]:
    """Files to samples at the recipe's rate, by number of processes."""
    for workers in sorted({*powers(bench.cores), bench.workers}):
        bound = bench.decode_limit(workers), 1
        yield row("decode", processes(workers), bench.decode_rates(workers), bound, workers=workers)


def processes(count: int) -> str:
    return f"{count} process" + ("es" if count != 1 else "")


def resample(bench: Bench) -> Iterator[dict]:
    """The resampler alone, which is a part of decoding."""
    samples = bench.in_processes(baselines.resample, bench.job)
    yield row("resample", processes(bench.workers), samples, (bench.limits["soxr within the cache"], 1))


def copy(bench: Bench) -> Iterator[dict]:
    """Decoded samples to batches on the device."""
    length, on_gpu = measurement.window_samples(bench.recipe), bench.device.type == "cuda"
    bounds = {"disk": [(bench.limits["one core's copy"], 1)]}
    if on_gpu:
        link = bench.limits["host to device"], 4 * length
        bounds["disk"] += [link]
        bounds["gpu"] = [(bench.limits["memory bandwidth"], 8 * length)]  # read and written
    for where, own in bounds.items():
        wanted = bench_loader.with_cache(bench.recipe, where)
        yield row("copy", f"bank={where}", _stream(bench, wanted, bench_loader.nothing, bench.pcm_cache), *own)
    if on_gpu:
        found = measurement.copies(bench.recipe, bench.effort.batch_size, bench.device, bench.effort.seconds)
        yield row("copy", "host to device", found, link)


def features(bench: Bench) -> Iterator[dict]:
    """Samples on the device to pictures, by engine and batch size."""
    spec, rate = bench.recipe.mel, bench.recipe.audio.sample_rate
    for batch_size in bench.effort.sizes:
        waves = measurement.noise(bench.recipe, batch_size, bench.device)
        for name, front_end in bench_features.engines(spec, rate, bench.device):
            found = bench_features.time_front_end(front_end, waves, bench.effort.seconds)["samples_windows_per_s"]
            more = {"engine": name, "batch_size": batch_size, "curve": batch_size != bench.effort.batch_size}
            yield row("features", f"{name}, batch of {batch_size}", found, (bench.picture_limit, 1), **more)


def loader(bench: Bench) -> Iterator[dict]:
    """Files to batches on the device, and on to pictures."""
    draw, bounds = measurement.front_end(bench.recipe, bench.device), [(bench.decode_limit(), 1)]
    yield row("loader", "files to batches", _stream(bench, bench.recipe, bench_loader.nothing, None), *bounds)
    bounds += [(bench.picture_limit, 1)]
    yield row("loader", "files to pictures", _stream(bench, bench.recipe, draw, None), *bounds)


def _stream(bench: Bench, recipe: Recipe, then, cache) -> list[float]:
    found = bench_loader.time_way(bench.paths, recipe, bench.device, cache, then, bench.effort.repeats + 1)
    return found["samples_windows_per_s"][1:]  # the first epoch starts the processes


def train(bench: Bench) -> Iterator[dict]:
    """Optimizer steps of each network of all rounds: on pictures that lie there, and from files."""
    names, effort = networks(bench.recipe), bench.effort
    bound = bench.network_limit, bench.flops(names[0], True)
    for batch_size in effort.sizes:
        times = bench_train.time_ready(names[0], bench.recipe, batch_size, effort.steps, effort.repeats, bench.device)
        more = {"backbone": names[0], "batch_size": batch_size, "curve": True}
        yield row("train", f"{names[0]}, batch of {batch_size}", [batch_size / own for own in times], bound, **more)
    recipe = bench.from_files(bench.recipe)
    with WindowLoader(bench.paths, recipe.audio, recipe.loader, bench.device) as files:
        for name in names:
            yield from _train_one(bench, files, recipe, name)


def _train_one(bench: Bench, files: WindowLoader, recipe: Recipe, name: str) -> Iterator[dict]:
    effort, flops = bench.effort, bench.flops(name, True)
    found = bench_train.time_backbone(name, files, recipe, effort.batch_size, effort.steps, effort.repeats)
    alone, *others = (bench.network_limit, flops), (bench.picture_limit, 1), (bench.decode_limit(), 1)
    rates = {way: [effort.batch_size / own for own in samples] for way, samples in found["samples_s"].items()}
    more = {"backbone": name, "flops": flops, "bytes": bench.bytes_moved(name)}
    yield row("train", f"{name}, pictures ready", rates["pictures ready"], alone, **more)
    yield row("train", f"{name}, from files", rates["from files"], alone, *others)


def predict(bench: Bench) -> Iterator[dict]:
    """All networks of the last round over one pass of files, each window and its mirror image."""
    found = bench_predict.run(bench.recipe, bench.paths[: bench.effort.judged], bench.effort.repeats, bench.device)
    spec = bench.recipe.rounds[-1]
    views = len(spec.folds) * (2 if bench.recipe.predict.flip else 1)
    flops = views * sum(bench.flops(name, False) for name in spec.backbones)
    alone, *others = (bench.network_limit, flops), (bench.picture_limit, 1), (bench.decode_limit(), 1)
    for way, bounds in (("networks alone", (alone,)), ("files to probabilities", (alone, *others))):
        rates = [found["windows"] / own for own in found["samples_s"][way]]
        yield row("predict", f"{found['models']} networks, {way}", rates, *bounds, models=found["models"])


STAGES = {own.__name__: own for own in (decode, resample, copy, features, loader, train, predict)}


def run(bench: Bench, names: list[str]) -> dict:
    """Measure stages; with all of them, also say what limits."""
    recipe = bench.recipe
    result = {"benchmark": "suite", **bench.about()}
    result |= {"track_windows": bench.track_windows, "track_s": recipe.audio.track_s}
    result |= {"engine": measurement.front_end(recipe, bench.device).engine_on(bench.device)}
    result |= {"rows": []}
    for number, name in enumerate(names, start=1):
        for one in STAGES[name](bench):
            result["rows"].append(one)
            told = f"{number}/{len(names)} {name}: {one['way']}, {one['windows_per_s']:,.1f} windows/s"
            Console(stderr=True, highlight=False).print(told)
    if {"features", "train"} <= set(names):
        result["roofline"] = roofline_points(bench, result["rows"])
    result["findings"] = bottleneck.findings(result) if set(names) == set(STAGES) else []
    return result


def roofline_points(bench: Bench, rows: list[dict]) -> dict:
    """FLOPs a byte and FLOP/s of networks and engines, and the machine's roofs."""
    points = []
    for one in rows:
        if "flops" in one:
            points.append((one["backbone"], one["flops"] / one["bytes"], one["flops"] * one["windows_per_s"]))
        elif one.get("batch_size") == bench.effort.batch_size and "engine" in one:
            flops = roofline.front_end_flops(one["engine"], bench.recipe)
            intensity = flops / roofline.front_end_bytes(bench.recipe)
            points.append((f"front end, {one['engine']}", intensity, flops * one["windows_per_s"]))
    return {"points": points, "peaks_flops": bench.peaks, "bandwidth": bench.limits["memory bandwidth"].over(0.0)}


def table(result: dict) -> Table:
    """What a person reads."""
    per_window_s = result["track_s"] / result["track_windows"]
    shown = Table(
        title=f"melgpu on {result['device']}, {result['cores']} cores, {result['workers']} decoding processes",
        caption=f"medians; times real time: seconds of music a second, {result['track_windows']} windows of a track of "
        f"{result['track_s']:g} s overlap",
        box=SIMPLE,
    )
    for column in ("stage", "", "windows/s", "times real time", "physical limit", "windows/s", "reached"):
        shown.add_column(column, justify="right" if column in ("windows/s", "times real time", "reached") else "left")
    last = ""
    for one in [one for one in result["rows"] if not one.get("curve")]:
        rate, most = one["windows_per_s"], one["limit_windows_per_s"]
        texts = [f"{rate:,.1f}", f"{rate * per_window_s:,.0f}", one["limit"], f"{most:,.1f}", f"{rate / most:.0%}"]
        shown.add_row("" if one["stage"] == last else one["stage"], one["way"], *texts)
        last = one["stage"]
    return shown


def plot(result: dict, folder: Path) -> None:
    """bars.png, curves.png and, where there are networks and engines, roofline.png."""
    rows, title = result["rows"], result["device"]
    named = [
        (f"{one['stage']}: {one['way']}", one["windows_per_s"], one["limit_windows_per_s"])
        for one in rows
        if not one.get("curve")
    ]
    plots.shares(named, "windows a second", f"Reached, and what the machine can do: {title}", folder / "bars.png")
    panels: dict[str, dict] = {}
    for one in rows:
        if "workers" in one:
            panels.setdefault("decoding processes", {}).setdefault("decode", {})[one["workers"]] = one["windows_per_s"]
        if "batch_size" in one:
            name = one.get("engine") or f"training {one['backbone']}"
            panels.setdefault("batch of windows", {}).setdefault(name, {})[one["batch_size"]] = one["windows_per_s"]
    if panels:
        plots.curves(panels, "windows a second", title, folder / "curves.png")
    if "roofline" in result:
        found = result["roofline"]
        peaks = {f"matmul {name}": peak for name, peak in found["peaks_flops"].items()}
        plots.roofline(found["points"], peaks, found["bandwidth"], f"Roofline: {title}", folder / "roofline.png")


def main(args) -> int:
    """Measure what the flags name, show it, and keep it; 1 where a figure passes its limit."""
    with tempfile.TemporaryDirectory() as folder:
        result = run(prepare(args, Path(folder), "loader.workers"), args.only or list(STAGES))
    console = timing.console()
    console.print(table(result))
    for finding in result["findings"]:
        console.print(finding)
    if args.plots:
        plot(result, args.plots)
    beyond = (f"{one['stage']}, {one['way']}," for one in result["rows"] if timing.is_beyond(one))
    return timing.finish(result, args.out, beyond)
