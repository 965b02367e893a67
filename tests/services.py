"""A small random model to serve, `jobs/serve.py` as a subprocess, the service in this process, and an HTTP client."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmgenre.labels import GENRES
from mmgenre.models import checkpoint
from mmgenre.models.fusion import LateFusionConfig
from mmgenre.models.movies import Movies
from mmgenre.scoring.thresholds import Calibration, Thresholds
from mmgenre.serving.api import build
from mmgenre.serving.config import ServingConfig
from mmgenre.serving.http_server import HttpServer, listen
from mmgenre.serving.replicas import Prediction
from mmgenre.serving.service import Service

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "jobs/serve.py", "configs/serve/default.yaml"]
PLOTS = [
    f"{who} {does} {what} {where}."
    for who in ("A tired detective", "An astronaut", "Two sisters", "The last dragon", "A clown")
    for does in ("hunts", "marries", "forgets")
    for what in ("a killer", "the moon")
    for where in ("in the rain", "at the end of the world, where nobody ever listens to anything at all")
]
IMAGE = {"model": {"family": "vgg", "weights": "none", "head": "light", "height": 32, "width": 32, "augment": None}}
TEXT = {
    "family": "transformer",
    "pretrained": "none",
    "title": True,
    "vocab_size": 200,
    "max_length": 48,
    "architecture": {
        "model_type": "electra",
        "embedding_size": 32,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
}


def save_fusion(directory):
    """Save a late fusion of title, plot and poster, with separate thresholds for a missing plot or poster."""
    torch.manual_seed(0)
    config = LateFusionConfig.model_validate({"text": {"model": TEXT}, "image": IMAGE})
    model = config.build(Movies.of_plots(PLOTS)).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            # Random weights alone predict about 0.5 for everything.
            if parameter.ndim > 1:
                parameter.mul_(2.0)
    thresholds = [
        Thresholds(per_genre=tuple(rng.uniform(0.3, 0.7, len(GENRES))), global_threshold=0.5, kind="per_genre")
        for _ in range(3)
    ]
    alone = {
        status: Calibration(thresholds=kept, temperature=temperature)
        for status, kept, temperature in zip(("text_only", "poster_only"), thresholds[1:], (0.7, 1.6), strict=True)
    }
    card = checkpoint.Card(
        model=config, thresholds=thresholds[0], temperature=1.2, alone=alone, scores={"macro_f1": 0.5}
    )
    checkpoint.save(model, card, str(directory))
    return str(directory)


def picture(seed=0, size=(30, 45), kind="JPEG", mode="RGB", **options):
    """An image file of coarse noise."""
    values = np.random.default_rng(seed).integers(0, 255, (6, 4, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(values).resize(size).convert(mode).save(content, kind, **options)
    return content.getvalue()


def in_base64(content):
    return base64.b64encode(content).decode()


@contextlib.contextmanager
def served(directory, *overrides, **environment):
    """Run the job as a subprocess; yields the process, with its `port`."""
    command = [*COMMAND, f"checkpoint={directory}", "port=0", *overrides]
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=variables | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        process.port = _port_of(process)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
        if process.poll() is None:
            process.kill()


def _port_of(process):
    readable, _, _ = select.select([process.stdout], [], [], 300)
    line = process.stdout.readline() if readable else ""
    match = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
    if match is None:
        process.kill()
        raise AssertionError(f"no server: {line!r} {process.communicate()[1]}")
    return int(match[1])


class Client:
    """A client with one keep-alive connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def request(self, method, path, body=None, content_type=None, **headers):
        """Status, headers and body of the response."""
        if content_type is not None:
            headers["Content-Type"] = content_type
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        return response.status, response.headers, response.read()

    def get(self, path):
        status, _, body = self.request("GET", path)
        return status, json.loads(body)

    def post(self, path, content):
        """Post JSON; status and decoded JSON of the response."""
        status, _, body = self.request("POST", path, json.dumps(content).encode(), "application/json")
        return status, json.loads(body)

    def post_form(self, path, **fields):
        """Post a form, with bytes as files; status and body of the response."""
        body, content_type = form(fields)
        status, _, answer = self.request("POST", path, body, content_type)
        return status, answer


def form(fields, boundary="a-boundary"):
    """A multipart body, with bytes as files, and its content type."""
    parts = []
    for name, value in fields.items():
        is_file = isinstance(value, bytes)
        disposition = f'form-data; name="{name}"' + (f'; filename="{name}.bin"' if is_file else "")
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        parts.append(head + (value if is_file else value.encode()) + b"\r\n")
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def wait_until(condition, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def service_in_process(directory, predict, explain_movie=None, **config):
    """A client of a service in this process.

    `predict` and `explain_movie` are async functions in place of the replicas; None: the model is still loading.
    """
    service = Service(checkpoint.read_card(directory), ServingConfig(checkpoint=directory, **config))
    if predict is not None:
        service.attach(predict, explain_movie)
    listener = listen("127.0.0.1", 0)
    server = HttpServer(build(service), listener)
    server.start()
    try:
        yield Client(listener.getsockname()[1])
    finally:
        server.stop()
        service.close()


async def predict_half(movies):
    return [Prediction("text_only", np.full(len(GENRES), 0.5, np.float32), None) for _ in movies]
