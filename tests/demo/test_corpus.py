import numpy as np
import pytest
import soundfile

from melgpu.demo import corpus, synthesizer


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
