import time

import pytest
import torch

from melgpu.training.stage_timer import StageTimer, fractions

CPU = torch.device("cpu")


def test_time_is_of_the_stage_that_has_ended():
    timer = StageTimer(CPU)
    timer.mark("before")
    time.sleep(0.02)
    timer.mark("slept")
    time.sleep(0.01)
    timer.mark(None)
    timer.mark("empty")
    seconds = timer.seconds()
    assert seconds["slept"] >= 0.02
    assert set(seconds) == {"slept", "empty"}
    timer.restart()
    assert timer.seconds() == {}


def test_pending_marks_are_bounded():
    timer = StageTimer(CPU)
    for _ in range(5000):
        timer.mark("step")
    assert len(timer._marks) < 1500
    assert timer.seconds()["step"] > 0


def test_fractions_are_of_the_total():
    assert list(fractions({"a": 1.0, "b": 3.0}).items()) == [("b", 0.75), ("a", 0.25)]
    assert fractions({"a": 0.0}) == {"a": 0.0}


@pytest.mark.gpu
def test_marks_do_not_synchronize_with_the_gpu():
    timer, device = StageTimer(torch.device("cuda")), torch.device("cuda")
    matrix = torch.rand(4096, 4096, device=device)
    torch.cuda.synchronize()
    timer.mark(None)
    for _ in range(50):
        matrix @ matrix
    timer.mark("products")
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.set_sync_debug_mode("error")
        timer.seconds()
        torch.cuda.set_sync_debug_mode("default")
    assert timer.seconds(wait=True)["products"] > 0
