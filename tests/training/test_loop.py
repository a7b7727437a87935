import io
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from melgpu.data.batch import Batch
from melgpu.data.targets import Targets, TeacherTargets, at_temperature
from melgpu.errors import InputError
from melgpu.models.classifier import Classifier
from melgpu.training import loop
from melgpu.training.loop import EpochDone, StepDone
from melgpu.training.stage_timer import STAGES
from melgpu.training.state import Training, TrainingState, start_training
from melgpu.training.step import accumulate_gradients
from tests.helpers.training import (
    AUGMENT,
    DEMO,
    MACHINE,
    OPTIM,
    PROVENANCE,
    TARGETS,
    Pictures,
    Tiny,
    batches,
    fit,
    fresh_tiny,
    results,
    run,
    same_weights,
    training_data,
)


def fresh(spec=OPTIM) -> Training:
    torch.manual_seed(0)
    return start_training(Classifier("resnet50", 2, DEMO), spec, MACHINE)


def test_the_loss_falls_and_the_accuracy_rises():
    spec = OPTIM.model_copy(update={"max_epochs": 6, "lr": 1e-4})
    records = run(fresh(spec), spec)
    assert [record.epoch for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1].loss < records[0].loss
    assert records[-1].window_accuracy > 0.9


def test_a_repeated_training_gives_the_same_bits():
    first, second = fresh_tiny(), fresh_tiny()
    assert results(run(first)) == results(run(second))
    assert same_weights(first.model, second.model)


VARIED = AUGMENT.model_copy(update={"num_masks": 1, "max_mask": 0.2, "mixup_alpha": 0.3})
SPEEDS = AUGMENT.model_copy(update={"mixup_alpha": 0.3, "speeds": (0.9, 1.0, 1.1)})
MODERN = {"label_smoothing": 0.1, "ema_decay": 0.9, "weight_decay": 0.05}


