import os

import numpy as np
import pytest

from melgpu import pseudo
from melgpu.errors import InputError

PROBS = np.array([[0.9, 0.1], [0.85, 0.15], [0.1, 0.9], [0.5, 0.5]])


def test_only_those_above_the_threshold(tmp_path):
    chosen = pseudo.select(["a", "b", "c", "d"], PROBS, ["rock", "pop"], 0.85)
    assert [(p.id, p.label) for p in chosen] == [("a", "rock"), ("c", "pop")]
    pseudo.save(chosen, tmp_path / "pseudo.csv", 1, "abc")
    assert pseudo.load(tmp_path / "pseudo.csv", 1, "abc") == chosen
    assert (tmp_path / "pseudo.csv").read_text().splitlines()[1] == "a,rock,0.900000,1,abc"


def test_none_is_a_valid_answer(tmp_path):
    pseudo.save(pseudo.select(["a"], PROBS[3:], ["rock", "pop"], 0.85), tmp_path / "pseudo.csv", 1, "abc")
    assert pseudo.load(tmp_path / "pseudo.csv", 1, "abc") == []


HEADER = b"id,label,probability,round,recipe\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"file,label\na,b\n", "its columns are file, label"),
        (b"", "not enough values"),
        (b"\xff\xfe", "can't decode"),
        (HEADER + b"a,rock\n", "not enough values"),
        (HEADER + b"a,rock,sure,1,abc\n", "could not convert"),
        (HEADER + b"a,rock,nan,1,abc\n", "a probability that is none"),
        (HEADER + b"a,rock,7,1,abc\n", "a probability that is none"),
        (HEADER + b"a" * 200_000 + b",rock,0.9,1,abc\n", "field larger"),
        (HEADER + b"a,rock,0.9,2,abc\n", "not of round 1"),
        (HEADER + b"a,rock,0.9,1,abd\n", "or of recipe abc"),
        (HEADER + b"a,rock,0.9,1,abc\na,pop,0.9,1,abc\n", "named twice"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, content, reason):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.csv: not a file of pseudo labels: .*{reason}"):
        pseudo.load(tmp_path / "x.csv", 1, "abc")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent", "."):
        with pytest.raises(InputError, match="not a file of pseudo labels"):
            pseudo.load(tmp_path / name, 1, "abc")
