"""Submits a command to a cluster as a job, follows it to its end, and resubmits it if its machine was lost."""

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

import aiohttp
import requests
from pydantic import Field
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from mmgenre.config import Config
from mmgenre.errors import InputError, one_line

_POLL_S = 1.0
# How long to wait for the remaining output of a finished job; a lost machine sends none.
_DRAIN_TIMEOUT_S = 10
_ACTIVE = (JobStatus.PENDING, JobStatus.RUNNING)
# The exit code of a shell, and so of a Ray job, after Ctrl-C.
_INTERRUPTED = 128 + signal.SIGINT


class SubmitConfig(Config):
    """Run a command as a job on a Ray cluster, print its output, and exit with its exit code.

    The command follows `--`, as in `… -- python jobs/train.py configs/train/default.yaml output=s3://…`.
    """

    command: tuple[str, ...] = Field(min_length=1, description="command to run on the cluster; the words after --")
    address: str | None = Field(
        None, description="URL of the dashboard; null: RAY_API_SERVER_ADDRESS, or else http://127.0.0.1:8265"
    )
    working_dir: str = Field(".", description="folder to upload, without the files that its .rayignore lists")
    id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][\w.-]*$",
        description="null: derived from the command, so that submitting the same command twice makes one job",
    )
    retries: int = Field(3, ge=0, description="resubmissions after the job was killed or its machine was lost")
    driver_cpus: float = Field(
        0, ge=0, description="CPUs to reserve for the command; 0: it runs on the head, whatever the head offers"
    )
    follow: bool = Field(True, description="false: exit as soon as the job is submitted")


def submit(config: SubmitConfig) -> str:
    """Submit a command, or follow it if it is already running; returns a line about its result.

    Raises:
        InputError: no cluster at the address, no permission to use it, or a folder that cannot be uploaded.
        SystemExit: the job failed; with its exit code.
    """
    address = config.address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
    with _dashboard_errors(address):
        client = _client(address)
        attempt = _start(client, config)
        if not config.follow:
            return f"{_attempt_id(config, attempt)}: submitted; run the same command again to follow it"
        last = attempt + config.retries
        details = _follow(client, _attempt_id(config, attempt), address)
        while _is_lost(details) and attempt < last:
            attempt += 1
            _print(f"{details.submission_id}: {_reason(details)}; resubmitted")
            _send(client, config, attempt)
            details = _follow(client, _attempt_id(config, attempt), address)
    if details.status == JobStatus.SUCCEEDED:
        return f"{details.submission_id}: succeeded"
    _print(f"{details.submission_id}: {details.status.value.lower()}: {_reason(details)}")
    sys.exit(_exit_code(details))


def job_id(config: SubmitConfig) -> str:
    """The id of a job's first attempt, the same for the same command; later attempts append their number."""
    if config.id is not None:
        return config.id
    script = next((word for word in config.command if word.endswith(".py")), config.command[0])
    stem = re.sub(r"[^\w.-]+", "-", PurePath(script).stem, flags=re.ASCII)[:40]
    return f"mmgenre-{stem}-{hashlib.sha256(shlex.join(config.command).encode()).hexdigest()[:10]}"


def _client(address: str) -> JobSubmissionClient:
    # Silences Ray's lines about each upload and each log stream.
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # By default, the client sends a token only if RAY_AUTH_MODE=token was set before Ray was imported.
    token = _token()
    return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)


def _token() -> str | None:
    """The cluster's token, from the same places in which Ray looks for it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _start(client: JobSubmissionClient, config: SubmitConfig) -> int:
    """The number of the running attempt; if there is none, of a new one, which is submitted."""
    name = job_id(config)
    attempts = {number: job for job in client.list_jobs() if (number := _attempt_number(job.submission_id, name))}
    latest = max(attempts, default=0)
    if not latest or attempts[latest].status not in _ACTIVE:
        _send(client, config, latest + 1)
        return latest + 1
    running = attempts[latest].entrypoint
    if running != shlex.join(config.command):
        raise InputError(f"{_attempt_id(config, latest)}: already running another command, {running}; use another id")
    _print(f"{_attempt_id(config, latest)}: already running")
    return latest


def _attempt_id(config: SubmitConfig, number: int) -> str:
    return job_id(config) if number == 1 else f"{job_id(config)}-{number}"


def _attempt_number(submission_id: str | None, name: str) -> int:
    """The number, from 1, of the attempt with this id; 0 if it is another job's."""
    if submission_id == name:
        return 1
    match = re.fullmatch(rf"{re.escape(name)}-([0-9]+)", submission_id or "")
    return int(match[1]) if match else 0


