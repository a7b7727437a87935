"""What a user did wrong, said in full: one exception that carries every problem found."""

from collections.abc import Iterable


class InputError(ValueError):
    """Problems with files, labels, recipes or flags; each is one sentence that names the thing and the reason.

    The scripts print them all and end with exit code 2.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self):
        return type(self), (self.problems,)
