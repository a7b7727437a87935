import time

import pytest
import torch

from melgpu.training.stage_timer import StageTimer, fractions

CPU = torch.device("cpu")


def test_time_goes_to_the_stage_that_has_ended():
    clock = StageTimer(CPU)
    clock.mark("before the first mark")
    time.sleep(0.02)
    clock.mark("slept")
    time.sleep(0.01)
    clock.mark(None)
    clock.mark("nothing")
    seconds = clock.seconds()
    assert seconds["slept"] >= 0.02
    assert set(seconds) == {"slept", "nothing"}
    clock.restart()
    assert clock.seconds() == {}


def test_marks_do_not_pile_up():
    clock = StageTimer(CPU)
    for _ in range(5000):
        clock.mark("step")
    assert len(clock._marks) < 1500
    assert clock.seconds()["step"] > 0


def test_shares_are_of_the_whole():
    assert list(fractions({"a": 1.0, "b": 3.0}).items()) == [("b", 0.75), ("a", 0.25)]
    assert fractions({"a": 0.0}) == {"a": 0.0}


@pytest.mark.gpu
def test_a_gpu_is_not_waited_for():
    clock, device = StageTimer(torch.device("cuda")), torch.device("cuda")
    matrix = torch.rand(4096, 4096, device=device)
    torch.cuda.synchronize()
    clock.mark(None)
    for _ in range(50):
        matrix @ matrix
    clock.mark("products")
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.set_sync_debug_mode("error")
        clock.seconds()
        torch.cuda.set_sync_debug_mode("default")
    assert clock.seconds(wait=True)["products"] > 0
