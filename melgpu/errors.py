"""The exception for wrong user input; it carries every problem found."""

from collections.abc import Iterable


class InputError(ValueError):
    """Problems with files, labels, recipes or flags; each is one sentence with the item and the reason.

    The scripts print all of them and exit with code 2.
    """

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["InputError"], tuple[list[str]]]:
        # Unpickled by default, as from a decoding process, it would have the joined message as its only problem.
        return type(self), (self.problems,)


def one_line(error: BaseException) -> str:
    """An error's text as one line of at most 200 printable characters, for messages that quote untrusted files."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in text[:200])
