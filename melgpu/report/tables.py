"""Scores of a round as tables and sentences for the terminal."""

from collections.abc import Mapping

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from melgpu import console
from melgpu.runs.run import Run
from melgpu.stacking.stack import compared_predictor, final_predictor


def show_scores(run: Run, round_number: int) -> None:
    """Print the scores of a stacked round, and the gain of stacking."""
    scores = run.scores(round_number)
    console.show(score_table(f"Round {round_number}{run.variant_suffix}", scores))
    predictor = final_predictor(run.recipe.stacking.final_predictor, len(run.round_spec(round_number).blend))
    console.say(gain_line(compared_predictor(predictor), scores))
    if warning := stacking_warning(predictor, scores):
        console.say(warning)


def score_table(title: str, scores: Mapping[str, Mapping[str, Mapping]]) -> Table:
    """Accuracies with their 95 % confidence intervals: a row per predictor, a column per split.

    `scores` are those of `RoundEvaluation.scores`.
    """
    table = Table(title=title, title_justify="left", box=SIMPLE, caption="accuracy on tracks, 95 % confidence interval")
    table.add_column("")
    columns = list(dict.fromkeys(column for cells in scores.values() for column in cells))
    for column in columns:
        # The numbers of tracks are the same for every predictor that has this split.
        cell = next(cells[column] for cells in scores.values() if column in cells)
        note = f"\n{cell['pseudo_labelled']} trained on" if cell["pseudo_labelled"] else ""
        table.add_column(f"{column}\n{cell['tracks']} tracks{note}", justify="right")
    for name, cells in scores.items():
        formatted = [_format_score(cells[column]) if column in cells else "" for column in columns]
        table.add_row(escape(name), *formatted)
    return table


def _format_score(score: Mapping) -> str:
    low, high = score["interval"]
    return f"{score['accuracy']:.3f} [dim]{low:.2f}-{high:.2f}[/dim]"


def stacking_warning(predictor: str, scores: Mapping[str, Mapping[str, Mapping]]) -> str | None:
    """A warning where a predictor is less accurate than the mean of the networks on validation tracks."""
    score = scores[predictor].get("validation")
    if score is None or score["gain"] >= 0:
        return None
    return (
        f"On validation tracks the plain mean of the networks is more accurate than the {predictor}: "
        f"{score['tracks']} may be too few to stack. A new run with --set stacking.final_predictor=mean uses the mean"
    )


def gain_line(predictor: str, scores: Mapping[str, Mapping[str, Mapping]]) -> str:
    """Gains of a predictor over the mean of the networks, with 95 % intervals; see `RoundEvaluation.scores`."""
    gains = ((split, score["gain"], *score["gain_interval"]) for split, score in scores[predictor].items())
    formatted = ", ".join(f"{split} {gain:+.3f} ({low:+.2f} to {high:+.2f})" for split, gain, low, high in gains)
    return f"{predictor} against the mean of the networks: {formatted}"
