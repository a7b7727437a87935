"""A part that is killed by -9 at random moments, started again, and merged."""

import os
import random
import signal
import subprocess
import sys
import time

from tests.helpers import ROOT, run_script, write_audio

KILLS = 3
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def test_a_part_killed_at_random_moments_gives_the_same_answers(trained_run, tmp_path):
    (tmp_path / "music").mkdir()
    for i in range(9):
        write_audio(tmp_path / "music" / f"{i}.wav", 18, seed=i)
    tracks = tmp_path / "tracks.txt"
    frozen = run_script("predict.py", "--list", tmp_path / "music", "--write-list", tracks, "--parts", 2)
    assert frozen.returncode == 0, frozen.stderr
    settings = ["--device", "cpu", "--set", "loader.predict_batch_size=2", "--set", "loader.workers=0"]

    def command(name: str, index: int) -> list[str]:
        part = ["--list", tracks, "--part", f"{index}/2", "--out", tmp_path / name]
        return [*map(str, ("predict.py", "--run", trained_run, *part, *settings))]

    def logged_bytes() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "killed").glob(".part-00001*"))

    kills = 0
    for _ in range(KILLS):
        arguments = [sys.executable, *command("killed", 1)]
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, **ONE_THREAD})
        kill_at_bytes = logged_bytes() + random.randint(1, 600)
        while process.poll() is None and logged_bytes() < kill_at_bytes:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills
    for name in ("killed", "whole"):
        for index in range(2):
            process = run_script(*command(name, index), env=ONE_THREAD)
            assert process.returncode == 0, process.stderr
        merged = run_script("predict.py", "--merge", tmp_path / name, "--out", tmp_path / f"{name}.csv")
        assert merged.returncode == 0, merged.stderr
        assert len(list((tmp_path / name).iterdir())) == 3  # two parts and what they have in common
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
