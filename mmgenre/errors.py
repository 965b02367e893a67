"""The one error a person can cause, and mend; and how errors are told."""


class InputError(ValueError):
    """A mistake in what a person gave: a path, a field, a file of another kind, a missing key.

    The message is for that person: where, what was found, what was expected, how to mend it.
    Jobs print it alone and exit with 1; every other exception is a bug and keeps its traceback.
    """


def one_line(said: object) -> str:
    """What an error or a library says, without its line breaks."""
    return " ".join(str(said).split())
