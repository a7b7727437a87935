import signal

import pytest
import torch

from melgpu import cli
from melgpu.errors import InputError


@pytest.fixture(autouse=True)
def handlers():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ending(error: BaseException | int | None):
    def main():
        if isinstance(error, BaseException):
            raise error
        return error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (2, 2, ""),
        (InputError(["a is wrong", "b is wrong"]), 2, "error: a is wrong\nerror: b is wrong\n2 problems\n"),
        (OSError(28, "No space left on device", "best.safetensors"), 1, "No space left on device: 'best.safetensors'"),
        (KeyboardInterrupt(), 130, "interrupted; what was finished is kept"),
    ],
)
def test_every_end_has_its_exit_code(error, code, said, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(ending(error))
    assert caught.value.code == code
    assert said in capsys.readouterr().err


def test_a_flag_is_not_given_twice(capsys):
    parser = cli.parser("", "")
    parser.add_argument("files", nargs="*")
    group = parser.add_argument_group("more")
    group.add_argument("--labels")
    args = parser.parse_args(
        ["--run", "a", "--labels", "x", "one", "two", "--set", "a=1", "--set", "b=2", "--device", "cpu"]
    )
    assert (args.labels, args.files, args.overrides, args.device) == ("x", ["one", "two"], ["a=1", "b=2"], "cpu")
    assert parser.parse_args(["--run", "a"]).device == "auto"
    with pytest.raises(SystemExit):
        parser.parse_args(["--run", "a", "--labels", "x", "--labels", "y"])
    assert "argument --labels: given twice" in capsys.readouterr().err


def test_a_bug_shows_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)


def test_devices():
    assert cli.select_device("cpu") == torch.device("cpu")
    assert cli.select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="--device tpu"):
        cli.select_device("tpu")


def test_who_asks_to_stop_twice_does_not_wait(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with cli.GracefulStop() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        assert "stopping after this step" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before
