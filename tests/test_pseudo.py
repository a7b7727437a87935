import numpy as np
import pytest

from melgpu import pseudo
from melgpu.errors import InputError

PROBS = np.array([[0.9, 0.1], [0.85, 0.15], [0.1, 0.9], [0.5, 0.5]])


def test_only_those_above_the_threshold(tmp_path):
    chosen = pseudo.select(["a", "b", "c", "d"], PROBS, ["rock", "pop"], 0.85)
    assert [(p.id, p.label) for p in chosen] == [("a", "rock"), ("c", "pop")]
    pseudo.save(chosen, tmp_path / "pseudo.csv", 1, "abc")
    assert pseudo.load(tmp_path / "pseudo.csv") == chosen
    assert (tmp_path / "pseudo.csv").read_text().splitlines()[1] == "a,rock,0.900000,1,abc"


def test_none_is_a_valid_answer(tmp_path):
    pseudo.save(pseudo.select(["a"], PROBS[3:], ["rock", "pop"], 0.85), tmp_path / "pseudo.csv", 1, "abc")
    assert pseudo.load(tmp_path / "pseudo.csv") == []


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("file,label\na,b\n")
    with pytest.raises(InputError, match=r"x\.csv: not a file of pseudo labels"):
        pseudo.load(tmp_path / "x.csv")
