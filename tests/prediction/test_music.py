import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from melgpu import console
from melgpu.audio.quarantine import AudioError
from melgpu.errors import InputError
from melgpu.prediction import music, tagging
from melgpu.prediction.embedding import Embedding
from melgpu.prediction.table import FileStatus, PredictionTable, RunDigests, check_embed
from melgpu.prediction.tagging import TagWriting
from melgpu.runs.run import Run
from tests.helpers import run_script


def make_predictions(paths, probs, class_names, unusable=(), min_confidence=0.0) -> PredictionTable:
    """Predictions of files, without audio in those at the positions `unusable`."""
    errors = [AudioError(path, "empty", 0.0) if i in unusable else None for i, path in enumerate(paths)]
    statuses = [FileStatus(1, None)] * len(paths)
    return PredictionTable(
        paths, class_names, np.array(probs, np.float32), errors, [1.0] * len(paths), statuses, min_confidence
    )


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_the_table_has_the_most_likely_classes(console_output):
    text = console_output(False)
    predictions = make_predictions(["[a].mp3"], [[0.1, 0.6, 0.05, 0.25]], ["p", "q", "r", "[s]"])
    console.show(music.prediction_table(predictions))
    assert cells(text.getvalue().splitlines()[-2]) == ["[a].mp3", "q 60%", "[s] 25%", "p 10%"]


def test_of_equal_probabilities_the_label_is_the_most_likely(console_output):
    text = console_output(False)
    predictions = make_predictions(["a.mp3"], [[0.25, 0.25, 0.25, 0.25]], ["p", "q", "r", "s"])
    console.show(music.prediction_table(predictions))
    assert predictions.labels == ["p"]
    assert cells(text.getvalue().splitlines()[-2])[1] == "p 25%"


def test_unusable_files_are_named_in_the_table(console_output):
    text = console_output(False)
    paths = ["https://x.org/a.mp3", "/b/c.mp3"]
    predictions = make_predictions(paths, [[0.1, 0.9], [0.5, 0.5]], ["p", "q"], unusable=[1])
    console.show(music.prediction_table(predictions))
    assert "https://x.org/a.mp3" in text.getvalue()
    assert cells(text.getvalue().splitlines()[-2]) == ["c.mp3", "not readable"]
    assert "50%" not in text.getvalue()


def test_labels_below_the_minimum_confidence_are_unsure(console_output):
    text = console_output(False)
    probs = [[0.55, 0.45], [0.1, 0.9]]
    console.show(music.prediction_table(make_predictions(["a.mp3", "b.mp3"], probs, ["p", "q"], min_confidence=0.6)))
    rows = [cells(line) for line in text.getvalue().splitlines()[-3:-1]]
    assert rows == [["a.mp3", "unsure (p 55%)", "q 45%"], ["b.mp3", "q 90%", "p 10%"]]


def test_names_are_whole_on_one_line_without_a_terminal(console_output):
    names = [f"{'nhạc số ' * 40}{i}.mp3" for i in range(40)]
    for path_names in (names, [f"https://x.org/{name}" for name in names]):
        text = console_output(False)  # of 100 columns
        console.show(music.prediction_table(make_predictions(path_names, [[0.4, 0.6]] * 40, ["p" * 60, "q" * 200])))
        lines = text.getvalue().splitlines()
        for name in path_names:
            (line,) = [line for line in lines if name in line]
            assert line.split(name)[1].split() == ["q" * 200, "60%", "p" * 60, "40%"]


