import sys

import pytest

from melgpu.errors import InputError
from melgpu.prediction.parts import gpus
from melgpu.prediction.parts.gpus import predict_on_devices
from tests.helpers import ROOT, run_script

FLAGS = ["--set", "loader.predict_batch_size=2", "--set", "loader.workers=0"]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Calls predict.py in place of the devices' processes; the first of part 1 is killed as often as `KILLS` says."""
    path = tmp_path / "predict.py"
    path.write_text(
        "import os, runpy, signal, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"with open({str(tmp_path / 'calls')!r}, 'a+') as calls:\n"
        "    part = sys.argv[sys.argv.index('--part') + 1]\n"
        "    calls.write(part + '\\n')\n"
        "    calls.seek(0)\n"
        "    count = calls.read().split().count(part)\n"
        "if part == '1/2' and count <= int(os.environ['KILLS']):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"runpy.run_path({str(ROOT / 'predict.py')!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(sys, "argv", [str(path)])
    return tmp_path / "calls"


def test_one_process_a_device_of_which_only_the_dead_one_is_started_again(
    script, short_music, trained_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KILLS", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "all.csv"
    flags = ["--run", str(trained_run), *FLAGS]
    assert predict_on_devices([str(short_music)], out, ["cpu", "cpu"], flags) == 0
    assert sorted(script.read_text().split()) == ["0/2", "1/2", "1/2", "1/2"]
    assert "a process ended with exit code -9: started again, 2 of 3" in capsys.readouterr().out
    plain = run_script(
        "predict.py",
        short_music,
        "--out",
        tmp_path / "plain.csv",
        "--device",
        "cpu",
        *flags,
        env={"OMP_NUM_THREADS": "1"},
    )
    assert plain.returncode == 0, plain.stderr
    assert out.read_bytes() == (tmp_path / "plain.csv").read_bytes()
    assert not list(tmp_path.glob(".all.csv*"))


def test_a_process_that_dies_too_often_ends_the_others(script, short_music, trained_run, tmp_path, monkeypatch):
    monkeypatch.setenv("KILLS", "9")
    monkeypatch.setattr(gpus, "POLL_EVERY_S", 0.01)
    with pytest.raises(InputError, match=r"a process ended with exit code -9: .*--part 1/2"):
        predict_on_devices(
            [str(short_music)], tmp_path / "all.csv", ["cpu", "cpu"], ["--run", str(trained_run), *FLAGS]
        )
    assert script.read_text().split().count("1/2") == 1 + gpus.MAX_RESTARTS
    assert not (tmp_path / "all.csv").exists()


def test_wrong_input_is_not_tried_again(script, short_music, tmp_path, monkeypatch):
    monkeypatch.setenv("KILLS", "0")
    with pytest.raises(InputError, match="a process ended with exit code 2"):
        predict_on_devices([str(short_music)], tmp_path / "all.csv", ["cpu"], ["--run", "none"])
    assert script.read_text().split() == ["0/1"]


def test_without_music_or_gpus_nothing_is_started(script, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no audio files"):
        predict_on_devices([str(tmp_path)], tmp_path / "all.csv", ["cpu"], [])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match="--gpus all: there is no GPU here"):
        gpus.all_gpus()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert gpus.all_gpus() == ["cuda:0", "cuda:1"]
