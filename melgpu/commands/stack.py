"""Stack the networks of a run's current round: scores, pseudo labels for the next round, finally submission.csv."""

from dataclasses import replace
from typing import TYPE_CHECKING

from melgpu import cli

if TYPE_CHECKING:
    from melgpu.runs.run import Run

EPILOG = """examples:
  python stack.py --run runs/mine
  python stack.py --run runs/mine --without-pseudo     a round without pseudo labels, for a comparison
  python stack.py --run runs/mine --set stacking.final_predictor=mean     the last round anew, by other settings
  python stack.py --run runs/mine --set 'rounds.2.blend={multinomial=1.0}'     by other stackers

Settings of `stacking`, and the blend of the last round, may change after training; nothing is trained or predicted.
Needs the predictions of every network of the round (predict.py). Labels of test sets, if their CSVs have them, are
used for scores only. report.html is written at the end of each round, and again by later calls."""


def main() -> None:
    args = cli.parser(__doc__, EPILOG).parse_args()
    # After the flags are parsed, so that --help answers without importing torch.
    from melgpu.runs.folder import open_to_stack
    from melgpu.stacking.restack import restack

    run, settings = open_to_stack(args.run, args.overrides, args.without_pseudo)
    finish_round(restack(run, settings))


def finish_round(run: "Run") -> None:
    """Stack the current round, or show the last one again, and say what is next."""
    # Imported here, so that --help answers without importing torch.
    from melgpu import console
    from melgpu.report import distillation, tables
    from melgpu.stacking.restack import write_missing_submissions

    if run.current_round and not run.is_between_rounds:  # else this round is stacked: a killed call is made again
        stack_current_round(run, run.current_round)
    round_number = run.last_stacked_round
    tables.show_scores(run, round_number)
    for line in distillation.student_lines(run):
        console.say(line)
    write_missing_submissions(run)
    write_report(run)
    tables.show_next_steps(run)


def stack_current_round(run: "Run", round_number: int) -> None:
    """Stack a round; if that raises InputError, the report of the earlier rounds is written first."""
    from melgpu.errors import InputError
    from melgpu.stacking.round import stack_round

    try:
        stack_round(run, round_number)
    except InputError:
        if run.is_stacked(1):
            write_report(run)
        raise


def write_report(run: "Run") -> None:
    """Write the report; an exception is printed, and the command continues without a report."""
    from melgpu import console
    from melgpu.errors import one_line
    from melgpu.report import html

    try:
        html.write(replace(run, without_pseudo=False))  # the report shows both variants
        console.say(f"Report: {run.paths.report}")
    except Exception as error:  # the scores are written already: stacking is done without it
        console.say(f"No report: {one_line(error)}")


def command() -> None:
    """Run this script, and exit with its code."""
    cli.run(main)