def test_the_summary_counts_labels_and_names_the_least_sure_files(console_output):
    text = console_output(False)
    confidences = [0.9, 0.51, 0.7, 0.6, 0.95, 0.8, 0.85, 0.55]
    probs = [[0.0, 1 - p, p] if i in (0, 3) else [1 - p, p, 0.0] for i, p in enumerate(confidences)]
    paths = [f"/music/{i}.mp3" for i in range(8)]
    predictions = make_predictions(paths, probs, ["rock", "pop", "[jazz]"], unusable=[7], min_confidence=0.6)
    music.show_predictions(predictions, ["/music/7.mp3: empty", "/none: no audio files"])
    output = text.getvalue()
    assert output.count("error: ") == 2
    summary = output[output.index("error: /none") :].splitlines()[1:]
    rows = [cells(line) for line in summary if line.strip(" ─")]
    assert rows == [
        ["label", "7 files"],
        ["pop", "4"],
        ["[jazz]", "2"],
        ["unsure", "1"],
        ["least sure", "most likely", "second"],
        ["1.mp3", "pop 51%", "rock 49%"],
        ["3.mp3", "[jazz] 60%", "pop 40%"],
        ["2.mp3", "pop 70%", "rock 30%"],
        ["5.mp3", "pop 80%", "rock 20%"],
        ["6.mp3", "pop 85%", "rock 15%"],
        ["Errors, listed above: 2"],
    ]


def test_one_file_has_no_summary(console_output):
    text = console_output(False)
    music.show_predictions(make_predictions(["a.mp3"], [[0.4, 0.6]], ["p", "q"]), [])
    assert "least sure" not in text.getvalue()
    assert "listed above" not in text.getvalue()


@pytest.fixture
def quick_prediction(monkeypatch, tmp_path) -> list[str]:
    """Replaces networks and decoding: every file is of class b by 0.75; a list of paths."""
    paths = [str(tmp_path / name) for name in ("nhạc.mp3", "b.mp3")]
    for path in paths:
        Path(path).write_bytes(b"x")

    def predict(run, ensemble, paths, out, device, min_confidence):
        return make_predictions(paths, [[0.25, 0.75]] * len(paths), ["a", "b"], min_confidence=min_confidence)

    ensemble = SimpleNamespace(description="2 of 6 networks, not stacked")
    monkeypatch.setattr(music, "load_ensemble", lambda run: ensemble)
    digests = RunDigests(run="r", recipe="x", checkpoints=("a", "b"), stacks=())
    monkeypatch.setattr(music, "run_digests", lambda run: digests)
    monkeypatch.setattr(music, "_predict", predict)
    return paths


def predict(run: Run, paths: list[str], out: Path | None, min_confidence: float = 0.0) -> list[str]:
    return music.predict_files(run, paths, out, torch.device("cpu"), min_confidence)


def test_the_first_line_says_which_networks_predict(made, quick_prediction, console_output):
    text = console_output(False)
    assert predict(made, quick_prediction, None) == []
    assert text.getvalue().splitlines()[0] == "Predicted by 2 of 6 networks, not stacked"


def test_the_results_are_complete_before_the_table_is_shown(made, quick_prediction, tmp_path, monkeypatch):
    def broken_terminal(*_):
        raise UnicodeEncodeError("ascii", "ạ", 0, 1, "ordinal not in range")

    monkeypatch.setattr(console, "show", broken_terminal)
    out = tmp_path / "o.csv"
    (tmp_path / ".o.csv.resume_log").touch()
    with pytest.raises(UnicodeEncodeError):
        predict(made, quick_prediction, out, 0.8)
    _, *rows = out.read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[:3] for row in rows] == [[path, "unsure", "0.750000"] for path in quick_prediction]
    assert not (tmp_path / ".o.csv.resume_log").exists()


@pytest.mark.parametrize("tags", TagWriting)
def test_labels_go_to_the_tags_after_the_table(made, quick_prediction, tmp_path, monkeypatch, tags):
    calls = []

    def write_tags(predictions, tags, save):
        assert out.exists()
        out.unlink()
        save(predictions)
        assert out.exists()
        calls.append((predictions.labels, tags))
        return ["a problem of a tag"]

    out = tmp_path / "o.csv"
    monkeypatch.setattr(tagging, "write_tags", write_tags)
    monkeypatch.setattr(Run, "class_names", ["a", "b"])
    cpu = torch.device("cpu")
    assert music.predict_files(made, quick_prediction, out, cpu, 0.0, tags) == ["a problem of a tag"]
    assert calls == [(["b", "b"], tags)]


