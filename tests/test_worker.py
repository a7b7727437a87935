import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor

from melgpu import worker


def lead(connection) -> None:
    """A parent with a pool of workers, that waits to be killed."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), worker.start)
    connection.send(pool.submit(os.getpid).result())
    time.sleep(60)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_ends_with_its_parent():
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    parent = context.Process(target=lead, args=(theirs,))
    parent.start()
    pid = ours.recv()
    assert is_alive(pid)
    os.kill(pid, signal.SIGINT)  # Ctrl-C reaches the whole group: the worker leaves it to its parent
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    for _ in range(100):
        if not is_alive(pid):
            return
        time.sleep(0.1)
    raise AssertionError(f"worker {pid} outlived its parent")
