import itertools

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


def test_durations():
    assert [console.duration(s) for s in (0, 59.6, 3599, 3600, 90_061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]