def test_classes_that_no_tag_can_hold_are_refused_before_anything_is_loaded(made, monkeypatch):
    monkeypatch.setattr(Run, "class_names", ["1", "2"])
    with pytest.raises(InputError, match="2 of this run's classes, as a genre tag"):
        music.predict_files(made, ["absent.mp3"], None, torch.device("cpu"), 0.0, TagWriting.SHOW)


def test_a_class_may_not_have_the_name_of_an_unsure_label(made, quick_prediction, monkeypatch):
    monkeypatch.setattr(Run, "class_names", ["a", "unsure"])
    with pytest.raises(InputError, match="unsure, which is the name of a class of this run"):
        predict(made, quick_prediction, None, 0.5)
    predict(made, quick_prediction, None)


def test_names_that_a_terminal_cannot_show_end_no_script():
    code = (
        "import numpy as np\n"
        "from melgpu import cli, console\n"
        "from tests.prediction.test_music import make_predictions, music\n"
        "predictions = make_predictions(['nhạc số.mp3', 'b.mp3'], [[0.2, 0.8]] * 2, ['aria', 'điệu'], [1])\n"
        "cli.run(lambda: music.show_predictions(predictions, ['b\\udcff.mp3: empty']))\n"
    )
    process = run_script("-c", code, env={"PYTHONIOENCODING": "ascii:strict"})
    assert process.returncode == 0, process.stderr
    assert "nh?c s?.mp3" in process.stdout
    assert "error: b?.mp3: empty" in process.stdout


@pytest.fixture
def embed(made, monkeypatch, tmp_path):
    """Embeds files, those whose name begins with `bad` with an error, into a Parquet file; returns the problems."""
    pytest.importorskip("pyarrow")

    class Model:
        def __init__(self, *_):
            pass

        def embed(self, paths):
            for path in paths:
                is_bad = Path(path).name.startswith("bad")
                yield Embedding(path, None if is_bad else np.ones(4, np.float32), "empty" if is_bad else None)

    monkeypatch.setattr(music, "load_ensemble", lambda run: SimpleNamespace(networks=[None, None]))
    monkeypatch.setattr(music, "recipe_for_new_music", lambda *_: None)
    monkeypatch.setattr(music, "Model", Model)

    def run_embed(*names: str) -> list[str]:
        paths = [str(tmp_path / name) for name in names]
        return music.embed_files(made, paths, tmp_path / "e.parquet", torch.device("cpu"))

    return run_embed


def test_embeddings_are_written_and_may_be_replaced(embed, tmp_path, console_output):
    text = console_output(False)
    (tmp_path / "none").mkdir()
    for _ in range(2):
        check_embed(tmp_path / "e.parquet")
        problems = embed("a.mp3", "bad.mp3", "none")
        assert [Path(problem.split(":")[0]).name for problem in problems] == ["none", "bad.mp3"]
    assert f"error: {tmp_path / 'bad.mp3'}: empty" in text.getvalue()
    read = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "e.parquet").to_pydict()
    assert [Path(path).name for path in read["path"]] == ["a.mp3", "bad.mp3"]
    assert read["vector"] == [[1.0] * 4, None]


def test_without_usable_audio_no_embeddings_are_written(embed, tmp_path):
    with pytest.raises(InputError, match=r"bad\.mp3: empty"):
        embed("bad.mp3")
    assert not list(tmp_path.glob("*e.parquet*"))


def test_only_embeddings_are_replaced_by_embeddings(tmp_path):
    with pytest.raises(InputError, match=r"--embed .*: give it the suffix of a format: \.parquet"):
        check_embed(tmp_path / "e.csv")
    other = pytest.importorskip("pyarrow").table({"path": ["a"], "vector": [[1.0]]})
    pytest.importorskip("pyarrow.parquet").write_table(other, tmp_path / "e.parquet")
    with pytest.raises(InputError, match="which alone --embed may replace: its columns are path, vector"):
        check_embed(tmp_path / "e.parquet")
