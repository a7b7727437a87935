"""Scores of a round as tables and sentences for the terminal."""

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from melgpu import console
from melgpu.data.manifest import Split
from melgpu.report.summary import changed_settings_sentence, selection_sentence
from melgpu.runs.formats.scores import Score, Scores
from melgpu.runs.run import Run
from melgpu.stacking.stack import MEAN, compared_predictor


def show_scores(run: Run, round_number: int) -> None:
    """Print the scores of a stacked round, and the gain of stacking."""
    round_scores = run.scores(round_number)
    scores = dict(round_scores.scores)
    predictor = round_scores.final_predictor
    selection = round_scores.selection
    selected = selection.predictor if selection else None
    compared = compared_predictor(predictor, selected, len(round_scores.settings.blend))
    backbones = run.round_spec(round_number).backbones
    if len(backbones) == 1:  # a single network is its own mean
        scores.pop(MEAN)
        predictor = backbones[0] if predictor == MEAN else predictor
    console.show(score_table(f"Round {round_number}{run.variant_suffix}", scores, predictor))
    if compared:
        console.say(gain_line(compared, scores))
    if selection:
        console.say(f"auto: {selection_sentence(selection)}")
    warning = stacking_warning(predictor, scores, _mean_command(run, round_number))
    if warning and selected != MEAN:  # where the mean is selected, the lower accuracy is that of nested selections
        console.say(warning)
    if round_number == run.last_round and (changes := changed_settings_sentence(run, round_scores.settings)):
        console.say(changes)


def show_next_steps(run: Run) -> None:
    """Print what to call after a round is stacked, or what all rounds have made."""
    if run.current_round:
        console.say(f"Round {run.last_stacked_round} is done. Next: {run.command_line('train')}")
        return
    if not run.without_pseudo:  # which is for a comparison only
        for path in run.submission_paths.values():
            console.say(f"Submission: {path}")
    if not run.submission_paths:
        console.say("No submission: the run was created without --test and --private")
    console.say(f"To classify new music: {run.command_line('predict', 'song.mp3', 'folder/')}")


def _mean_command(run: Run, round_number: int) -> str:
    """How to take the mean of the networks: of the last round now, else in a new run, as later rounds depend on it."""
    change = ("--set", "stacking.final_predictor=mean")
    if round_number == run.last_round:
        return run.command_line("stack", *change)
    return f"a new run with {' '.join(change)}"


def score_table(title: str, scores: Scores, predictor: str) -> Table:
    """Accuracies with their 95 % confidence intervals: a row per predictor, a column per split.

    The row of the predictor whose classes are the result is marked.
    """
    table = Table(title=title, title_justify="left", box=SIMPLE, caption="accuracy on tracks, 95 % confidence interval")
    table.add_column("")
    splits = list(dict.fromkeys(split for by_split in scores.values() for split in by_split))
    for split in splits:
        # The numbers of tracks are the same for every predictor that has this split.
        score = next(by_split[split] for by_split in scores.values() if split in by_split)
        note = f"\n{score.num_pseudo_labelled} trained on" if score.num_pseudo_labelled else ""
        table.add_column(f"{split.description}\n{score.num_tracks} tracks{note}", justify="right")
    for name, by_split in scores.items():
        formatted = [_format_score(by_split[split]) if split in by_split else "" for split in splits]
        is_final = name == predictor and len(scores) > 1
        table.add_row(escape(f"{name} (final)" if is_final else name), *formatted, style="bold" if is_final else None)
    return table


def _format_score(score: Score) -> str:
    low, high = score.interval
    return f"{score.accuracy:.3f} [dim]{low:.2f}-{high:.2f}[/dim]"


def stacking_warning(predictor: str, scores: Scores, remedy: str) -> str | None:
    """A warning where a predictor is less accurate than the mean of the networks on validation tracks."""
    score = scores[predictor].get(Split.VALID)
    if score is None or score.gain >= 0:
        return None
    return (
        f"On validation tracks the plain mean of the networks is more accurate than the {predictor}: "
        f"{score.num_tracks} may be too few to stack. To take the mean: {remedy}"
    )


def gain_line(predictor: str, scores: Scores) -> str:
    """Gains of a predictor over the mean of the networks, with 95 % intervals."""
    gains = []
    for split, score in scores[predictor].items():
        low, high = score.gain_interval
        gains.append(f"{split.description} {score.gain:+.3f} ({low:+.2f} to {high:+.2f})")
    return f"{predictor} against the mean of the networks: {', '.join(gains)}"
