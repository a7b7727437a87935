"""What was tried of a setting: rates by value, what is kept, and the TOML file of all that was kept."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tomli_w
from rich.box import SIMPLE
from rich.table import Table

from melgpu.errors import InputError
from melgpu.recipe import Recipe, apply_overrides

WORTH = 1.03  # a setting that gains less stays as it is
ROUNDS = 2  # of all values, there and back: a machine's speed drifts
ALWAYS = ("loader.workers", "loader.predict_batch_size", "machine.feature_batch", "machine.channels_last")


@dataclass
class Trial:
    """What was tried of one setting: rates in windows/s by value and round, what could not be tried, what is kept."""

    setting: str
    before: object
    rates: dict[object, list[list[float]]] = field(default_factory=dict)
    refused: dict[object, str] = field(default_factory=dict)

    def median(self, value: object) -> float:
        return float(np.median(self.pooled(value)))

    def pooled(self, value: object) -> list[float]:
        return [rate for own in self.rates[value] for rate in own]

    def gain(self, value: object) -> float:
        """How many times as fast as the value before."""
        return self.median(value) / self.median(self.before)

    @property
    def best(self) -> object:
        """The fastest value, or the one before where that gains too little or cannot be compared."""
        if self.before not in self.rates:
            return self.before
        fastest = max(self.rates, key=self.median)
        apart = np.quantile(self.pooled(fastest), 0.25) > np.quantile(self.pooled(self.before), 0.75)
        rounds = zip(self.rates[fastest], self.rates[self.before], strict=True)
        always = all(np.median(new) > np.median(old) for new, old in rounds)
        return fastest if apart and always and self.gain(fastest) > WORTH else self.before

    @property
    def kept(self) -> object:
        """The best value that leaves results as they are: there is no bank where there was none."""
        return self.before if (self.setting, self.before) == ("loader.pcm_cache", "off") else self.best


def changed(recipe: Recipe, key: str, value: object) -> Recipe:
    """A recipe with one `table.key` changed. Raises InputError."""
    return apply_overrides(recipe, [f"{key}={tomli_w.dumps({'x': value}).partition('=')[2].strip()}"])


def value_of(recipe: Recipe, key: str) -> object:
    table, name = key.split(".")
    return getattr(getattr(recipe, table), name)


def attempt(recipe: Recipe, key: str, values: list, measure: Callable[[Recipe], list[float]]) -> Trial:
    """Rates under each value of a setting, there and back; one that does not work here is left out."""
    trial = Trial(key, value_of(recipe, key))
    there = list(dict.fromkeys([trial.before, *values]))
    for value in itertools.chain.from_iterable(there[:: (-1) ** number] for number in range(ROUNDS)):
        try:
            if value not in trial.refused:
                trial.rates.setdefault(value, []).append(measure(changed(recipe, key, value)))
        except (InputError, RuntimeError) as error:  # an inexact engine; too little memory; no compiler
            trial.rates.pop(value, None)
            trial.refused[value] = (str(error).strip() or type(error).__name__).splitlines()[0]
    return trial


def distinct(before: object, values: list, effect: Callable[[object], object]) -> list:
    """The values that differ in effect from the one before, and from one another."""
    found = {effect(before): before}
    for value in values:
        found.setdefault(effect(value), value)
    return list(found.values())[1:]


def toml(tried: list[Trial], tuned: Recipe, stamp: str, date: str) -> str:
    """The file to lay over a recipe: what was kept, where it was measured, and what else would gain."""
    changes = [key for key in (trial.setting for trial in tried) if key in ALWAYS]
    changes += [trial.setting for trial in tried if trial.setting not in ALWAYS and trial.kept != trial.before]
    data: dict[str, dict] = {"machine": {"tuned_on": stamp}}
    for key in changes:
        table, name = key.split(".")
        data.setdefault(table, {})[name] = value_of(tuned, key)
    told = "".join(f"# {line}\n" for line in hints(tried))
    return f"# What is the fastest on one machine; python -m benchmarks tune, {date}.\n{told}\n{tomli_w.dumps(data)}"


def hints(tried: list[Trial]) -> list[str]:
    """Gains that are not taken because they change results."""
    return [
        f'{trial.setting} = "{trial.best}" streams {trial.gain(trial.best):.1f} times as fast as "{trial.before}", '
        "but shuffles whole epochs: other results"
        for trial in tried
        if trial.best != trial.kept
    ]


def table(tried: list[Trial]) -> Table:
    shown = Table(title="One setting after another, windows/s of the stage that it sets", box=SIMPLE)
    for column in ("setting", "tried", "kept"):
        shown.add_column(column)
    for trial in tried:
        rates = [f"{value}: {_rate(trial.median(value))}" for value in trial.rates]
        refused = [f"{value}: no ({why[:60]})" for value, why in trial.refused.items()]
        shown.add_row(trial.setting, ", ".join(rates + refused), str(trial.kept))
    return shown


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
