"""The bottleneck of a pipeline, what to change, and the gain; arithmetic on measured rates alone.

On a GPU audio (decoding and copying) overlaps with the device's work, in which pictures and networks alternate: the
slower of the two limits the rate. On a CPU all three share the same cores, so the times of a window in each add up.
"""

from collections.abc import Iterable
from dataclasses import dataclass

MIN_GAIN = 1.03  # a smaller gain is noise


@dataclass(frozen=True)
class Change:
    """A change of settings: a stage becomes `factor` times as fast; `at_most`: a bound, not a measurement."""

    stage: str
    description: str
    factor: float
    at_most: bool = False


def combined_rate(rates: dict[str, float], shared: bool) -> float:
    """Windows a second of overlapping stages, from the rates of each alone; `shared` where they share the cores."""
    return 1 / sum(1 / rate for rate in limiting_stages(rates, shared).values())


def limiting_stages(rates: dict[str, float], shared: bool) -> dict[str, float]:
    """The sequential stages that limit the rate: all that share the cores; else audio, or all but audio."""
    if shared:
        return rates
    device = {stage: rate for stage, rate in rates.items() if stage != "audio"}
    return device if combined_rate(device, True) < rates["audio"] else {"audio": rates["audio"]}


def time_fractions(rates: dict[str, float]) -> dict[str, float]:
    """Each stage's fraction of the time of a window."""
    total = sum(1 / rate for rate in rates.values())
    return {stage: 1 / rate / total for stage, rate in rates.items()}


def slowest(rates: dict[str, float]) -> str:
    return min(rates, key=rates.__getitem__)


def gain(rates: dict[str, float], change: Change, shared: bool) -> float:
    """How many times as fast the pipeline becomes."""
    after = {**rates, change.stage: rates[change.stage] * change.factor}
    return combined_rate(after, shared) / combined_rate(rates, shared)


def best(rates: dict[str, float], changes: Iterable[Change], shared: bool) -> tuple[Change, float] | None:
    """The change with the largest gain; None where no gain exceeds MIN_GAIN."""
    gains = [(change, gain(rates, change, shared)) for change in changes if change.stage in rates]
    return max((pair for pair in gains if pair[1] > MIN_GAIN), key=lambda pair: pair[1], default=None)


def summarize(
    pipeline: str, rates: dict[str, float], measured: float, candidates: Iterable[Change], shared: bool
) -> str:
    """The bottleneck of a pipeline, what to change, and the gain; `measured` is the pipeline's rate in windows/s."""
    limiting, work = limiting_stages(rates, shared), "work" if shared else "GPU's work"
    stage = slowest(limiting)
    text = f"{pipeline}: {stage} limits ({rates[stage]:,.1f} windows/s alone"
    text += f", {time_fractions(limiting)[stage]:.0%} of the {work} on a window" if len(limiting) > 1 else ""
    predicted = combined_rate(rates, shared)
    text += f"); {measured:,.1f} windows/s together, {predicted:,.1f} predicted from the stages alone. "
    candidates = list(candidates)
    best_measured = best(rates, [change for change in candidates if not change.at_most], shared)
    best_bound = best(rates, [change for change in candidates if change.at_most], shared)
    if best_measured and best_measured[0].stage != "network":  # no pipeline is faster than its network alone
        max_gain = rates["network"] / measured
        best_measured = (best_measured[0], min(best_measured[1], max_gain)) if max_gain > MIN_GAIN else None
    if best_measured:
        text += f"Change {best_measured[0].description}: predicted {best_measured[1]:.2f} times as fast. "
    if best_bound:
        text += f"To try: {best_bound[0].description}; at most {best_bound[1]:.2f} times as fast."
    return text.strip() if best_measured or best_bound else text + "No setting is known to gain more than 3 %."


def changes(result: dict) -> list[Change]:
    """Changes to settings that are not in use, with the factors of a suite's rows."""
    rates = {(row["stage"], row["way"]): row["windows_per_s"] for row in result["rows"]}
    return [*_more_processes(result), *_pcm_caches(result, rates), *_engines(result), *_precision(result)]


def _more_processes(result: dict) -> list[Change]:
    by_count = {row["workers"]: row["windows_per_s"] for row in result["rows"] if row["stage"] == "decode"}
    current = result["workers"]
    return [
        Change("audio", f"loader.workers {current} -> {count}", rate / by_count[current])
        for count, rate in by_count.items()
        if count != current and current in by_count
    ]


def _pcm_caches(result: dict, rates: dict) -> list[Change]:
    uncached = rates["loader", "files to batches"]
    cached = {value: rates.get(("copy", f"pcm_cache={value}")) for value in ("disk", "gpu")}
    megabytes = 4 * result["track_s"] * result["recipe"]["audio"]["sample_rate"] / 1e6  # of float32
    cost = f"({megabytes:.1f} MB a track)"
    return [
        Change("audio", f"loader.pcm_cache off -> {value} {cost}", rate / uncached)
        for value, rate in cached.items()
        if rate
    ]


def _engines(result: dict) -> list[Change]:
    current = result["engine"]
    rates = {
        row["engine"]: row["windows_per_s"]
        for row in result["rows"]
        if row["stage"] == "features" and row["batch_size"] == result["batch_size"]
    }
    return [
        Change("pictures", f"mel.engine {current} -> {name}", rate / rates[current])
        for name, rate in rates.items()
        if name != current
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
    description = f"{' and '.join(off)} (python -m benchmarks tune measures the gain)"
    return [Change("network", description, factor, at_most=True)] if off else []


def is_complete(result: dict, stages: list[str]) -> bool:
    """Whether a suite has rows of all stages, and those that the advice is computed from."""
    measured = {row["stage"] for row in result["rows"]}
    return set(stages) <= measured and {"audio", "pictures"} <= before_networks(result).keys()


def findings(result: dict) -> list[str]:
    """A summary of the training of each network from files, and of prediction."""
    rows, texts = {(row["stage"], row["way"]): row for row in result["rows"]}, []
    for alone, pipeline, name in _pairs(rows):
        rates = {**before_networks(result), "network": alone["windows_per_s"]}
        bounds = _faster_networks(result, alone["limit_windows_per_s"] / alone["windows_per_s"])
        all_changes = [*changes(result), *bounds]
        texts.append(summarize(name, rates, pipeline["windows_per_s"], all_changes, not result["on_gpu"]))
    return texts


def before_networks(result: dict) -> dict[str, float]:
    """Rates of the stages that all networks share, as far as a suite has measured them."""
    rates = {}
    for row in result.get("rows", []):
        if (row["stage"], row["way"]) == ("loader", "files to batches"):
            rates["audio"] = row["windows_per_s"]
        if row.get("engine") == result["engine"] and row["batch_size"] == result["batch_size"]:
            rates["pictures"] = row["windows_per_s"]
    return rates


def _pairs(rows: dict) -> list[tuple[dict, dict, str]]:
    """Rows of the networks alone and of the pipeline, and the pipeline's name."""
    pairs = []
    for (stage, variant), row in rows.items():
        for alone, pipeline in (("pictures ready", "from files"), ("networks alone", "files to probabilities")):
            name, _, ending = variant.rpartition(", ")
            if ending == alone:
                pairs.append((row, rows[stage, f"{name}, {pipeline}"], f"{stage} {name}"))
    return pairs
