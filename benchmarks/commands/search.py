"""Search of one setting: rates by value, the selected value, and the TOML file of all selected values."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import tomli_w
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.measurement import with_value
from melgpu.recipe import Recipe

Value = TypeVar("Value")
MIN_GAIN = 1.03  # a setting that gains less stays as it is
ROUNDS = 2  # over all values, forth and back: a machine's speed drifts
ALWAYS_WRITTEN = ("loader.workers", "loader.predict_batch_size", "machine.feature_batch", "machine.channels_last")


@dataclass
class Trial:
    """Values of one setting: rates in windows/s by value and round, and the reasons of rejected values."""

    setting: str
    initial: object
    rates: dict[object, list[list[float]]] = field(default_factory=dict)
    rejected: dict[object, str] = field(default_factory=dict)

    def median(self, value: object) -> float:
        return float(np.median(self.pooled(value)))

    def pooled(self, value: object) -> list[float]:
        return [rate for samples in self.rates[value] for rate in samples]

    def gain(self, value: object) -> float:
        """How many times as fast as the initial value."""
        return self.median(value) / self.median(self.initial)

    @property
    def selected(self) -> object:
        """The fastest value, or the initial one where the gain is too small or the initial one was rejected."""
        if self.initial not in self.rates:
            return self.initial
        fastest = max(self.rates, key=self.median)
        separated = np.quantile(self.pooled(fastest), 0.25) > np.quantile(self.pooled(self.initial), 0.75)
        rounds = zip(self.rates[fastest], self.rates[self.initial], strict=True)
        in_every_round = all(np.median(new) > np.median(old) for new, old in rounds)
        return fastest if separated and in_every_round and self.gain(fastest) > MIN_GAIN else self.initial


def value_of(recipe: Recipe, key: str) -> object:
    table, name = key.split(".")
    return getattr(getattr(recipe, table), name)


def try_values(recipe: Recipe, key: str, values: list, measure: Callable[[Recipe], list[float]]) -> Trial:
    """Rates of the recipe's value and others of a setting, forth and back; values that fail here are rejected."""
    trial = Trial(key, value_of(recipe, key))
    values = list(dict.fromkeys([trial.initial, *values]))
    for value in itertools.chain.from_iterable(values[:: (-1) ** i] for i in range(ROUNDS)):
        try:
            if value not in trial.rejected:
                trial.rates.setdefault(value, []).append(measure(with_value(recipe, key, value)))
        except Exception as error:  # an inexact engine, out of memory, no compiler: each fails in its own way
            trial.rates.pop(value, None)
            trial.rejected[value] = (str(error).strip() or type(error).__name__).splitlines()[0]
    return trial


def distinct(initial: Value, values: Sequence[Value], effect: Callable[[Value], object]) -> list[Value]:
    """The values that differ in effect from the initial one, and from one another."""
    by_effect = {effect(initial): initial}
    for value in values:
        by_effect.setdefault(effect(value), value)
    return list(by_effect.values())[1:]


def to_toml(trials: list[Trial], tuned: Recipe, signature: str, date: str) -> str:
    """The file to overlay on a recipe: the selected values, and where they were measured."""
    changes = [key for key in (trial.setting for trial in trials) if key in ALWAYS_WRITTEN]
    changes += [
        trial.setting for trial in trials if trial.setting not in ALWAYS_WRITTEN and trial.selected != trial.initial
    ]
    data: dict[str, dict] = {"machine": {"tuned_on": signature}}
    for key in changes:
        table, name = key.split(".")
        data.setdefault(table, {})[name] = value_of(tuned, key)
    title = f"# The fastest settings of one machine; python -m benchmarks tune, {date}."
    return f"{title}\n\n{tomli_w.dumps(data)}"


def make_table(trials: list[Trial]) -> Table:
    table = Table(title="One setting after another, windows/s of the stage that it sets", box=SIMPLE)
    for column in ("setting", "tried", "selected"):
        table.add_column(column)
    for trial in trials:
        rates = [f"{value}: {_rate(trial.median(value))}" for value in trial.rates]
        rejected = [f"{value}: rejected ({reason[:60]})" for value, reason in trial.rejected.items()]
        table.add_row(trial.setting, ", ".join(rates + rejected), str(trial.selected))
    return table


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
