import pytest

from melgpu.errors import InputError
from melgpu.runs.formats import timings


def test_stage_timings_are_appended(tmp_path):
    path = tmp_path / "timings.csv"
    assert timings.load(path) == []
    for round_number, stage in ((1, "predict"), (1, "stack"), (2, "predict")):
        with timings.measure(path, round_number, stage, 40, "windows"):
            pass
    loaded = timings.load(path)
    assert [(t.round, t.stage, t.amount, t.unit) for t in loaded] == [
        (1, "predict", 40, "windows"),
        (1, "stack", 40, "windows"),
        (2, "predict", 40, "windows"),
    ]
    assert all(t.seconds >= 0 and t.ended.endswith("+00:00") for t in loaded)


def test_a_stage_that_fails_is_not_recorded(tmp_path):
    with pytest.raises(KeyError), timings.measure(tmp_path / "timings.csv", 1, "predict", 1, "windows"):
        raise KeyError
    assert timings.load(tmp_path / "timings.csv") == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n1,2\n",
        *(",".join(timings.COLUMNS) + f"\nnow,{row},y\n" for row in ("one,x,1,1", "1,x,nan,1", "1,x,1,-1")),
    ],
)
def test_malformed_files_are_rejected_and_replaced(tmp_path, content):
    (tmp_path / "timings.csv").write_text(content)
    with pytest.raises(InputError, match="not a table of timings"):
        timings.load(tmp_path / "timings.csv")
    timings.record(tmp_path / "timings.csv", 1, "stack", 1.0, 5, "sub-folds")
    assert [timing.stage for timing in timings.load(tmp_path / "timings.csv")] == ["stack"]
