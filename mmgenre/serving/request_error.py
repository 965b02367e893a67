"""The error that a client receives, and how it is written to the wire."""

import json

# Seconds that the Retry-After header of a 503 asks a client to wait.
RETRY_AFTER_S = 1


class RequestError(Exception):
    """Ends a request with an HTTP status and a one-line message: what was found, what was expected, how to fix it.

    Args:
        status: HTTP status, 4xx or 503.
        message: the line.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message

    @property
    def headers(self) -> dict[str, str]:
        """Response headers: Retry-After with a 503."""
        return {"Retry-After": str(RETRY_AFTER_S)} if self.status == 503 else {}


def error_body(message: str) -> bytes:
    """The body of an error response, in ASCII: a message may quote text that UTF-8 cannot encode."""
    return json.dumps({"error": message}).encode()


def quoted(value: object, max_length: int = 60) -> str:
    """A value from a request, quoted for an error message: shortened, on one line, non-printable characters escaped."""
    text = str(value)
    return ascii(text if len(text) <= max_length else text[:max_length] + "...")
