"""Jobs handed to a cluster: packed, submitted once, followed to their end, and again when their machine was lost."""

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
# What a job that has ended may take to bring the rest of its output; from a machine that is gone none comes.
_LAST_WORDS_S = 10
_NEVER_ENDED = (JobStatus.PENDING, JobStatus.RUNNING)
# What a shell, and so Ray, makes of Ctrl-C; other codes above 128 are signals that nobody at a terminal sends.
_INTERRUPTED = 128 + signal.SIGINT


class SubmitConfig(Config):
    """Run a command on a Ray cluster as a job, follow its output, and end with its exit code.

    The command stands after `--`, as in `… -- python jobs/train.py configs/train/default.yaml output=s3://…`.
    """

    command: tuple[str, ...] = Field(min_length=1, description="what the cluster is to run; given after --")
    address: str | None = Field(
        None, description="of the dashboard; null: RAY_API_SERVER_ADDRESS, or else http://127.0.0.1:8265"
    )
    working_dir: str = Field(".", description="folder that is sent along, but for what its .rayignore names")
    id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][\w.-]*$",
        description="null: made of the command, so that the same command twice is one job",
    )
    retries: int = Field(3, ge=0, description="times it is submitted again after its machine was lost or it was killed")
    driver_cpus: float = Field(
        0, ge=0, description="of the machine that runs the command; 0: the head runs it, whatever it offers"
    )
    follow: bool = Field(True, description="false: end as soon as it is submitted")


def submit(config: SubmitConfig) -> str:
    """Submit a command, or follow it if it is under way; returns a line about how it ended.

    Raises:
        InputError: no cluster there, no leave to use it, or nothing that can be sent.
        SystemExit: with the job's exit code, if that is not 0.
    """
    address = config.address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
    with _explained(address):
        client = _client(address)
        number = _begin(client, config)
        if not config.follow:
            return f"{_attempt(config, number)}: submitted; the same command follows it"
        last = number + config.retries
        info = _follow(client, _attempt(config, number), address)
        while _is_lost(info) and number < last:
            number += 1
            _say(f"{info.submission_id}: {_reason(info)}; submitted again")
            _send(client, config, number)
            info = _follow(client, _attempt(config, number), address)
    if info.status == JobStatus.SUCCEEDED:
        return f"{info.submission_id}: succeeded"
    _say(f"{info.submission_id}: {info.status.value.lower()}: {_reason(info)}")
    sys.exit(_exit_code(info))


def name_of(config: SubmitConfig) -> str:
    """The id of a job, the same for the same command; further attempts at it have a number behind it."""
    if config.id is not None:
        return config.id
    script = next((word for word in config.command if word.endswith(".py")), config.command[0])
    stem = re.sub(r"[^\w.-]+", "-", PurePath(script).stem, flags=re.ASCII)[:40]
    return f"mmgenre-{stem}-{hashlib.sha256(shlex.join(config.command).encode()).hexdigest()[:10]}"


def _client(address: str) -> JobSubmissionClient:
    # What Ray tells of each upload and each stream.
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Of itself the client sends a token only where RAY_AUTH_MODE=token was set before Ray was imported.
    token = _token()
    return JobSubmissionClient(address, headers={"Authorization": f"Bearer {token}"} if token else None)


