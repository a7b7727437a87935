import pickle

from melgpu.audio.decode import DecodeError
from melgpu.errors import InputError


def test_every_problem_is_kept_also_across_processes():
    error = DecodeError(f"{name}: broken" for name in ("a.mp3", "b.mp3"))
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, DecodeError)
    assert again.problems == ["a.mp3: broken", "b.mp3: broken"]
    assert str(InputError("one")) == "one"
