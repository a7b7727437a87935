import pytest

from melgpu.errors import InputError
from melgpu.prediction.parts.scheduler import Part, choose_part

SLURM = {f"SLURM_ARRAY_TASK_{name}": value for name, value in (("MIN", "0"), ("MAX", "7"), ("COUNT", "8"))}
REPAIR = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "9"}


@pytest.mark.parametrize(
    ("flag", "count", "frozen", "environ", "expected"),
    [
        ("0/1", None, {}, {}, Part(0, 1, "--part")),
        ("17/64", 64, {"l.json": 64}, {"SLURM_ARRAY_TASK_ID": "3"}, Part(17, 64, "--part")),
        (None, None, {}, {**SLURM, "SLURM_ARRAY_TASK_ID": "7"}, Part(7, 8, "SLURM_ARRAY_TASK_ID")),
        (None, None, {"l.json": 64}, {**SLURM, "SLURM_ARRAY_TASK_ID": "7"}, Part(7, 64, "SLURM_ARRAY_TASK_ID")),
        (None, None, {"l.json": 10}, {**REPAIR, "SLURM_ARRAY_TASK_COUNT": "4"}, Part(3, 10, "SLURM_ARRAY_TASK_ID")),
        (None, 16, {}, {"JOB_COMPLETION_INDEX": "5", "RANK": "1"}, Part(5, 16, "JOB_COMPLETION_INDEX")),
        (None, None, {}, {"RANK": "1", "WORLD_SIZE": "2"}, Part(1, 2, "RANK")),
    ],
)
def test_the_part_and_its_source(flag, count, frozen, environ, expected):
    assert choose_part(flag, count, frozen, environ) == expected


@pytest.mark.parametrize(
    ("flag", "count", "frozen", "environ", "reason"),
    [
        (None, 8, {}, {}, "--part I/N is needed: none of SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX, RANK is set"),
        (None, None, {}, {"JOB_COMPLETION_INDEX": "5"}, "JOB_COMPLETION_INDEX=5: of how many parts"),
        # The count of a repair is not the number of parts.
        (None, None, {}, {**REPAIR, "SLURM_ARRAY_TASK_COUNT": "4"}, "of how many parts"),
        (None, None, {}, {**SLURM, "SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "4"}, "of how many parts"),
        (None, 9, {"l.json": 8}, {"RANK": "0"}, r"part 0 of 9, from RANK: l.json has 8 parts"),
        ("1/4", None, {"l.json": 8}, {}, r"part 1 of 4, from --part: l.json has 8 parts"),
        ("1/4", 8, {}, {}, "--part 1/4 and --parts 8"),
        ("4/4", None, {}, {}, "part 4 of 4, from --part: parts are counted from 0 to 3"),
        ("0/0", None, {}, {}, "0 parts; expected 1 to 100,000"),
        ("0/100001", None, {}, {}, "100001 parts; expected 1 to 100,000"),
        ("3", None, {}, {}, "--part 3: not I/N"),
        ("-1/4", None, {}, {}, "--part -1/4: not I/N"),
        ("1/4/", None, {}, {}, "not I/N"),
    ],
)
def test_contradictions_are_refused(flag, count, frozen, environ, reason):
    with pytest.raises(InputError, match=reason):
        choose_part(flag, count, frozen, environ)
