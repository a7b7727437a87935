"""The exception for wrong user input, which carries every problem found, and what errors of other libraries mean."""

from collections.abc import Iterable

# What torch says where CUDA, cuBLAS, cuDNN, cuFFT or cuSPARSE could not allocate; the last is cuDNN without workspace.
OUT_OF_MEMORY_TEXTS = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "unable to find an engine")


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
    return printable(" ".join(str(error).split()) or type(error).__name__)


def printable(text: str, max_chars: int = 200) -> str:
    """A text of an untrusted file in a message: one line of at most `max_chars` printable characters."""
    shortened = text if len(text) <= max_chars else text[: max_chars - 3] + "..."
    return "".join(character if character.isprintable() else "?" for character in shortened)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory, by the type or the text of an error: only some of torch's have the type."""
    if type(error).__name__ == "OutOfMemoryError":  # by name, since torch need not be imported here
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)
