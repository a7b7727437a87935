import io
import itertools

import numpy as np
import pytest
from rich.console import Console

from melgpu import report
from melgpu.audio.quarantine import Flaw
from melgpu.errors import InputError


@pytest.fixture
def screen(monkeypatch):
    def make(terminal: bool) -> io.StringIO:
        text = io.StringIO()
        monkeypatch.setattr(report, "console", Console(file=text, force_terminal=terminal, width=100))
        return text

    return make


def test_plain_lines_where_there_is_no_terminal(screen, monkeypatch):
    text, now = screen(False), [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    with report.progress("round 1", 100, "windows") as tracker:
        for step in range(10):
            now[0] += 6
            tracker.advance(10, f"resnet50 [{step}]")
    lines = text.getvalue().splitlines()
    assert lines[0] == "round 1: 0%"
    assert lines[2] == "round 1:  40%  resnet50 [3]  1.7 windows/s, 0:36 left"
    assert len(lines) == 6  # one each 10 s at the most
    assert "\x1b" not in text.getvalue()


def test_a_bar_in_a_terminal(screen):
    text = screen(True)
    with report.progress("round 1", 10, "windows") as tracker:
        tracker.advance(10, "resnet50 [x]")
    assert "100%" in text.getvalue()
    assert "resnet50 [x]" in text.getvalue()


def test_details_come_now_and_then(screen, monkeypatch):
    detail = report.training_detail(1.25, 0.5, 0.625, {"audio": 0.001, "network": 6.0, "pictures": 2.0})
    assert detail.splitlines() == [
        "loss 1.250, accuracy 0.500 on training windows, 0.625 on validation at best",
        "time: network 75%, pictures 25%",
    ]
    assert "validation" not in report.training_detail(1.25, 0.5, -1.0, {})
    now = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    for terminal, least in ((True, 1.0), (False, 10.0)):
        text = screen(terminal)
        with report.progress("round 1", 10, "windows") as tracker:
            wanted = []
            for _ in range(40):
                now[0] += 0.5
                if tracker.wants_detail():
                    wanted.append(now[0])
                    tracker.detail = detail
                tracker.advance(0.1)
            assert min(b - a for a, b in itertools.pairwise(wanted)) == least
        assert "accuracy 0.500" in text.getvalue()
        assert "network 75%" in text.getvalue()


def test_speed_counts_from_the_first_unit_and_without_what_was_skipped(monkeypatch):
    now = [5.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    tracker = report.Tracker("x", 100, "windows", None)
    tracker.skip(40)
    now[0] = 30.0  # a slow start
    tracker.advance(10)
    assert tracker.pace() == "estimating the time"
    now[0] = 40.0
    tracker.advance(20)
    assert tracker.pace() == "2.0 windows/s, 0:15 left"


def test_durations():
    assert [report.duration(s) for s in (0, 59.6, 3599, 3600, 90_061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "25:01:01",
    ]


def test_tables_show_what_they_are_given(screen):
    text = screen(False)
    half = {"accuracy": 0.5, "interval": (0.24, 0.76), "tracks": 10, "trained_on": 6}
    quarter = {"accuracy": 0.25, "interval": (0.0, 0.75), "tracks": 4, "trained_on": 0}
    scores = {"resnet50": {"validation": half}, "blend [x]": {"validation": half, "public": quarter}}
    report.console.print(report.score_table("Round 1", scores))
    report.console.print(
        report.answer_table(["[a].mp3"], np.array([[0.1, 0.6, 0.05, 0.25]]), ["p", "q", "r", "[s]"], [False])
    )
    shown = text.getvalue()
    for part in (
        "0.500",
        "0.24-0.76",
        "10 tracks",
        "4 tracks",
        "6 trained on",
        "0.250",
        "blend [x]",
        "[a].mp3",
        "q 60%",
        "[s] 25%",
        "p 10%",
    ):
        assert part in shown, shown
    assert "r 5%" not in shown


def test_gains_are_told_with_their_interval():
    score = {"gain": 0.025, "gain_interval": (-0.05, 0.1)}
    told = report.gain_line("blend", {"blend": {"validation": score, "public": {**score, "gain": -0.01}}, "mean": {}})
    expected = "validation +0.025 (-0.05 to +0.10), public -0.010 (-0.05 to +0.10)"
    assert told == f"blend against the mean of the networks: {expected}"


def test_what_was_not_heard_is_said(screen):
    text, probs = screen(False), np.array([[0.1, 0.9], [0.5, 0.5]])
    report.console.print(report.answer_table(["https://x.org/a.mp3", "/b/c.mp3"], probs, ["p", "q"], [False, True]))
    assert "https://x.org/a.mp3" in text.getvalue()
    assert "c.mp3" in text.getvalue()
    assert "not readable" in text.getvalue()
    assert "50%" not in text.getvalue()


def test_answers(tmp_path):
    flaws = {"b.mp3": Flaw("b.mp3", "empty", 0.0)}
    report.write_answers(tmp_path / "a.csv", ["a.mp3", "b.mp3"], np.array([[0.1, 0.9], [0.5, 0.5]]), ["p", "q"], flaws)
    rows = (tmp_path / "a.csv").read_text().split()
    assert rows == ["file,p,q,flaw", "a.mp3,0.100000,0.900000,", "b.mp3,,,empty"]
    report.refuse_foreign(tmp_path / "a.csv")  # its own may be replaced
    report.refuse_foreign(tmp_path / "absent.csv")


def test_nothing_foreign_is_replaced(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\na.mp3,rock\n")
    (tmp_path / "song.mp3").write_bytes(b"\xff\xfb\x90" * 500)
    (tmp_path / "empty").touch()
    for name in ("labels.csv", "song.mp3", "empty"):
        with pytest.raises(InputError, match=f"{name}: not an earlier result of this script, which alone --out may"):
            report.refuse_foreign(tmp_path / name)
    with pytest.raises(InputError, match="a folder; name a file in it"):
        report.refuse_foreign(tmp_path)


def test_doubts_are_said_where_the_mean_is_better():
    assert report.doubt_line("blend", {"blend": {"validation": {"gain": 0.0, "tracks": 6}}}) is None
    assert report.doubt_line("blend", {"blend": {}}) is None
    assert report.doubt_line("mean", {"mean": {"validation": {"gain": 0.0, "tracks": 6}}}) is None
    told = report.doubt_line("blend", {"blend": {"validation": {"gain": -0.1, "tracks": 6}}})
    assert "more often than the blend: 6 may be too few to stack. A new run with --set stacking.answer=mean" in told


def test_submission(tmp_path):
    report.write_submission(tmp_path / "s.csv", ["b,1.mp3", "a.mp3"], ["10", "01"])
    assert (tmp_path / "s.csv").read_bytes() == b'Id,Genre\r\n"b,1.mp3",10\r\na.mp3,01\r\n'
