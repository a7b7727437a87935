"""Tables of the saved results, from their JSON alone.

`benchmarks/results/README.md` has all of them, the project's README those of HEADLINES and of the newest demo,
docs/recipes.md that of RECIPES_RESULT, docs/export.md the newest of exported files.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.demo import accuracy
from benchmarks.experiments import comparison, tables
from benchmarks.export import command as export
from melgpu import files
from melgpu.console import counted
from melgpu.errors import InputError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: written by python -m benchmarks readme -->", "<!-- end of results -->"
RECIPES_PAGE = "docs/recipes.md"
RECIPES_RESULT = "experiment-modern-epyc-1-core.json"
BEGIN_RECIPES = "<!-- recipes compared: written by python -m benchmarks readme -->"
EXPORT_PAGE = "docs/export.md"
BEGIN_EXPORT = "<!-- exported files: written by python -m benchmarks readme -->"
BEGIN_DEMO = "<!-- demo: written by python -m benchmarks readme --demo runs/demo -->"
Rows = Iterator[tuple[str, ...]]  # the first is the header


class Kind(NamedTuple):
    """A kind of result: title, command, and the rows of its table."""

    title: str
    command: str
    rows: Callable[[dict], Rows]


def suite(result: dict) -> Rows:
    yield "stage", "windows/s", "of its limit"
    for row in result["rows"]:
        if not row.get("curve"):
            limit = f"{_percent(row['windows_per_s'] / row['limit_windows_per_s'])} of {row['limit']}"
            yield f"{row['stage']}: {row['way']}", _rate(row["windows_per_s"]), limit


def tune(result: dict) -> Rows:
    versus = result["versus"]
    yield f"{versus['backbone']} from files", "default, windows/s", "tuned, windows/s", "times as fast"
    for task in ("training", "prediction"):
        default, tuned = versus[task]["default"], versus[task]["tuned"]
        ratios = [new / old for new, old in zip(tuned, default, strict=True)]
        spread = _spread((statistics.median(ratios), min(ratios), max(ratios)))
        yield task, _rate(statistics.median(default)), _rate(statistics.median(tuned)), spread


def compare(result: dict) -> Rows:
    yield "variant", "windows/s", "melgpu on the fly is times as fast", "on disk", "until the first step"
    for row in result["rows"]:
        wait = "" if row["wait_s"] is None else f"{row['wait_s'] / 60:.1f} min"
        disk = f"{row['disk_bytes'] / 1e9:.1f} GB"
        yield row["way"], _rate(row["windows_per_s"]), _spread(row["base_is_times_as_fast"]), disk, wait


def cost(result: dict) -> Rows:
    yield "task", "hours, at most" if result["rates"].get("bounds") else "hours"
    yield (
        "the whole recipe, 20 epochs to all epochs",
        " to ".join(_rate(total_s / 3600) for total_s in result["whole_s"]),
    )
    for row in result["libraries"]:
        networks = counted(result["networks"], "network")
        yield f"predicting {row['tracks']:,} tracks with {networks}", _rate(row["total_s"] / 3600)


def decode(result: dict) -> Rows:
    max_workers = max(row["workers"] for row in result["rows"])
    rows = {(row["way"], row["files"]): row for row in result["rows"] if row["workers"] == max_workers}
    variants, formats = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))
    yield f"audio s/s in {max_workers} processes (of the limit)", *formats
    for variant in variants:
        variant_rows = (rows[variant, name] for name in formats)
        yield variant, *(f"{row['times_real_time']:,.0f} ({_percent(row['share_of_limit'])})" for row in variant_rows)


def features(result: dict) -> Rows:
    limit = result["rows"][0]["limit"]
    yield "front end", "batch size", "windows/s", f"of {limit}", "peak MiB"
    for row in result["rows"]:
        rate, fraction = _rate(row["windows_per_s"]), _percent(row["share_of_limit"])
        yield row["front_end"], str(row["batch_size"]), rate, fraction, f"{row['peak_mib']:,.0f}"


def loader(result: dict) -> Rows:
    yield "variant", "windows/s", "of a copy", "first batch after", "MiB in the first and last epoch"
    for row in result["rows"]:
        limit, memory = row["limit_windows_per_s"], row.get("memory_mib")
        fraction = _percent(row["windows_per_s"] / limit) if limit else ""
        mib = f"{memory[0]:,.0f} and {memory[-1]:,.0f}" if memory else ""
        yield row["way"], _rate(row["windows_per_s"]), fraction, f"{row['first_batch_s']:.2f} s", mib


def train(result: dict) -> Rows:
    variants = list(result["rows"][0]["seconds_a_step"])
    yield f"ms a step of {result['batch_size']} windows", *variants
    for row in result["rows"]:
        yield row["backbone"], *(f"{1000 * row['seconds_a_step'][variant]:,.0f}" for variant in variants)


def predict(result: dict) -> Rows:
    yield "networks", "s a track", "networks alone"
    yield str(result["models"]), _rate(1 / result["tracks_per_s"]), _percent(result["share_of_the_networks"])


def parity(result: dict) -> Rows:
    yield "engine", "largest difference, dB", "mean difference, dB"
    for engine, row in result["engines"].items():
        yield engine, f"{row['max_db']:.4f}", f"{row['mean_db']:.6f}"


def experiment(result: dict) -> Rows:
    yield tables.header(comparison.TEST)
    yield from tables.body(tables.from_json(result["rows"]), result["minutes"], comparison.TEST)


def gpu(result: dict) -> Rows:
    yield "claim, or row", "goal", "measured", "held"
    verdicts = {True: "yes", False: "no", None: ""}
    for claim in result["claims"]:
        yield claim["claim"], claim["goal"], claim["measured"], verdicts[claim["held"]]
    for step, record in result["steps"].items():
        for name, row in record["rows"].items():
            yield f"{step}: {name}", "", (row.get("text") or f"failed: {row['error']}").replace("|", "/"), ""


KINDS = {
    "suite": Kind("Each stage alone, then overlapped, with its physical limit", "", suite),
    "tune": Kind("Tuned and default settings", " tune", tune),
    "compare": Kind("melgpu and its baselines, from the same files to pictures", " compare", compare),
    "cost": Kind("The whole recipe on this machine", " cost", cost),
    "gpu": Kind("What a GPU settles", " gpu", gpu),
    "experiment": Kind(
        "Recipes on the same tracks", " experiment VARIANTS.toml --labels CSV_OR_DIR --folder DIR", experiment
    ),
    "export": Kind("A network in PyTorch and as exported files, a window at a time", " export --run RUN", export.rows),
    "demo": Kind("The demo on its synthetic music, accuracy on tracks", " readme --demo runs/demo", accuracy.rows),
    "decode": Kind("Files to samples", ".bench_decode", decode),
    "features": Kind("Waves to pictures", ".bench_features", features),
    "loader": Kind("Files to batches", ".bench_loader", loader),
    "train": Kind("Training from files, from waves and from pictures on the device", ".bench_train", train),
    "predict": Kind("Prediction of a track by the ensemble", ".bench_predict", predict),
    "parity": Kind("Exactness of the engines", ".parity", parity),
}
HEADLINES = ("compare",)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _spread(ratio: tuple[float, float, float]) -> str:
    median, low, high = ratio
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def load(folder: Path = RESULTS) -> dict[Path, dict]:
    """The results in a folder, in the order of KINDS. Raises InputError for other files, and for previews."""
    results = {path: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    for path, result in results.items():
        if result.get("benchmark") not in KINDS:
            raise InputError(f"{path}: not a result of a benchmark")
        if result.get("quick") or result.get("small"):
            raise InputError(f"{path}: a preview (--quick, or gpu on a CPU), which is not to be published")
    order = list(KINDS)
    return dict(sorted(results.items(), key=lambda item: order.index(item[1]["benchmark"])))


def section(path: Path, result: dict, link: str) -> str:
    """One result: title, command, machine, table."""
    kind = KINDS[result["benchmark"]]
    command = f"`python -m benchmarks{kind.command}`, [{path.name}]({link}{path.name})"
    return f"**{kind.title}** ({command}: {_machine(result)}):\n\n{_table(kind.rows(result))}"


def _machine(result: dict) -> str:
    """What measured a result, and when."""
    device = result["device"] + (f", driver {result['driver']}" if result.get("driver") else "")
    commit = (result["git_commit"] or "none")[:7]
    return f"{device}; torch {result['packages']['torch']}, {result['date'][:10]}, commit {commit}"


def _table(rows: Rows) -> str:
    header, *others = rows
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ("---",) * len(header), *others])


def block(results: dict[Path, dict]) -> str:
    """The part of README between its two comments, with both."""
    headlines = (item for item in results.items() if item[1]["benchmark"] in HEADLINES)
    return "\n\n".join([BEGIN, *(section(path, result, "benchmarks/results/") for path, result in headlines), END])


def catalogue(results: dict[Path, dict]) -> str:
    """All results, as the text of a file."""
    intro = "# Benchmark results\n\nWritten by `python -m benchmarks readme` from the JSON files beside it."
    return "\n\n".join([intro, *(section(path, result, "") for path, result in results.items())]) + "\n"


def recipes_block(results: dict[Path, dict]) -> str:
    """The part of docs/recipes.md between its two comments, with both."""
    compared = [item for item in results.items() if item[0].name == RECIPES_RESULT]
    sections = (section(path, result, "../benchmarks/results/") for path, result in compared)
    return "\n\n".join([BEGIN_RECIPES, *sections, END])


def export_text(text: str, results: dict[Path, dict]) -> str:
    """The text of docs/export.md with its table written anew; without a saved result the table stays."""
    saved = newest(results, "export")
    if not saved:
        return text
    return replace_block(text, "\n\n".join([BEGIN_EXPORT, section(*saved, "../benchmarks/results/"), END]))


def newest(results: dict[Path, dict], benchmark: str) -> tuple[Path, dict] | None:
    """The newest result of a benchmark; None where none is saved."""
    saved = [item for item in results.items() if item[1]["benchmark"] == benchmark]
    return max(saved, key=lambda item: item[1]["date"], default=None)


def demo_block(results: dict[Path, dict]) -> str | None:
    """The part of README between the comments of the demo, with both; None where no demo is saved."""
    saved = newest(results, "demo")
    if not saved:
        return None
    path, result = saved
    source = f"[{path.name}](benchmarks/results/{path.name}): {_machine(result)}"
    text = f"{accuracy.headline(result)} ({source}):"
    return "\n\n".join([BEGIN_DEMO, text, _table(accuracy.headline_rows(result)), END])


def replace_block(text: str, new_block: str) -> str:
    """A page's text with another block, which begins and ends with its comments. Raises InputError without them."""
    start = new_block.partition("\n")[0]
    before, begin, remainder = text.partition(start)
    _, end, after = remainder.partition(END)
    if not begin or not end:
        raise InputError(f"the lines {start} and {END} are missing where a table is to be written")
    return before + new_block + after


def readme_text(text: str, results: dict[Path, dict]) -> str:
    """The text of README with all its tables written anew; without a saved demo its table stays."""
    text = replace_block(text, block(results))
    demo = demo_block(results)
    return replace_block(text, demo) if demo else text


def main(args: argparse.Namespace) -> int:
    """Write the tables: those of README.md, docs/recipes.md and docs/export.md, and README.md beside the results."""
    if args.demo:
        print(f"saved the result of {args.demo} to {accuracy.save(args.demo, RESULTS)}")
    results = load(RESULTS)
    recipes_page = ROOT / RECIPES_PAGE
    export_page = ROOT / EXPORT_PAGE
    texts = {
        ROOT / "README.md": readme_text((ROOT / "README.md").read_text(), results),
        recipes_page: replace_block(recipes_page.read_text(), recipes_block(results)),
        export_page: export_text(export_page.read_text(), results),
        RESULTS / "README.md": catalogue(results),
    }
    for path, text in texts.items():
        files.write_text(path, text)
    print(f"wrote the results in {RESULTS} to {', '.join(str(path) for path in texts)}")
    return 0
