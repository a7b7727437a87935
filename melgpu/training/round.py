"""The networks of a run's current round that are not trained yet, to checkpoints."""

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
from melgpu.features import parity
from melgpu.features.log_mel import LogMel
from melgpu.models import classifier
from melgpu.recipe import OptimSpec
from melgpu.runs import environment, preflight, sampling
from melgpu.runs.run import Job, Run
from melgpu.training import checkpointing, loop
from melgpu.training.loop import Training
from melgpu.training.stage_timer import fractions


def train_round(run: Run, backbone: str | None, fold: int | None, device: torch.device) -> None:
    """Train what is missing of the current round, or of one of its backbones or folds. Raises InputError."""
    if run.current_round is None:
        console.say(f"All rounds are done: python stack.py {run.flags} shows the scores")
        return
    jobs = run.choose_jobs(backbone, fold)
    missing = [job for job in jobs if not run.is_trained(job)]
    machine = run.recipe.machine
    if machine.tensorboard:
        checkpointing.summary_writer()  # or an error now
    if note := environment.tuning_mismatch(machine.tuned_on, device):
        console.say(note)
    features = LogMel(run.recipe.mel, run.recipe.audio.sample_rate, machine.feature_batch).to(device)
    figures = parity.measure_parity(features, run.recipe.audio.sample_rate, device)
    parity.check_parity(figures)
    with WindowLoader(run.manifest.paths, run.recipe.audio, run.recipe.loader, device, run.pcm_cache) as loader:
        train_jobs(run, missing, loader, features, figures)
    distributed.barrier()
    say_next(run)


def train_jobs(run: Run, jobs: list[Job], loader: WindowLoader, features: LogMel, figures: dict) -> None:
    """Train networks one after another."""
    total = sum(run.recipe.optim_for(job.backbone).max_epochs * sampling.windows_per_epoch(run, job) for job in jobs)
    title = f"round {run.current_round}: training {len(jobs)} networks"
    if jobs:
        preflight.load_to_device(loader, run.labelled_rows(run.current_round))
    with console.progress(title, total, "windows") as tracker, cli.GracefulStop() as stop:
        for number, job in enumerate(jobs, start=1):
            training = JobTraining(run, job, loader, features, figures, f"{number}/{len(jobs)} {job.name}")
            with checkpointing.job_lock(run, job) if distributed.is_main_process() else nullcontext():
                training.fit(tracker, stop)


def say_next(run: Run) -> None:
    left = [job for job in run.jobs(run.current_round) if not run.is_trained(job)]
    state, script = (f"lacks {len(left)} of its networks", "train.py") if left else ("is trained", "predict.py")
    console.say(f"Round {run.current_round} {state}. Next: python {script} {run.flags}")


