import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melgpu.audio import quarantine
from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1)
audio_errors = st.lists(st.builds(AudioError, texts, texts, st.integers(0, 1200).map(lambda tenths: tenths / 10)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(audio_errors, audio_errors)
def test_the_latest_error_of_each_file_is_recorded(tmp_path, first, second):
    path = tmp_path / "quarantine.csv"
    path.unlink(missing_ok=True)
    for recorded in (first, second):
        quarantine.record_errors(path, recorded)
    latest = {audio_error.path: audio_error for audio_error in [*first, *second]}
    assert {audio_error.path: audio_error for audio_error in quarantine.load_errors(path)} == latest
    assert path.exists() == bool(latest)


def test_a_malformed_file_is_rejected(tmp_path):
    for content in (b"a,b\n", b"", b"\xff\xfe", b"file,reason,usable_s\na,b\n", b"file,reason,usable_s\na,b,c\n"):
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.csv: not a quarantine file"):
            quarantine.load_errors(tmp_path / "x.csv")


def test_too_high_an_error_rate_is_rejected_with_all_errors():
    by_path = {name: AudioError(name, "empty", 0.0) for name in "abc"}
    quarantine.check_error_rate(by_path, 60, 0.05)
    with pytest.raises(InputError, match=r"3 of 59 files have errors, more than loader\.max_error") as caught:
        quarantine.check_error_rate(by_path, 59, 0.05)
    assert len(caught.value.problems) == 4


def test_the_summary_counts_usable_files(tmp_path):
    recorded = [AudioError("a", "truncated", 30.0), AudioError("b", "empty", 0.0)]
    assert quarantine.summarize(recorded, tmp_path).startswith("2 files with errors in quarantine, 1 of them used")
