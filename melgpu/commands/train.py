"""Train the networks of a run's current round."""

from melgpu import cli
from melgpu.commands import stack, train_flags


def main() -> int:
    args = train_flags.parse_args(__doc__)
    # After the flags are parsed, so that --help answers without importing torch.
    from melgpu import console, distributed
    from melgpu.prediction.distillation.distributions import write_distributions
    from melgpu.prediction.distillation.speed import measure_student
    from melgpu.prediction.round import predict_round
    from melgpu.runs import setup
    from melgpu.runs.distillation.teacher import open_teacher
    from melgpu.runs.run_request import RunRequest, Sources
    from melgpu.training.round import train_round

    sources = Sources(args.labels, args.test, args.private, args.data, args.labels_from_tags)
    teacher = open_teacher(args.teacher) if args.teacher else None
    request = RunRequest(args.run, args.recipe, args.overrides, args.without_pseudo, teacher)
    if args.check:
        return 2 if setup.check_dataset(request, sources, cli.select_device(args.device)) else 0
    with distributed.init_distributed(cli.select_device(args.device)) as device:
        console.set_quiet(not distributed.is_main_process())
        run = None
        if distributed.is_main_process():  # it alone writes files
            run = setup.open_or_create(request, sources, device)
        distributed.barrier()  # until the main process has created the run
        run = run or setup.reopen(request)
        if teacher:
            write_distributions(run, teacher, device)
        train_round(run, args.backbone, args.fold, device)
        round_number = run.current_round
        if not run.recipe.is_one_step or (round_number and run.untrained_jobs(round_number)):
            return 0
        if round_number:
            predict_round(run, device)
        if run.recipe.distil:
            measure_student(run, device)
        # A process that was killed may have stacked the round and not written its report.
        if distributed.is_main_process() and (round_number or not run.paths.report.exists()):
            stack.finish_round(run)
    return 0


def command() -> None:
    """Run this script, and exit with its code."""
    cli.run(main)