@dataclass(frozen=True)
class JobTraining:
    """The training of one network on one fold; `figures` are those of its features (see `parity`)."""

    run: Run
    job: Job
    loader: WindowLoader
    features: LogMel
    figures: dict
    title: str

    @property
    def optim(self) -> OptimSpec:
        return self.run.recipe.optim_for(self.job.backbone)

    @property
    def windows_per_step(self) -> int:
        """Of all processes together."""
        return self.optim.batch_size * distributed.world_size()

    def train_batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """This process's batches of an epoch, from one of its steps on."""
        index = sampling.epoch_windows(self.run, self.job, epoch, distributed.rank(), distributed.world_size())
        batch_size = self.optim.batch_size
        return self.loader.batches(index[first_step * batch_size :], sampling.window_samples(self.run), batch_size)

    def valid_batches(self) -> Iterator[Batch]:
        """This process's batches of the fold's validation tracks."""
        _, rows = self.run.fold_rows(self.job.fold)
        index = sampling.prediction_windows(self.run, rows)
        own = windows.shard(index, distributed.rank(), distributed.world_size())
        batch_size = self.run.recipe.loader.predict_batch_size
        return self.loader.batches(own, sampling.window_samples(self.run), batch_size)

    def start(self) -> Training:
        """A fresh training, or the interrupted one from where it stopped. Raises InputError."""
        recipe = self.run.recipe
        torch.manual_seed(recipe.seed)
        if recipe.mel.trainable != "none" and distributed.world_size() > 1:
            raise InputError(f"mel.trainable {recipe.mel.trainable} learns in one process only: leave torchrun out")
        model = classifier.build(self.job.backbone, len(self.run.class_names), recipe).to(self.loader.device)
        state = loop.start(model, self.optim, recipe.machine)
        if checkpointing.resume(self.run, self.job, state):
            progress = state.progress
            console.say(f"{self.title}: going on in epoch {progress.epoch + 1} after step {progress.step}")
        return state

    def fit(self, tracker: Tracker, stop: cli.GracefulStop) -> None:
        """Train to the end; what was asked to stop ends with KeyboardInterrupt and a saved state."""
        run, job, recipe = self.run, self.job, self.run.recipe
        state = self.start()
        epoch_windows = sampling.windows_per_epoch(run, job)
        tracker.skip(state.progress.epoch * epoch_windows + state.progress.step * self.windows_per_step)
        micro_batch = state.micro_batch
        features = state.model.front_end or self.features
        targets = sampling.training_targets(run, job)
        batches = self.train_batches, self.valid_batches
        for done in loop.fit(state, features, *batches, targets, self.optim, recipe.augment, recipe.seed):
            if isinstance(done, dict):
                self.end_epoch(state, done["epoch"])
                continue
            self.show(tracker, state, epoch_windows, done * distributed.world_size())
            if state.micro_batch < micro_batch:
                micro_batch = state.micro_batch
                console.say(f"{self.title}: the GPU's memory ran out, going on with {micro_batch} windows at once")
            if distributed.is_main_process():
                is_due = done and state.progress.step % recipe.machine.save_every == 0
                if stop.requested or is_due:
                    checkpointing.save_state(run, job, state)
                if stop.requested:  # the other processes end with this one
                    raise KeyboardInterrupt
        tracker.skip((self.optim.max_epochs - state.progress.epoch) * epoch_windows)
        if distributed.is_main_process():
            checkpointing.mark_trained(run, job, state)

    def show(self, tracker: Tracker, state: Training, epoch_windows: int, done: int) -> None:
        """Tell where a training is after `done` more windows; 0 after a batch of validation."""
        progress = state.progress
        epoch = min(progress.epoch + 1, self.optim.max_epochs)
        steps = max(1, epoch_windows // self.windows_per_step)
        place = f"step {progress.step}/{steps}" if done else "validation"
        if tracker.wants_detail():
            tracker.detail = training_detail(*state.means(), progress.best_accuracy, state.timer.seconds())
        tracker.advance(done, f"{self.title}, epoch {epoch}/{self.optim.max_epochs}, {place}")

    def end_epoch(self, state: Training, epoch: int) -> None:
        """Save what an epoch gave, and say so."""
        audio_errors = distributed.gather_to_main(self.loader.errors)
        if audio_errors:
            checkpointing.save_epoch(self.run, self.job, state, self.figures)
            found = [audio_error for own in audio_errors for audio_error in own.values()]
            quarantine.record_errors(self.run.quarantine_path, found)
        record = state.log[-1]
        console.say(
            f"{self.title}, epoch {epoch}/{self.optim.max_epochs}: loss {record['loss']:.3f}, "
            f"accuracy on validation windows {record['window_accuracy']:.3f}"
        )


def training_detail(loss: float, accuracy: float, best: float, seconds: Mapping[str, float]) -> str:
    """Two lines: how well a training does, and where its time goes; `best` is below 0 before the first validation."""
    so_far = f", {best:.3f} on validation at best" if best >= 0 else ""
    stages = ", ".join(f"{stage} {share:.0%}" for stage, share in fractions(dict(seconds)).items() if share >= 0.005)
    return f"loss {loss:.3f}, accuracy {accuracy:.3f} on training windows{so_far}\ntime: {stages}"
