"""Which stage holds a pipeline back, what to change, and how much that gains; arithmetic on measured rates alone.

On a GPU audio (decoding and copying) is made while the device works, and pictures and networks take turns on it: the
slower of the two sets the pace. On a CPU all three share the same cores, so the times of a window in each add up.
"""

from collections.abc import Iterable
from dataclasses import dataclass

WORTH = 1.03  # a gain below this is noise


@dataclass(frozen=True)
class Change:
    """A setting that makes a stage `factor` times as fast; `at_most` where the factor is a bound, not a measurement."""

    stage: str
    what: str
    factor: float
    at_most: bool = False


def together(rates: dict[str, float], shared: bool) -> float:
    """Windows a second of stages at work at once, from their rates alone; `shared` where they share the cores."""
    return 1 / sum(1 / rate for rate in pace(rates, shared).values())


def pace(rates: dict[str, float], shared: bool) -> dict[str, float]:
    """The stages that set the pace, one after another: all that share the cores; else audio, or all but it."""
    if shared:
        return rates
    device = {stage: rate for stage, rate in rates.items() if stage != "audio"}
    return device if together(device, True) < rates["audio"] else {"audio": rates["audio"]}


def time_shares(rates: dict[str, float]) -> dict[str, float]:
    """Each stage's share of the work on a window."""
    whole = sum(1 / rate for rate in rates.values())
    return {stage: 1 / rate / whole for stage, rate in rates.items()}


def slowest(rates: dict[str, float]) -> str:
    return min(rates, key=rates.__getitem__)


def gain(rates: dict[str, float], change: Change, shared: bool) -> float:
    """How many times as fast the whole becomes."""
    after = {**rates, change.stage: rates[change.stage] * change.factor}
    return together(after, shared) / together(rates, shared)


def best(rates: dict[str, float], changes: Iterable[Change], shared: bool) -> tuple[Change, float] | None:
    """The change that gains most; None where none is worth it."""
    gains = [(change, gain(rates, change, shared)) for change in changes if change.stage in rates]
    return max((pair for pair in gains if pair[1] > WORTH), key=lambda pair: pair[1], default=None)


def sentence(pipeline: str, rates: dict[str, float], measured: float, changes: Iterable[Change], shared: bool) -> str:
    """What limits a pipeline, what to change, and the gain; `measured` is its own rate in windows/s."""
    turns, work = pace(rates, shared), "work" if shared else "GPU's work"
    stage = slowest(turns)
    told = f"{pipeline}: {stage} limits ({rates[stage]:,.1f} windows/s alone"
    told += f", {time_shares(turns)[stage]:.0%} of the {work} on a window" if len(turns) > 1 else ""
    told += f"); {measured:,.1f} windows/s together, {together(rates, shared):,.1f} foreseen from the stages alone. "
    changes = list(changes)
    found = best(rates, [change for change in changes if not change.at_most], shared)
    bound = best(rates, [change for change in changes if change.at_most], shared)
    if found and found[0].stage != "network":  # nothing is faster than its network alone
        most = rates["network"] / measured
        found = (found[0], min(found[1], most)) if most > WORTH else None
    if found:
        told += f"Change {found[0].what}: predicted {found[1]:.2f} times as fast. "
    if bound:
        told += f"To try: {bound[0].what}; at most {bound[1]:.2f} times as fast."
    return told.strip() if found or bound else told + "No setting is known to gain more than 3 %."


def changes(result: dict) -> list[Change]:
    """What a suite's rows say of settings that are not in use."""
    rates = {(one["stage"], one["way"]): one["windows_per_s"] for one in result["rows"]}
    return [*_more_processes(result), *_banks(result, rates), *_engines(result), *_precision(result)]


def _more_processes(result: dict) -> list[Change]:
    by_count = {one["workers"]: one["windows_per_s"] for one in result["rows"] if one["stage"] == "decode"}
    now = result["workers"]
    return [
        Change("audio", f"loader.workers {now} -> {count}", rate / by_count[now])
        for count, rate in by_count.items()
        if count != now and now in by_count
    ]


def _banks(result: dict, rates: dict) -> list[Change]:
    cold = rates["loader", "files to batches"]
    found = [(where, rates.get(("copy", f"bank={where}"))) for where in ("disk", "gpu")]
    megabytes = 4 * result["track_s"] * result["recipe"]["audio"]["sample_rate"] / 1e6  # of float32
    price = f"(another order of windows; {megabytes:.1f} MB a track)"
    return [Change("audio", f"loader.pcm_cache off -> {where} {price}", rate / cold) for where, rate in found if rate]


def _engines(result: dict) -> list[Change]:
    now = result["engine"]
    rates = {
        one["engine"]: one["windows_per_s"]
        for one in result["rows"]
        if one["stage"] == "features" and one["batch_size"] == result["batch_size"]
    }
    return [
        Change("pictures", f"mel.engine {now} -> {name}", rate / rates[now])
        for name, rate in rates.items()
        if name != now
    ]


def _precision(result: dict) -> list[Change]:
    peaks = result["roofline"]["peaks_flops"]
    if result["precision"] == "bfloat16":
        return []
    factor = peaks["bfloat16"] / peaks["float32"]
    return [Change("network", "optim.precision -> bfloat16 (which changes results a little)", factor, at_most=True)]


def _faster_networks(result: dict, factor: float) -> list[Change]:
    machine = result["recipe"]["machine"]
    off = [f"machine.{key}" for key in ("compile", "channels_last") if not machine[key]]
    told = f"{' and '.join(off)} (python -m benchmarks tune measures what they give)"
    return [Change("network", told, factor, at_most=True)] if off else []


def findings(result: dict) -> list[str]:
    """A sentence for the training of each network from files, and for prediction."""
    rows, told = {(one["stage"], one["way"]): one for one in result["rows"]}, []
    for ready, whole, name in _pairs(rows):
        rates = {**before_networks(result), "network": ready["windows_per_s"]}
        bounds = _faster_networks(result, ready["limit_windows_per_s"] / ready["windows_per_s"])
        told.append(sentence(name, rates, whole["windows_per_s"], [*changes(result), *bounds], not result["on_gpu"]))
    return told


def before_networks(result: dict) -> dict[str, float]:
    """Rates of the stages that all networks share, as far as a suite has measured them."""
    rates = {}
    for one in result.get("rows", []):
        if (one["stage"], one["way"]) == ("loader", "files to batches"):
            rates["audio"] = one["windows_per_s"]
        if one.get("engine") == result["engine"] and one["batch_size"] == result["batch_size"]:
            rates["pictures"] = one["windows_per_s"]
    return rates


def _pairs(rows: dict) -> list[tuple[dict, dict, str]]:
    """Networks alone, the whole pipeline, and what it is called."""
    found = []
    for (stage, way), one in rows.items():
        for alone, whole in (("pictures ready", "from files"), ("networks alone", "files to probabilities")):
            name, _, ending = way.rpartition(", ")
            if ending == alone:
                found.append((one, rows[stage, f"{name}, {whole}"], f"{stage} {name}"))
    return found
