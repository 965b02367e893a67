"""An S3 server on loopback, in a process of its own, and the environment in which everything finds it."""

import contextlib
import os
import socket
import subprocess
import sys
import time

BUCKET = "bucket"


@contextlib.contextmanager
def serving():
    """Yields the environment of processes that should find the server."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            make_bucket(f"http://127.0.0.1:{port}")
            yield os.environ | {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        finally:
            server.kill()


def make_bucket(address, timeout_s=60):
    """Ask until the server answers."""
    import urllib.request

    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=5)  # noqa: S310
            return
        assert time.monotonic() < deadline
        time.sleep(0.2)
