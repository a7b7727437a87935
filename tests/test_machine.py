import os

import pytest

from melgpu import machine


def test_cores_are_those_of_the_affinity():
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        assert machine.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, usable)
    assert 1 <= machine.usable_cores() <= len(usable)


@pytest.mark.parametrize(("limit", "expected"), [("max\n", None), ("1000000\n", 1_000_000), (None, None)])
def test_memory_is_that_of_the_container(tmp_path, monkeypatch, limit, expected):
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    path = tmp_path / "memory.max"
    if limit:
        path.write_text(limit)
    monkeypatch.setattr(machine, "CGROUP_MEMORY_LIMIT", path)
    assert machine.memory_bytes() == (expected or total)
