"""Train the networks of a run's current round to checkpoints."""

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from melgpu import cli, console, distributed
from melgpu.audio import quarantine
from melgpu.console import Tracker
from melgpu.data import windows
from melgpu.data.batch import Batch
from melgpu.data.loader import WindowLoader
from melgpu.errors import InputError
from melgpu.features import engines, parity
from melgpu.features.log_mel import LogMel
from melgpu.features.parity import ParityFigures
from melgpu.models import classifier
from melgpu.models.metadata import EpochRecord
from melgpu.recipe_schema import EngineName, OptimSpec
from melgpu.runs import environment, sampling
from melgpu.runs.job import Job
from melgpu.runs.run import Run
from melgpu.training import checkpointing, loop
from melgpu.training.background_writer import BackgroundWriter
from melgpu.training.device_cache import load_device_cache
from melgpu.training.loop import EpochDone, Event, StepDone, TrainingData, ValidationBatch
from melgpu.training.stage_timer import fractions
from melgpu.training.state import Training, start_training


def train_round(run: Run, backbone: str | None, fold: int | None, device: torch.device) -> None:
    """Train the untrained networks of the current round, or of one of its backbones or folds. Raises InputError."""
    if run.current_round is None:
        console.say(f"All rounds are done: {run.command_line('stack')} shows the scores")
        return
    jobs = run.choose_jobs(backbone, fold)
    missing = [job for job in jobs if not run.is_trained(job)]
    if distributed.is_main_process():
        checkpointing.delete_unused_states(run, jobs)
    machine = run.recipe.machine
    if machine.tensorboard:
        checkpointing.summary_writer()  # fails now rather than after the first epoch
    if note := environment.tuning_mismatch(machine.tuned_on, device):
        console.say(note)
    features = LogMel(run.recipe.mel, run.recipe.audio.sample_rate, machine.feature_batch).to(device)
    parity_figures = agree_on_engine(features, run.recipe.audio.sample_rate, device)
    # Steps have one shape: cuDNN measures its algorithms in the first, for up to 20 s, and saves up to 2 % of the rest.
    torch.backends.cudnn.benchmark = device.type == "cuda"
    with WindowLoader(run.manifest.paths, run.recipe.audio, run.recipe.loader, device, run.pcm_cache) as loader:
        train_jobs(run, missing, loader, features, parity_figures)
    distributed.barrier()  # until the main process has written the last network's files
    print_next_command(run, jobs[0].round)


def agree_on_engine(features: LogMel, sample_rate: int, device: torch.device) -> ParityFigures:
    """Let all processes compute pictures with the engine that the main process finds for its device.

    Raises InputError where it misses the parity gate on one of them.
    """
    if distributed.is_main_process():
        resolved = engines.resolve_engine(features, sample_rate, device)
        for note in resolved.notes:
            console.say(note)
        parity.check_parity(resolved.parity)
        distributed.broadcast_from_main(resolved.parity.engine)
        return resolved.parity
    engine = distributed.broadcast_from_main(features.engine)
    return engines.force_engine(features, engine, sample_rate, device)


def train_jobs(
    run: Run, jobs: list[Job], loader: WindowLoader, features: LogMel, parity_figures: ParityFigures
) -> None:
    """Train networks of one round one after another."""
    if not jobs:
        return
    load_device_cache(run, jobs, loader)
    total = sum(run.recipe.optim_for(job.backbone).total_epochs * epoch_work(run, job) for job in jobs)
    title = f"round {jobs[0].round}: training {console.counted(len(jobs), 'network')}"
    with console.progress(title, total, "windows") as tracker, cli.GracefulStop() as stop:
        for number, job in enumerate(jobs, start=1):
            job_training = JobTraining(run, job, loader, features, parity_figures, f"{number}/{len(jobs)} {job.name}")
            # The main process alone writes files; a lock of each process would keep out the others.
            with checkpointing.job_lock(run, job) if distributed.is_main_process() else nullcontext():
                job_training.fit(tracker, stop)


