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


def one_line(error: BaseException) -> str:
    """An error's text in one line of sane length and characters, whatever a stranger's file put into it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in text[:200])
