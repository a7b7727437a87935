import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from melgpu.demo import corpus, synthesizer
from tests.helpers import ROOT, is_alive


@pytest.mark.parametrize("suffix", corpus.FORMATS)
def test_the_same_seed_gives_the_same_samples(tmp_path, suffix):
    job = next(job for job in corpus.plan(0)["test"] if job[0].endswith(suffix))
    decoded = []
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        name = corpus._write_track(tmp_path / attempt, job)
        decoded.append(soundfile.read(tmp_path / attempt / name))
    (first, first_rate), (second, second_rate) = decoded
    assert first_rate == second_rate
    np.testing.assert_array_equal(first, second)


def test_the_plan_depends_on_the_seed_and_has_one_rare_class():
    plan = corpus.plan(0)
    assert plan == corpus.plan(0) != corpus.plan(1)
    counts = {name: sum(job[1] == name for job in plan["train"]) for name in synthesizer.CLASSES}
    assert counts.pop(corpus.RARE_CLASS) == 7
    assert set(counts.values()) == {14}
    assert len({job[2] for jobs in plan.values() for job in jobs}) == sum(map(len, plan.values()))


def test_a_written_ogg_can_be_decoded(tmp_path):
    wave = synthesizer.compose("aria", np.random.default_rng(0))
    corpus.write_audio(tmp_path / "x.ogg", wave, 48_000, stereo=True)
    samples, rate = soundfile.read(tmp_path / "x.ogg")
    assert rate == 48_000
    assert samples.shape == (pytest.approx(len(wave) * 48_000 / synthesizer.SAMPLE_RATE, abs=2), 2)


WRITE = """
import multiprocessing
import sys
from pathlib import Path
from melgpu.demo import corpus

corpus.TRACKS_PER_CLASS = {"train": 2, "test": 1, "private": 1}
for name in corpus.write_corpus(Path(sys.argv[1]), 0):
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


def start_writing(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITE, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_corpus_whose_writer_is_killed_is_completed_by_the_next(tmp_path):
    process = start_writing(tmp_path / "killed")
    children = [int(pid) for pid in process.stdout.readline().split()]
    assert children
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "private.csv").exists()  # which marks a complete corpus
    deadline = time.monotonic() + 30
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, children))  # none is left waiting for work
    written = []
    for name in ("killed", "whole"):
        process = start_writing(tmp_path / name)
        process.communicate()
        assert process.returncode == 0
        paths = [path for path in (tmp_path / name).rglob("*") if path.is_file() and path.suffix != ".tmp"]
        # An ogg stream has a random serial number: samples are equal, not bytes.
        samples = {path.name: soundfile.read(path)[0].tolist() for path in paths if path.suffix != ".csv"}
        written.append((samples, {path.name: path.read_bytes() for path in paths if path.suffix == ".csv"}))
    assert written[0] == written[1]
    assert len(written[1][0]) == 10 * 4 - 1