@pytest.mark.parametrize(
    ("changes", "augment"),
    [
        ({}, AUGMENT),
        ({"warmup_epochs": 1}, SPEEDS),
        ({"schedule": "plateau", "plateau_patience": 1}, AUGMENT),
        ({**MODERN, "warmup_epochs": 1}, VARIED),
    ],
)
def test_a_training_resumed_at_any_step_gives_the_same_bits(changes, augment):
    spec = OPTIM.model_copy(update={"max_epochs": 2 - changes.get("warmup_epochs", 0), **changes})
    assert spec.total_epochs == 2
    uninterrupted = fresh_tiny(spec)
    yields = len(list(fit(uninterrupted, spec, augment)))
    assert yields == 2 * (3 + 3 + 1)  # steps, batches of validation, the record
    for stop in range(1, yields):
        interrupted = fresh_tiny(spec)
        for _ in itertools.islice(fit(interrupted, spec, augment), stop):
            pass
        saved = io.BytesIO()
        torch.save(interrupted.state(PROVENANCE).model_dump(), saved)
        state = TrainingState.model_validate(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
        resumed = fresh_tiny(spec)
        torch.rand(stop)  # another random state
        resumed.restore(state, spec)
        assert len(list(fit(resumed, spec, augment))) <= yields - stop + 3  # an interrupted validation is repeated
        assert results(resumed.log) == results(uninterrupted.log), stop
        assert same_weights(resumed.model, uninterrupted.model), stop
        assert same_weights(resumed.evaluated_model, uninterrupted.evaluated_model), stop


def test_a_student_learns_its_teachers_distributions_and_resumes_to_the_same_bits():
    probs = torch.tensor([[[0.02, 0.98]], [[0.99, 0.01]]])  # the opposite of the labels
    teacher = TeacherTargets(at_temperature(probs, 2.0), torch.tensor([0]), torch.tensor([0.2, 0.2]), 2.0)
    targets = replace(TARGETS, teacher=teacher)
    spec = OPTIM.model_copy(update={"max_epochs": 12, "lr": 3e-2, "stop_patience": 12})
    uninterrupted = fresh_tiny(spec)
    list(fit(uninterrupted, spec, AUGMENT, targets))
    assert uninterrupted.log[-1].loss < uninterrupted.log[0].loss
    assert uninterrupted.log[-1].window_accuracy < 0.1  # on labels
    interrupted = fresh_tiny(spec)
    for _ in itertools.islice(fit(interrupted, spec, AUGMENT, targets), 10):
        pass
    resumed = fresh_tiny(spec)
    resumed.restore(interrupted.state(PROVENANCE), spec)
    list(fit(resumed, spec, AUGMENT, targets))
    assert results(resumed.log) == results(uninterrupted.log)
    assert same_weights(resumed.model, uninterrupted.model)


def test_out_of_memory_halves_the_micro_batch_and_gives_the_same_step(monkeypatch):
    class Limited(nn.Module):
        """Runs out of memory with more than two pictures."""

        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)
            self.batch_sizes = []

        def forward(self, pictures):
            self.batch_sizes.append(len(pictures))
            if len(pictures) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.head(pictures.mean((2, 3)))

        def freeze_body(self, frozen):
            pass

    def run_once(micro_batch):
        torch.manual_seed(0)
        model = Limited()
        training = start_training(model, OPTIM, MACHINE.model_copy(update={"micro_batch": micro_batch}))
        steps = loop.train_epoch(training, Pictures(), batches(), TARGETS, OPTIM, AUGMENT, 0)
        assert list(steps) == [StepDone(4)] * 3
        return training

    halved = run_once(1024)
    assert halved.micro_batch == 2
    assert halved.model.batch_sizes == [4, 2, 2, 2, 2, 2, 2]
    expected = run_once(2)
    assert same_weights(halved.model, expected.model)
    assert torch.equal(halved.metric_sums, expected.metric_sums)
    monkeypatch.setattr(Limited, "forward", lambda self, pictures: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(InputError, match=r"machine\.micro_batch"):
        run_once(1024)


def test_invalid_windows_change_no_weights():
    training = fresh()
    before = [value.clone() for value in training.model.parameters()]
    invalid = (replace(batch, valid=torch.zeros(4, dtype=torch.bool)) for batch in batches())
    list(loop.train_epoch(training, Pictures(), invalid, TARGETS, OPTIM, AUGMENT, 0))
    assert all(torch.equal(a, b) for a, b in zip(before, training.model.parameters(), strict=True))
    assert training.metric_sums.tolist() == [0, 0]


def test_warm_up_trains_the_head_alone():
    spec = OPTIM.model_copy(update={"warmup_epochs": 1, "warmup_lr": 1e-2, "batch_norm_batches": 0})
    training = fresh(spec)
    body = {key: value.clone() for key, value in training.model.body.state_dict().items()}
    head = training.model.head[0].weight.clone()
    records = run(training, spec, epochs=1)
    assert records[0].lr == 1e-2
    assert all(torch.equal(value, body[key]) for key, value in training.model.body.state_dict().items())
    assert not torch.equal(training.model.head[0].weight, head)
    run(training, spec)
    assert not torch.equal(next(training.model.body.parameters()), body[next(iter(body))])


def test_the_cosine_schedule_begins_with_the_first_epoch_after_the_warm_up():
    spec = OPTIM.model_copy(update={"warmup_epochs": 2, "warmup_lr": 1e-2, "max_epochs": 3, "schedule": "cosine"})
    records = run(fresh_tiny(spec), spec)
    assert [record.epoch for record in records] == [1, 2, 3, 4, 5]
    assert [record.lr for record in records] == pytest.approx([1e-2, 1e-2, spec.lr, 0.75 * spec.lr, 0.25 * spec.lr])


def test_the_plateau_schedule_lowers_the_learning_rate():
    spec = OPTIM.model_copy(update={"schedule": "plateau", "plateau_patience": 1, "lr": 1e-9})
    records = run(fresh_tiny(spec), spec)
    assert len({round(record.lr / 1e-9, 6) for record in records}) > 1


def test_the_cosine_schedule_falls_towards_zero():
    lrs = [record.lr for record in run(fresh_tiny())]
    assert lrs[0] == OPTIM.lr
    assert sorted(lrs, reverse=True) == lrs
    assert 0 < lrs[-1] < 0.2 * OPTIM.lr


def test_updated_batch_norm_has_the_statistics_of_the_batches():
    model = nn.Sequential(Pictures(), nn.BatchNorm2d(3))
    pictures = torch.cat([batch.waves for batch in batches(0)]).view(-1, 3, 75, 75)
    loop.update_batch_norm(model[1], Pictures(), batches(0, count=9), num_batches=3, bfloat16=False)
    assert torch.allclose(model[1].running_mean, pictures.mean((0, 2, 3)), atol=1e-5)


def test_step_seeds_differ():
    arguments = itertools.product(range(5), repeat=4)
    assert len({loop.step_seed(*values) for values in arguments}) == 5**4


def test_the_cause_of_a_non_finite_loss_is_reported():
    def with_nan(epoch=0, first_step=0):
        for batch in batches(epoch, first_step):
            batch.waves[2] = torch.nan
            yield batch

    def diverged(epoch=0, first_step=0):
        for batch in batches(epoch, first_step):
            yield Batch(batch.waves * 1e38, batch.tracks, batch.starts, batch.valid)

    for train_batches, message in ((with_nan, "window at sample 0: its picture is NaN"), (diverged, "optim.lr")):
        steps = loop.fit(fresh(), Pictures(), training_data(train_batches), OPTIM, AUGMENT, seed=3)
        with pytest.raises(InputError, match=message):
            list(steps)


def test_the_number_of_named_windows_is_limited():
    def all_nan(epoch=0, first_step=0):
        for batch in batches(epoch, first_step, count=30):
            yield replace(batch, waves=batch.waves * torch.nan)

    steps = loop.fit(fresh(), Pictures(), training_data(all_nan), OPTIM, AUGMENT, seed=3)
    with pytest.raises(InputError) as caught:
        list(steps)
    assert len(caught.value.problems) == loop.MAX_DESCRIBED


def test_the_moving_average_is_evaluated():
    spec = OPTIM.model_copy(update={"ema_decay": 0.999})
    training = fresh_tiny(spec)
    run(training, spec)
    assert training.progress.updates == 12
    assert not same_weights(training.evaluated_model, training.model)
    without_ema = fresh_tiny()
    run(without_ema)
    for first, second in zip(training.model.parameters(), without_ema.model.parameters(), strict=True):
        assert torch.equal(first, second)
    assert without_ema.evaluated_model is without_ema.model


def test_training_works_with_masks_mixup_and_label_smoothing():
    augment = AUGMENT.model_copy(update={"num_masks": 1, "max_mask": 0.2, "mixup_alpha": 0.3})
    spec = OPTIM.model_copy(update={"max_epochs": 12, "lr": 1e-2, "label_smoothing": 0.1, "schedule": "cosine"})
    training = fresh_tiny(spec)
    records = [event.record for event in fit(training, spec, augment) if isinstance(event, EpochDone)]
    assert records[-1].loss < records[0].loss
    assert records[-1].window_accuracy > 0.9


def test_the_loss_is_the_cross_entropy_of_the_valid_windows():
    training = fresh_tiny()
    training.model.eval()
    batch = next(batches())
    valid, pictures = torch.tensor([True, True, False, True]), Pictures()(batch.waves)
    smoothed = Targets(TARGETS.classes, torch.tensor([1.0, 3.0])).for_batch(replace(batch, valid=valid), 0.1)
    loss, accuracy = accumulate_gradients(training, training.model, pictures, smoothed / 3, False, None)
    expected = torch.nn.functional.cross_entropy(
        training.model(pictures)[valid], TARGETS.classes[batch.tracks[valid]], torch.tensor([1.0, 3.0])
    )
    expected_smoothed = -(smoothed * training.model(pictures).log_softmax(1)).sum() / 3
    torch.testing.assert_close(loss, expected_smoothed.double())
    correct = training.model(pictures).argmax(1) == TARGETS.classes[batch.tracks]
    assert float(accuracy) == pytest.approx(float(correct[valid].float().mean()))
    unsmoothed = Targets(TARGETS.classes, torch.tensor([1.0, 3.0])).for_batch(replace(batch, valid=valid), 0.0)
    loss, _ = accumulate_gradients(training, training.model, pictures, unsmoothed / unsmoothed.sum(), False, None)
    torch.testing.assert_close(loss, expected.double())


def test_distributions_train_as_classes_do_and_their_weight_scales_the_loss():
    def trained(targets):
        training = fresh_tiny()
        list(loop.train_epoch(training, Pictures(), batches(), targets, OPTIM, AUGMENT, 0))
        return training

    expected = trained(TARGETS)
    one_hot = trained(replace(TARGETS, distributions=torch.eye(2)))
    assert same_weights(one_hot.model, expected.model)
    assert torch.equal(one_hot.metric_sums, expected.metric_sums)
    soft = trained(replace(TARGETS, distributions=torch.tensor([[0.4, 0.1], [0.1, 0.4]])))
    assert not same_weights(soft.model, expected.model)
    assert soft.metric_sums[0] < 0.6 * expected.metric_sums[0]
    assert soft.metric_sums[1] > 0  # a doubtful window counts as right where its most probable class is predicted


def test_a_log_record_has_the_time_of_each_stage():
    (record, *_) = run(fresh_tiny(), epochs=1)
    assert {f"{stage}_s" for stage in STAGES} < record.model_fields_set
    assert record.steps_per_s > 0
    assert 0 <= record.accuracy <= 1


@pytest.mark.gpu
def test_a_step_does_not_synchronize_with_the_gpu():
    device = torch.device("cuda")
    spec = OPTIM.model_copy(update={"ema_decay": 0.9, "label_smoothing": 0.1, "precision": "bfloat16"})
    augment = SPEEDS.model_copy(update={"num_masks": 1})
    training = start_training(Tiny().to(device), spec, MACHINE)
    on_device = [replace(batch, waves=batch.waves.to(device)) for batch in batches(count=6)]
    steps = loop.train_epoch(training, Pictures(), on_device, TARGETS, spec, augment, 0)
    for _ in itertools.islice(steps, 3):
        pass
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert list(steps) == [StepDone(4)] * 3
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(training.metric_sums).all()
