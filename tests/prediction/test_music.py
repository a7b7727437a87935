import numpy as np
import pytest

from melgpu import console
from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError
from melgpu.prediction import music


def test_the_table_has_the_most_likely_classes(console_output):
    text = console_output(False)
    probs = np.array([[0.1, 0.6, 0.05, 0.25]])
    console.show(music.prediction_table(["[a].mp3"], probs, ["p", "q", "r", "[s]"], [False]))
    for part in ("[a].mp3", "q 60%", "[s] 25%", "p 10%"):
        assert part in text.getvalue(), text.getvalue()
    assert "r 5%" not in text.getvalue()


def test_unusable_files_are_named_in_the_table(console_output):
    text, probs = console_output(False), np.array([[0.1, 0.9], [0.5, 0.5]])
    console.show(music.prediction_table(["https://x.org/a.mp3", "/b/c.mp3"], probs, ["p", "q"], [False, True]))
    assert "https://x.org/a.mp3" in text.getvalue()
    assert "c.mp3" in text.getvalue()
    assert "not readable" in text.getvalue()
    assert "50%" not in text.getvalue()


def test_predictions_are_written_and_may_be_replaced(tmp_path):
    audio_errors = {"b.mp3": AudioError("b.mp3", "empty", 0.0)}
    music.write_predictions(
        tmp_path / "a.csv", ["a.mp3", "b.mp3"], np.array([[0.1, 0.9], [0.5, 0.5]]), ["p", "q"], audio_errors
    )
    rows = (tmp_path / "a.csv").read_text().split()
    assert rows == ["file,p,q,error", "a.mp3,0.100000,0.900000,", "b.mp3,,,empty"]
    music.check_replaceable(tmp_path / "a.csv")  # an earlier result
    music.check_replaceable(tmp_path / "absent.csv")


def test_other_files_are_not_replaced(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\na.mp3,rock\n")
    (tmp_path / "song.mp3").write_bytes(b"\xff\xfb\x90" * 500)
    (tmp_path / "empty").touch()
    for name in ("labels.csv", "song.mp3", "empty"):
        with pytest.raises(InputError, match=f"{name}: not an earlier result of this script, which alone --out may"):
            music.check_replaceable(tmp_path / name)
    with pytest.raises(InputError, match="a folder; name a file in it"):
        music.check_replaceable(tmp_path)
