"""Predict with a run's networks: the tracks that stacking needs, or any music files."""

from melgpu import cli
from melgpu.commands import predict_flags
from melgpu.errors import InputError


def main() -> int:
    parser = cli.parser(__doc__, predict_flags.EPILOG, needs_run=False)
    predict_flags.add_flags(parser)
    args = parser.parse_args()
    # After the flags are parsed, so that --help answers without importing torch.
    from melgpu.commands import predict_checks, predict_parts

    predict_checks.check_flags(args)
    code = predict_parts.run_parts(args)
    if code is not None:
        return code
    from melgpu import console, distributed
    from melgpu.prediction import music, tagging
    from melgpu.prediction.round import predict_round
    from melgpu.runs import environment
    from melgpu.runs.folder import open_run

    with distributed.init_distributed(cli.select_device(args.device)) as device:
        console.set_quiet(not distributed.is_main_process())
        run = open_run(args.run, args.overrides, args.without_pseudo)
        # A speed that was measured elsewhere changes no result, so this is only a note.
        if note := environment.tuning_mismatch(run.recipe.machine.tuned_on, device):
            console.say(note)
        if not args.music:  # the tracks that stacking needs
            predict_round(run, device)
            return 0
        if distributed.world_size() > 1:
            raise InputError("new music is predicted by one process a GPU: leave torchrun out, and add --gpus all")
        if args.timeline:
            return 2 if music.write_timelines(run, args.music, args.timeline, device) else 0
        if args.embed:
            return 2 if music.embed_files(run, args.music, args.embed, device) else 0
        tags = tagging.requested(args.write_tags, args.yes)
        return 2 if music.predict_files(run, args.music, args.out, device, args.min_confidence or 0.0, tags) else 0


def command() -> None:
    """Run this script, and exit with its code."""
    cli.run(main)
