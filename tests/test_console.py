import itertools

import pytest

from melgpu import console


def test_plain_lines_without_a_terminal(console_output, monkeypatch):
    text, now = console_output(False), [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress("round 1", 100, "windows") as tracker:
        for step in range(10):
            now[0] += 6
            tracker.advance(10, f"resnet50 [{step}]")
    lines = text.getvalue().splitlines()
    assert lines[0] == "round 1: 0%"
    assert lines[2] == "round 1:  40%  resnet50 [3]  1.7 windows/s, 0:36 left"
    assert len(lines) == 6  # at most one every 10 s
    assert "\x1b" not in text.getvalue()


def test_a_progress_bar_in_a_terminal(console_output):
    text = console_output(True)
    with console.progress("round 1", 10, "windows") as tracker:
        tracker.advance(10, "resnet50 [x]")
    assert "100%" in text.getvalue()
    assert "resnet50 [x]" in text.getvalue()


def test_details_are_due_at_intervals(console_output, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    for terminal, interval in ((True, 1.0), (False, 10.0)):
        text = console_output(terminal)
        with console.progress("round 1", 10, "windows") as tracker:
            due_at = []
            for _ in range(40):
                now[0] += 0.5
                if tracker.is_detail_due():
                    due_at.append(now[0])
                    tracker.detail = "accuracy 0.500\ntime: network 75%"
                tracker.advance(0.1)
            assert min(b - a for a, b in itertools.pairwise(due_at)) == interval
        assert "accuracy 0.500" in text.getvalue()
        assert "network 75%" in text.getvalue()


def test_throughput_starts_at_the_first_unit_and_excludes_skipped_work(monkeypatch):
    now = [5.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    tracker = console.Tracker("x", 100, "windows", None)
    tracker.skip(40)
    now[0] = 30.0  # a slow start
    tracker.advance(10)
    assert tracker.speed_text() == "estimating the time"
    now[0] = 40.0
    tracker.advance(20)
    assert tracker.speed_text() == "2.0 windows/s, 0:15 left"


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time of the console's clock, in its one item."""
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def advance(tracker: console.Tracker, now: list[float], steps: int, seconds: float, amount: float = 1) -> None:
    for _ in range(steps):
        now[0] += seconds
        tracker.advance(amount)


def test_without_a_timed_unit_there_is_no_rate(now):
    tracker = console.Tracker("x", 1000, "windows", None)
    assert tracker.rate() is None
    tracker.advance(0, "a note")
    tracker.advance(8)
    assert tracker.rate() is None
    tracker.advance(8)  # at the same time
    assert tracker.rate() is None
    assert tracker.speed_text() == "estimating the time"


@pytest.mark.parametrize("seconds_per_step", [0.5, 7.0, 59.0, 90.0, 4000.0])
def test_a_constant_rate(now, seconds_per_step):
    tracker = console.Tracker("x", 1000, "windows", None)
    now[0] += 300  # a slow start
    tracker.advance(500)
    for _ in range(200):
        advance(tracker, now, 1, seconds_per_step, amount=2)
        assert tracker.rate() == pytest.approx(2 / seconds_per_step)
    assert tracker.speed_text().endswith(f"{console.duration(50 * seconds_per_step)} left")


@pytest.mark.parametrize("seconds_per_step", [0.04, 1.0, 20.0, 90.0])
def test_two_updates_after_a_pause_the_rate_is_right_again(now, seconds_per_step):
    tracker = console.Tracker("x", 1000, "windows", None)
    advance(tracker, now, 100, seconds_per_step)
    now[0] += 1800
    advance(tracker, now, 2, seconds_per_step)
    for _ in range(100):
        assert tracker.rate() == pytest.approx(1 / seconds_per_step, rel=0.1)
        advance(tracker, now, 1, seconds_per_step)


def test_a_short_pause_is_forgotten_after_the_period(now):
    tracker = console.Tracker("x", 1000, "windows", None)
    advance(tracker, now, 100, 1.0)
    now[0] += 30
    advance(tracker, now, int(console.RATE_PERIOD_S) + 2, 1.0)
    assert tracker.rate() == pytest.approx(1.0)


def test_the_time_left_is_about_right_in_epochs_of_training_and_faster_validation(now):
    epochs, train_steps, validation_steps = 10, 100, 40  # a training step takes 2 s, one of validation 0.5 s
    epoch_s = 2.0 * train_steps + 0.5 * validation_steps
    tracker = console.Tracker("x", epochs * (train_steps + validation_steps), "windows", None)
    for epoch in range(1, epochs):
        advance(tracker, now, train_steps, 2.0)
        advance(tracker, now, validation_steps, 0.5)
        if epoch > 1:
            seconds_left = (tracker.total - tracker.done) / tracker.rate()
            assert seconds_left == pytest.approx((epochs - epoch) * epoch_s, rel=0.15)


def test_skipped_work_has_no_effect_on_the_rate(now):
    tracker = console.Tracker("x", 1000, "windows", None)
    advance(tracker, now, 10, 2.0)
    now[0] += 1
    tracker.skip(500)
    now[0] += 1
    tracker.advance(1)
    assert tracker.rate() == pytest.approx(0.5)
    assert tracker.done == 511


def test_a_fast_loop_takes_bounded_memory(now):
    tracker = console.Tracker("x", 100_000, "windows", None)
    advance(tracker, now, 100_000, 0.0005)
    assert tracker.rate() == pytest.approx(2000)
    assert len(tracker._rate_samples) <= console.RATE_PERIOD_S / console.RATE_SAMPLE_EVERY_S + 2


def test_durations():
    assert [console.duration(s) for s in (0, 59.6, 3599, 3600, 90_061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]