def _token() -> str | None:
    """The cluster's token, from where Ray itself looks for it."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _begin(client: JobSubmissionClient, config: SubmitConfig) -> int:
    """The number of the attempt that is under way, or else of a new one, which is submitted."""
    name = name_of(config)
    attempts = {number: job for job in client.list_jobs() if (number := _number(job.submission_id, name))}
    latest = max(attempts, default=0)
    if not latest or attempts[latest].status not in _NEVER_ENDED:
        _send(client, config, latest + 1)
        return latest + 1
    other = attempts[latest].entrypoint
    if other != shlex.join(config.command):
        raise InputError(f"{_attempt(config, latest)}: under way with another command, {other}; give another id")
    _say(f"{_attempt(config, latest)}: under way already")
    return latest


def _attempt(config: SubmitConfig, number: int) -> str:
    """The id of an attempt at a job."""
    return name_of(config) if number == 1 else f"{name_of(config)}-{number}"


def _number(submission_id: str | None, name: str) -> int:
    """Which attempt at a job an id stands for, from 1; 0: another job."""
    if submission_id == name:
        return 1
    found = re.fullmatch(rf"{re.escape(name)}-([0-9]+)", submission_id or "")
    return int(found[1]) if found else 0


def _send(client: JobSubmissionClient, config: SubmitConfig, number: int) -> None:
    name = _attempt(config, number)
    try:
        client.submit_job(
            entrypoint=shlex.join(config.command),
            submission_id=name,
            runtime_env={"working_dir": config.working_dir},
            entrypoint_num_cpus=config.driver_cpus or None,
        )
    except (RuntimeError, ValueError) as error:
        said = one_line(error)
        if "status code 413" in said:
            raise InputError(
                f"{config.working_dir}: more than the 100 MiB that a cluster takes; "
                "let its .rayignore name what the job does not read"
            ) from None
        # Where two people submit the same at the same moment, one is refused, and follows the other's.
        if "already exists" not in said:
            raise InputError(f"{name}: could not be submitted: {said[-300:]}") from None
    _say(f"{name}: submitted")


def _follow(client: JobSubmissionClient, name: str, address: str) -> JobDetails:
    """The account of a job that has ended; its output is printed until then."""
    try:
        return asyncio.run(_followed(client, name))
    except KeyboardInterrupt:
        stop = f"RAY_AUTH_MODE=token ray job stop --address {address} {name}"
        _say(f"\n{name}: goes on; the same command follows it again, `{stop}` ends it")
        sys.exit(_INTERRUPTED)


async def _followed(client: JobSubmissionClient, name: str) -> JobDetails:
    # The stream of a machine that is lost may neither go on nor end: whether the job has ended is asked beside it.
    output = asyncio.create_task(_print_output(client, name))
    while (info := await asyncio.to_thread(client.get_job_info, name)).status in _NEVER_ENDED:
        await asyncio.sleep(_POLL_S)
    await asyncio.wait([output], timeout=_LAST_WORDS_S)
    output.cancel()
    return info


async def _print_output(client: JobSubmissionClient, name: str) -> None:
    """Print what a job says, each character once, however often the stream that brings it breaks off."""
    printed = 0
    while True:
        seen = 0
        with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
            async for text in client.tail_job_logs(name):
                sys.stdout.write(text[max(0, printed - seen) :])
                sys.stdout.flush()
                seen += len(text)
                printed = max(printed, seen)
            return
        await asyncio.sleep(_POLL_S)


def _is_lost(info: JobDetails) -> bool:
    """Whether it ended without having said what was wrong: its machine is gone, or somebody killed it."""
    return info.status == JobStatus.FAILED and (info.driver_exit_code is None or _signal(info.driver_exit_code) > 0)


def _signal(code: int) -> int:
    """The signal that ended a process, as Python or as a shell tells it; 0: none did, or Ctrl-C."""
    number = -code if code < 0 else code - 128
    return number if number != signal.SIGINT else 0


def _exit_code(info: JobDetails) -> int:
    code = info.driver_exit_code or 1
    return code if code > 0 else 128 - code


def _reason(info: JobDetails) -> str:
    code = info.driver_exit_code
    if code is None:
        return " ".join((info.message or "no reason given").split())[:300]
    return f"killed by signal {_signal(code)}" if _signal(code) > 0 else f"exit code {code}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - beside the job's own output


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """Within it the dashboard is talked to."""
    try:
        yield
    except AuthenticationError:
        raise InputError(
            f"{address}: the cluster wants its token; set RAY_AUTH_TOKEN, or have it in ~/.ray/auth_token, as "
            "`ray get-auth-token --generate` writes it"
        ) from None
    except (ConnectionError, requests.exceptions.RequestException) as error:
        said = one_line(error)[:200]
        raise InputError(
            f"{address}: no dashboard answers there ({said}); is `ray dashboard` forwarding it? "
            "What is submitted goes on, and the same command follows it"
        ) from None
