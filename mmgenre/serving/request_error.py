"""What a client is told when its request is not answered as asked."""

import json

# Seconds after which a client that was turned away may come again.
RETRY_AFTER_S = 1


class Refusal(Exception):  # noqa: N818 - an answer, not a mishap
    """Ends a request with a status and one line: what was found, what was expected, how to mend it.

    Args:
        status: of HTTP, 4xx or 503.
        message: that line.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message

    @property
    def headers(self) -> dict[str, str]:
        """What is sent beside the message."""
        return {"Retry-After": str(RETRY_AFTER_S)} if self.status == 503 else {}

    @property
    def body(self) -> bytes:
        """The message as JSON."""
        return error_body(self.message)


def error_body(message: str) -> bytes:
    """The body of every answer that is an error; bytes whatever a client has put into the message."""
    return json.dumps({"error": message}).encode()


def quoted(found: object, most: int = 60) -> str:
    """Something that a client sent, in a message: short, in one line, with what is not printable escaped."""
    said = str(found)
    return ascii(said if len(said) <= most else said[:most] + "...")
