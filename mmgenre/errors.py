"""The error that a user can cause and fix, and how errors are printed."""


class InputError(ValueError):
    """A mistake in the user's input: a path, a field, the wrong kind of file, a missing key.

    The message says where, what was found, what was expected and how to fix it. Jobs print it alone and exit with
    code 1; every other exception is a bug and keeps its traceback.
    """


def one_line(message: object) -> str:
    """The text of an error or of a library's message, without line breaks."""
    return " ".join(str(message).split())
