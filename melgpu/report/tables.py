"""Scores of a round as tables and sentences for the terminal."""

from collections.abc import Mapping

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from melgpu import console
from melgpu.runs.run import Run
from melgpu.stacking.stack import compared_predictor, final_predictor


def show_scores(run: Run, number: int) -> None:
    """The scores of a stacked round, and what stacking gained."""
    scores = run.scores(number)
    console.show(score_table(f"Round {number}{run.variant}", scores))
    answer = final_predictor(run.recipe.stacking.final_predictor, len(run.spec(number).blend))
    console.say(gain_line(compared_predictor(answer), scores))
    if doubt := stacking_warning(answer, scores):
        console.say(doubt)


def score_table(title: str, scores: Mapping[str, Mapping[str, Mapping]]) -> Table:
    """Accuracies with their 95 % confidence intervals: a row a judge, a column a set of tracks; see `Judged.scores`."""
    table = Table(title=title, title_justify="left", box=SIMPLE, caption="accuracy on tracks, 95 % confidence interval")
    table.add_column("")
    columns = list(dict.fromkeys(column for cells in scores.values() for column in cells))
    for column in columns:
        cell = next(cells[column] for cells in scores.values() if column in cells)
        seen = f"\n{cell['pseudo_labelled']} trained on" if cell["pseudo_labelled"] else ""
        table.add_column(f"{column}\n{cell['tracks']} tracks{seen}", justify="right")
    for name, cells in scores.items():
        table.add_row(escape(name), *(_score(cells[c]) if c in cells else "" for c in columns))
    return table


def _score(score: Mapping) -> str:
    low, high = score["interval"]
    return f"{score['accuracy']:.3f} [dim]{low:.2f}-{high:.2f}[/dim]"


def stacking_warning(judge: str, scores: Mapping[str, Mapping[str, Mapping]]) -> str | None:
    """What to think of a judge that is right less often than the mean of the networks on validation tracks."""
    own = scores[judge].get("validation")
    if own is None or own["gain"] >= 0:
        return None
    return (
        f"On validation tracks the plain mean of the networks is right more often than the {judge}: "
        f"{own['tracks']} may be too few to stack. A new run with --set stacking.final_predictor=mean believes the mean"
    )


def gain_line(judge: str, scores: Mapping[str, Mapping[str, Mapping]]) -> str:
    """What a judge gains over the mean of the networks, with its 95 % interval; see `Judged.scores`."""
    gains = ((split, score["gain"], *score["gain_interval"]) for split, score in scores[judge].items())
    told = ", ".join(f"{split} {gain:+.3f} ({low:+.2f} to {high:+.2f})" for split, gain, low, high in gains)
    return f"{judge} against the mean of the networks: {told}"
