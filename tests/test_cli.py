import pickle
import signal

import pytest
import torch

from melgpu import cli
from melgpu.audio.decode import DecodeError
from melgpu.errors import InputError


@pytest.fixture(autouse=True)
def restore_sigterm_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def main_with(outcome: BaseException | int | None):
    def main():
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return main


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (None, 0, ""),
        (2, 2, ""),
        (InputError(["a is wrong", "b is wrong"]), 2, "error: a is wrong\nerror: b is wrong\n2 problems\n"),
        (
            OSError(28, "No space left on device", "best.safetensors"),
            1,
            "error: best.safetensors: No space left on device\n",
        ),
        (OSError("another process of this run ended"), 1, "error: another process of this run ended\n"),
        (KeyboardInterrupt(), 130, "interrupted; finished work is saved"),
    ],
)
def test_every_outcome_has_its_exit_code(outcome, code, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(main_with(outcome))
    assert caught.value.code == code
    assert message in capsys.readouterr().err


def test_a_repeated_flag_is_rejected(capsys):
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


def test_other_exceptions_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)


def test_select_device():
    assert cli.select_device("cpu") == torch.device("cpu")
    assert cli.select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="--device tpu"):
        cli.select_device("tpu")


def test_a_second_signal_stops_at_once(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with cli.GracefulStop() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        assert "stopping after this step" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_errors_keep_every_problem_when_pickled():
    error = DecodeError(f"{name}: broken" for name in ("a.mp3", "b.mp3"))
    unpickled = pickle.loads(pickle.dumps(error))
    assert isinstance(unpickled, DecodeError)
    assert unpickled.problems == ["a.mp3: broken", "b.mp3: broken"]
    assert str(InputError("one")) == "one"
