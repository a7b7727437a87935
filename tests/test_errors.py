import pickle

from melgpu.audio.decode import DecodeError
from melgpu.errors import InputError


def test_errors_keep_every_problem_when_pickled():
    error = DecodeError(f"{name}: broken" for name in ("a.mp3", "b.mp3"))
    unpickled = pickle.loads(pickle.dumps(error))
    assert isinstance(unpickled, DecodeError)
    assert unpickled.problems == ["a.mp3: broken", "b.mp3: broken"]
    assert str(InputError("one")) == "one"
