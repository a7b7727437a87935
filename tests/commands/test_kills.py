import random
from pathlib import Path

import numpy as np

from melgpu.models import classifier
from tests.helpers import run_script, write_audio, write_list


def write_corpus(folder: Path) -> None:
    for split, count in (("train", 18), ("test", 6)):
        rows = [("file", "label")]
        for i in range(count):
            write_audio(folder / f"{split}{i}.wav", 6, 11_025, seed=i % 3)
            rows.append((f"{split}{i}.wav", ("aria", "breakbeat", "waltz")[i % 3]))
        write_list(folder / f"{split}.csv", rows)


def test_the_demo_and_a_student_killed_at_random_moments_and_started_again_gives_the_same_answers(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_corpus(corpus)
    seed = random.randrange(10_000)
    process = run_script("-m", "tests.helpers.killed_steps", corpus, tmp_path, seed, 8, env={"OMP_NUM_THREADS": "1"})
    assert process.returncode == 0, (seed, process.stderr)
    assert int(process.stdout) > 0, seed
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in ("submission.csv", "round1/pseudo.csv"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), (seed, name)
    for path in whole.rglob("evaluation.npz"):
        with np.load(path) as expected, np.load(killed / path.relative_to(whole)) as actual:
            np.testing.assert_array_equal(expected["probs"], actual["probs"], err_msg=str(seed))
    for path in (whole / "student" / "teacher").glob("*.npz"):
        with np.load(path) as expected, np.load(killed / path.relative_to(whole)) as actual:
            np.testing.assert_array_equal(expected["probs"], actual["probs"], err_msg=str(seed))
    for path in whole.rglob("best.safetensors"):
        expected, weights = (
            classifier.load(root / path.relative_to(whole)).model.state_dict() for root in (whole, killed)
        )
        assert all((expected[key] == weights[key]).all() for key in expected), seed
    assert not list(killed.rglob("last.pt")) + list(killed.rglob("*.resume_log"))
    assert (killed / "report.html").exists()
    assert (killed / "student" / "report.html").exists()
