"""The table of claims: what melgpu promises on a GPU, what was measured, and whether it holds."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

BATCH = 32  # windows of a step in zalo2019
MAX_FEATURE_SHARE, WORST_FEATURE_SHARE = 0.01, 0.02
MIN_FILES_RATIO = 0.98
MIN_ENSEMBLE_RATIO = 0.95
MIN_FUSED_GAIN = 10.0
MIN_FUSED_LIMIT_SHARE = 0.25
MIN_CHANNELS_LAST_GAIN = 1.0
NOT_MEASURED = "not measured"

Rows = dict[str, dict]


@dataclass(frozen=True)
class Claim:
    """`held` is None where nothing was measured, or by a small run on a CPU, or where there is no goal."""

    claim: str
    goal: str
    measured: str
    held: bool | None


def claims(data: dict) -> list[dict]:
    """The claims of a result, as JSON data."""
    steps = {name: _valid(record["rows"]) for name, record in data["steps"].items()}
    failed = {name: len(record["rows"]) - len(steps[name]) for name, record in data["steps"].items()}
    settled = not data.get("small", True)
    table = []
    for claim in _all_claims(steps, failed):
        table.append(asdict(claim) | {"held": claim.held if settled else None})
    return table


def _valid(rows: Rows) -> Rows:
    return {name: row for name, row in rows.items() if "error" not in row}


def _all_claims(steps: dict[str, Rows], failed: dict[str, int]) -> Iterator[Claim]:
    empty: Rows = {}
    yield _auto(steps.get("checks", empty))
    yield _tests(steps.get("tests", empty))
    yield _parity(steps.get("parity", empty), failed.get("parity", 0))
    yield _fused_gain(steps.get("features", empty))
    yield _fused_limit(steps.get("features", empty))
    training = steps.get("training", empty)
    yield _feature_share(training)
    yield _from_files(training)
    yield _ensemble(steps.get("prediction", empty))
    yield _decoding(training, steps.get("loader", empty))
    yield _resume(steps.get("resume", empty))
    yield _memory(steps.get("memory", empty), failed.get("memory", 0))
    yield _channels_last(steps.get("channels_last", empty))
    yield _compile(steps.get("compile", empty))


def _auto(rows: Rows) -> Claim:
    row = rows.get("gate, auto")
    claim, goal = "auto takes an engine that passes the gate here", "fused"
    if not row:
        return Claim(claim, goal, NOT_MEASURED, None)
    return Claim(claim, goal, f"{row['engine']}, up to {row['max_db']:.4f} dB", row["engine"] == "fused")


def _tests(rows: Rows) -> Claim:
    row = rows.get("pytest -m gpu")
    claim, goal = "tests marked gpu", "all pass"
    if not row:
        return Claim(claim, goal, NOT_MEASURED, None)
    passed = row["exit_code"] == 0 and row["counts"].get("passed", 0) > 0
    return Claim(claim, goal, row["text"], passed)


def _parity(rows: Rows, failed: int) -> Claim:
    engines = {name: row for name, row in rows.items() if "TF32" not in name}  # which is there to show that it misses
    claim, goal = "engines on mp3 within the parity gate", "0.05 dB, mean 0.001 dB"
    if not engines:
        return Claim(claim, goal, NOT_MEASURED, None)
    worst = max(engines, key=lambda name: engines[name]["max_db"])
    measured = f"worst {worst}: {engines[worst]['max_db']:.4f} dB"
    measured += f"; {failed} failed" if failed else ""
    return Claim(claim, goal, measured, not failed and all(row["passed"] for row in engines.values()))


def _fused_gain(rows: Rows) -> Claim:
    fused, stock = (rows.get(f"{name}, batch of {BATCH}") for name in ("fused", "stock nnAudio"))
    claim, goal = f"fused against stock nnAudio, batches of {BATCH}", f"at least {MIN_FUSED_GAIN:.0f} times"
    if not fused or not stock:
        return Claim(claim, goal, NOT_MEASURED, None)
    gain = fused["windows_per_s"] / stock["windows_per_s"]
    return Claim(claim, goal, f"{gain:.1f} times", gain >= MIN_FUSED_GAIN)


def _fused_limit(rows: Rows) -> Claim:
    row = rows.get(f"fused, batch of {BATCH}")
    claim, goal = "fused against the memory limit", f"at least {MIN_FUSED_LIMIT_SHARE:.0%}"
    if not row:
        return Claim(claim, goal, NOT_MEASURED, None)
    share = row["share_of_limit"]
    return Claim(claim, goal, f"{share:.1%}", share >= MIN_FUSED_LIMIT_SHARE)


def _feature_share(rows: Rows) -> Claim:
    claim = "features in a training step, every network"
    goal = f"at most {MAX_FEATURE_SHARE:.0%}, {WORST_FEATURE_SHARE:.0%} at worst"
    return _extreme(claim, goal, rows, "feature_share", max, "{:.2%}", lambda share: share <= WORST_FEATURE_SHARE)


def _from_files(rows: Rows) -> Claim:
    goal = f"at least {MIN_FILES_RATIO}"
    held = lambda ratio: ratio >= MIN_FILES_RATIO  # noqa: E731
    return _extreme("training from files, of ready pictures", goal, rows, "files_over_ready", min, "{:.3f}", held)


def _extreme(
    claim: str,
    goal: str,
    rows: Rows,
    key: str,
    worst: Callable[..., str],
    form: str,
    held: Callable[[float], bool],
) -> Claim:
    """A claim on every network, with the worst of them."""
    values = {name: row[key] for name, row in rows.items() if key in row}
    if not values:
        return Claim(claim, goal, NOT_MEASURED, None)
    name = worst(values, key=values.__getitem__)
    count = f" of {len(values)}" if len(values) > 1 else ""
    return Claim(claim, goal, f"{form.format(values[name])} ({name}, the worst{count})", held(values[name]))


def _ensemble(rows: Rows) -> Claim:
    claim, goal = "ensemble from files, of its networks alone", f"at least {MIN_ENSEMBLE_RATIO}"
    if not rows:
        return Claim(claim, goal, NOT_MEASURED, None)
    ((name, row),) = rows.items()
    ratio = row["files_over_alone"]
    return Claim(claim, goal, f"{ratio:.3f} ({name})", ratio >= MIN_ENSEMBLE_RATIO)


def _decoding(training: Rows, loader: Rows) -> Claim:
    decoded = loader.get("decoded")
    claim, goal = "decoding against the fastest network's training", "faster"
    if not decoded or not training:
        return Claim(claim, goal, NOT_MEASURED, None)
    fastest = max(training, key=lambda name: training[name]["windows_per_s"])
    needed, rate = training[fastest]["windows_per_s"], decoded["windows_per_s"]
    return Claim(claim, goal, f"{rate:,.0f} windows/s for {needed:,.0f} ({fastest})", rate > needed)


def _resume(rows: Rows) -> Claim:
    row = rows.get("killed and resumed")
    claim, goal = "a training that was killed and resumed", "the same bits"
    if not row:
        return Claim(claim, goal, NOT_MEASURED, None)
    # Where two trainings that were not killed differ, the device's arithmetic is not deterministic: nothing is settled.
    held = row["same"] if row["same"] or row["deterministic"] else None
    return Claim(claim, goal, row["text"], held)


def _memory(rows: Rows, failed: int) -> Claim:
    measured = {name: row["passed"] for name, row in rows.items() if "passed" in row}
    claim, goal = "out of memory", "training, prediction, front end go on"
    if not measured and not failed:
        return Claim(claim, goal, NOT_MEASURED, None)
    passed = [name for name, went_on in measured.items() if went_on]
    return Claim(claim, goal, f"went on: {', '.join(passed) or 'none'}", len(passed) == len(measured) + failed)


def _channels_last(rows: Rows) -> Claim:
    held = lambda gain: gain >= MIN_CHANNELS_LAST_GAIN  # noqa: E731
    goal = "as fast as NCHW, or faster"
    return _extreme("channels_last, every network", goal, rows, "channels_last_gain", min, "{:.2f} times", held)


def _compile(rows: Rows) -> Claim:
    claim, goal = "torch.compile of one network", "the gain (off by default)"
    if not rows:
        return Claim(claim, goal, NOT_MEASURED, None)
    ((name, row),) = rows.items()
    return Claim(claim, goal, f"{row['gain']:.2f} times after {row['compile_s']:.0f} s ({name})", None)