def epoch_work(run: Run, job: Job) -> int:
    """The number of windows that an epoch trains on and validates."""
    _, valid_rows = run.manifest.fold_rows(job.fold)
    return sampling.windows_per_epoch(run, job) + len(sampling.prediction_windows(run, valid_rows))


def print_next_command(run: Run, round_number: int) -> None:
    untrained = run.untrained_jobs(round_number)
    if run.recipe.is_one_step and not untrained:  # the script goes on by itself
        return
    status = f"is not trained yet ({len(untrained)} networks left)" if untrained else "is trained"
    script = "train" if untrained else "predict"
    console.say(f"Round {round_number} {status}. Next: {run.command_line(script)}")


@dataclass(frozen=True)
class JobTraining:
    """The training of one network on one fold."""

    run: Run
    job: Job
    loader: WindowLoader
    features: LogMel
    parity_figures: ParityFigures
    title: str

    @property
    def optim(self) -> OptimSpec:
        return self.run.recipe.optim_for(self.job.backbone)

    @property
    def windows_per_step(self) -> int:
        """The global batch size: of all processes together."""
        return self.optim.batch_size * distributed.world_size()

    def train_batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """The batches of this process for an epoch, from `first_step` on."""
        index = sampling.epoch_windows(self.run, self.job, epoch, distributed.rank(), distributed.world_size())
        batch_size = self.optim.batch_size
        return self.loader.batches(index[first_step * batch_size :], sampling.window_samples(self.run), batch_size)

    def valid_batches(self) -> Iterator[Batch]:
        """The batches of this process for the fold's validation tracks."""
        _, rows = self.run.manifest.fold_rows(self.job.fold)
        all_windows = sampling.prediction_windows(self.run, rows)
        index = windows.shard(all_windows, distributed.rank(), distributed.world_size())
        batch_size = self.run.recipe.loader.predict_batch_size
        return self.loader.batches(index, sampling.window_samples(self.run), batch_size)

    def start_or_resume(self) -> Training:
        """A new training, or the interrupted one in its saved state. Raises InputError."""
        recipe = self.run.recipe
        torch.manual_seed(recipe.seed)  # of the initial weights: the same on every process
        model = classifier.build(self.job.backbone, len(self.run.class_names), recipe).to(self.loader.device)
        training = start_training(model, self.optim, recipe.machine)
        training.engine = self.parity_figures.engine
        if checkpointing.resume(self.run, self.job, training):
            progress = training.progress
            console.say(f"{self.title}: resuming in epoch {progress.epoch + 1} after step {progress.step}")
        return training

    def use_engine(self, engine: EngineName) -> ParityFigures:
        """Compute pictures with a training's engine: one that resumes keeps it on any device. Raises InputError."""
        if engine == self.parity_figures.engine:
            self.features.use_engine(engine)  # the network before this one may have had another
            return self.parity_figures
        console.say(f"{self.title}: resuming with mel.engine {engine}, instead of {self.parity_figures.engine}")
        sample_rate = self.run.recipe.audio.sample_rate
        try:
            return engines.force_engine(self.features, engine, sample_rate, self.loader.device)
        except InputError as error:
            path = self.run.paths.training_state(self.job)
            raise InputError(f"{path}: trained with mel.engine {engine} ({error}); {checkpointing.REMEDY}") from None

    def fit(self, tracker: Tracker, stop: cli.GracefulStop) -> None:
        """Train to the end; where `stop` is requested, save the state and raise KeyboardInterrupt."""
        training = self.start_or_resume()
        parity_figures = self.use_engine(training.engine)
        windows_per_epoch = sampling.windows_per_epoch(self.run, self.job)
        work = epoch_work(self.run, self.job)
        tracker.skip(training.progress.epoch * work + training.progress.step * self.windows_per_step)
        micro_batch = training.micro_batch
        with BackgroundWriter() as writer:
            for event in self.training_events(training):
                if isinstance(event, EpochDone):
                    self.end_epoch(training, event.record, parity_figures, writer)
                    continue
                self.update_progress(tracker, training, windows_per_epoch, event)
                if training.micro_batch < micro_batch:
                    micro_batch = training.micro_batch
                    console.say(f"{self.title}: out of memory, continuing with micro-batches of {micro_batch} windows")
                if distributed.is_main_process():
                    self.save_if_due(training, stop, event, writer)
        tracker.skip((self.optim.total_epochs - training.progress.epoch) * work)  # after early stopping
        if distributed.is_main_process():
            checkpointing.mark_trained(self.run, self.job, training)

    def training_events(self, training: Training) -> Iterator[Event]:
        """The events of `loop.fit`, which trains as they are read."""
        recipe = self.run.recipe
        targets = sampling.training_targets(self.run, self.job)
        data = TrainingData(self.train_batches, self.valid_batches, targets)
        return loop.fit(training, self.features, data, self.optim, recipe.augment, recipe.seed)

    def save_if_due(
        self,
        training: Training,
        stop: cli.GracefulStop,
        event: StepDone | ValidationBatch,
        writer: BackgroundWriter,
    ) -> None:
        """Save the state every `machine.save_minutes`, and where `stop` is requested; then KeyboardInterrupt."""
        seconds = time.monotonic() - writer.submitted_at
        is_due = isinstance(event, StepDone) and seconds >= 60 * self.run.recipe.machine.save_minutes
        if stop.requested or is_due:
            checkpointing.save_state(self.run, self.job, training, writer)
        if stop.requested:  # the other processes end with this one
            writer.wait()
            raise KeyboardInterrupt

    def update_progress(
        self, tracker: Tracker, training: Training, windows_per_epoch: int, event: StepDone | ValidationBatch
    ) -> None:
        """Advance the progress bar by the windows of a training step or of a batch of validation."""
        progress = training.progress
        epoch = min(progress.epoch + 1, self.optim.total_epochs)
        steps = max(1, windows_per_epoch // self.windows_per_step)
        if tracker.is_detail_due():  # not after every step: reading the means synchronizes with the device
            tracker.detail = training_detail(*training.means(), progress.best_accuracy, training.timer.seconds())
        position = f"step {progress.step}/{steps}" if isinstance(event, StepDone) else "validation"
        num_windows = event.num_windows * distributed.world_size()
        tracker.advance(num_windows, f"{self.title}, epoch {epoch}/{self.optim.total_epochs}, {position}")

    def end_epoch(
        self, training: Training, record: EpochRecord, parity_figures: ParityFigures, writer: BackgroundWriter
    ) -> None:
        """Save an epoch's results and the audio errors of all processes, and print the scores."""
        audio_errors = distributed.gather_to_main(self.loader.errors)  # None except on the main process
        if audio_errors:
            checkpointing.save_epoch(self.run, self.job, training, parity_figures, writer)
            errors = [audio_error for rank_errors in audio_errors for audio_error in rank_errors.values()]
            quarantine.record_errors(self.run.paths.quarantine, errors)
        console.say(
            f"{self.title}, epoch {record.epoch}/{self.optim.total_epochs}: loss {record.loss:.3f}, "
            f"accuracy on validation windows {record.window_accuracy:.3f}"
        )


def training_detail(loss: float, accuracy: float, best: float, seconds: Mapping[str, float]) -> str:
    """Two lines: metrics, and fractions of the time by stage; `best` is below 0 before the first validation."""
    validation = f", {best:.3f} on validation at best" if best >= 0 else ""
    by_stage = fractions(dict(seconds)).items()
    # Fractions below 0.005 would read 0 %.
    stages = ", ".join(f"{stage} {fraction:.0%}" for stage, fraction in by_stage if fraction >= 0.005)
    return f"loss {loss:.3f}, accuracy {accuracy:.3f} on training windows{validation}\ntime: {stages}"
