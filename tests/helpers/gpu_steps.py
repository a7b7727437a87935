"""Steps whose rows succeed, raise, hang and crash."""

import os
import sys
import time
from functools import partial

from benchmarks.gpu.setting import Measurement


def _value(number: int) -> dict:
    return {"text": f"value {number}", "value": number}


def _raise() -> dict:
    raise RuntimeError("no memory\nat all")


def _hang() -> dict:
    time.sleep(600)
    return {}


def _crash() -> dict:
    print("Segmentation fault, say", file=sys.stderr, flush=True)
    os._exit(139)


def all_kinds(setting):
    yield Measurement("first", partial(_value, 1))
    yield Measurement("raises", _raise)
    yield Measurement("hangs", _hang)
    yield Measurement("crashes", _crash)
    yield Measurement("last", partial(_value, 2))


def cannot_prepare(setting):
    raise ValueError("no such network")
    yield


def fine(setting):
    yield Measurement("only", partial(_value, 3))
