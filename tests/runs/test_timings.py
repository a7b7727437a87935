import pytest

from melgpu.errors import InputError
from melgpu.runs import timings


def test_pieces_of_work_add_up(tmp_path):
    path = tmp_path / "timings.csv"
    assert timings.load(path) == []
    for number, stage in ((1, "predict"), (1, "stack"), (2, "predict")):
        with timings.measure(path, number, stage, 40, "windows"):
            pass
    found = timings.load(path)
    assert [(p.round, p.stage, p.amount, p.unit) for p in found] == [
        (1, "predict", 40, "windows"),
        (1, "stack", 40, "windows"),
        (2, "predict", 40, "windows"),
    ]
    assert all(p.seconds >= 0 and p.ended.endswith("+00:00") for p in found)


def test_what_fails_is_not_recorded(tmp_path):
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
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "timings.csv").write_text(content)
    with pytest.raises(InputError, match="not a record of times"):
        timings.load(tmp_path / "timings.csv")
    timings.record(tmp_path / "timings.csv", 1, "stack", 1.0, 5, "sub-folds")
    assert [piece.stage for piece in timings.load(tmp_path / "timings.csv")] == ["stack"]