def _send(client: JobSubmissionClient, config: SubmitConfig, number: int) -> None:
    name = _attempt_id(config, number)
    try:
        client.submit_job(
            entrypoint=shlex.join(config.command),
            submission_id=name,
            runtime_env={"working_dir": config.working_dir},
            entrypoint_num_cpus=config.driver_cpus or None,
        )
    except (RuntimeError, ValueError) as error:
        message = one_line(error)
        # Ray's client raises RuntimeError for every refusal: only the text tells them apart.
        if "status code 413" in message:
            raise InputError(
                f"{config.working_dir}: larger than the 100 MiB that a cluster accepts; "
                "list files that the job does not need in its .rayignore"
            ) from None
        # When two users submit the same command at the same moment, one is refused and follows the other's job.
        if "already exists" not in message:
            raise InputError(f"{name}: could not be submitted: {message[-300:]}") from None
    _print(f"{name}: submitted")


def _follow(client: JobSubmissionClient, name: str, address: str) -> JobDetails:
    """Print a job's output until it ends; returns its details."""
    try:
        return asyncio.run(_followed(client, name))
    except KeyboardInterrupt:
        stop = f"RAY_AUTH_MODE=token ray job stop --address {address} {name}"
        _print(f"\n{name}: still running; run the same command again to follow it, or stop it with `{stop}`")
        sys.exit(_INTERRUPTED)


async def _followed(client: JobSubmissionClient, name: str) -> JobDetails:
    # The log stream of a lost machine may hang forever, so the job's status is polled as well.
    output = asyncio.create_task(_print_output(client, name))
    while (details := await asyncio.to_thread(client.get_job_info, name)).status in _ACTIVE:
        await asyncio.sleep(_POLL_S)
    await asyncio.wait([output], timeout=_DRAIN_TIMEOUT_S)
    output.cancel()
    return details


async def _print_output(client: JobSubmissionClient, name: str) -> None:
    """Print a job's output, each character once even if the log stream breaks and is reopened."""
    printed = 0
    while True:
        received = 0
        with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
            async for text in client.tail_job_logs(name):
                sys.stdout.write(text[max(0, printed - received) :])
                sys.stdout.flush()
                received += len(text)
                printed = max(printed, received)
            return
        await asyncio.sleep(_POLL_S)


def _is_lost(details: JobDetails) -> bool:
    """Whether the job ended without an error of its own: its machine was lost, or it was killed."""
    code = details.driver_exit_code
    return details.status == JobStatus.FAILED and (code is None or _signal(code) > 0)


def _signal(code: int) -> int:
    """The signal behind an exit code in Python's or a shell's convention; 0 if there is none or it was Ctrl-C."""
    number = -code if code < 0 else code - 128
    # An exit code such as 255 is a program's own.
    return number if number in set(signal.Signals) - {signal.SIGINT} else 0


def _exit_code(details: JobDetails) -> int:
    code = details.driver_exit_code or 1
    return code if code > 0 else 128 - code


def _reason(details: JobDetails) -> str:
    code = details.driver_exit_code
    if code is None:
        return one_line(details.message or "no reason given")[:300]
    return f"killed by signal {_signal(code)}" if _signal(code) > 0 else f"exit code {code}"


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - stdout is for the job's own output


@contextlib.contextmanager
def _dashboard_errors(address: str) -> Iterator[None]:
    """Turns errors of the connection to the dashboard into InputError."""
    try:
        yield
    except AuthenticationError:
        raise InputError(
            f"{address}: the cluster requires its token; set RAY_AUTH_TOKEN, or put it into ~/.ray/auth_token, where "
            "`ray get-auth-token --generate` writes it"
        ) from None
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise InputError(
            f"{address}: no answer from a dashboard ({one_line(error)[:200]}); is `ray dashboard` forwarding it? "
            "A submitted job keeps running; run the same command again to follow it"
        ) from None
