import os

import pytest

from melgpu import machine


def test_cores_are_those_of_the_affinity():
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        assert machine.num_usable_cores() == 1
    finally:
        os.sched_setaffinity(0, usable)
    assert 1 <= machine.num_usable_cores() <= len(usable)


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8), ("", 8)]
)
def test_the_cores_of_a_container_are_its_quota(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "cpu.max")
    assert machine.num_usable_cores() == 8  # outside a container
    machine.CPU_QUOTA.write_text(f"{quota}\n")
    assert machine.num_usable_cores() == cores


@pytest.mark.parametrize(("limit", "expected"), [("max\n", None), ("1000000\n", 1_000_000), (None, None)])
def test_memory_is_that_of_the_container(tmp_path, monkeypatch, limit, expected):
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    path = tmp_path / "memory.max"
    if limit:
        path.write_text(limit)
    monkeypatch.setattr(machine, "MEMORY_LIMIT", path)
    assert machine.memory_bytes() == (expected or total)
