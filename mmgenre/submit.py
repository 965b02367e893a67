"""Jobs handed to a cluster: packed, submitted once, followed to their end, and again when their machine was lost."""

import asyncio
import contextlib
import hashlib
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator

import requests
from pydantic import Field
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from mmgenre.config import Config
from mmgenre.errors import InputError

_POLL_S = 1.0
_NEVER_ENDED = (JobStatus.PENDING, JobStatus.RUNNING)
# What a shell, and so Ray, makes of Ctrl-C; other codes above 127 are signals that nobody at a terminal sends.
_INTERRUPTED = 130


class SubmitConfig(Config):
    """Run a command on a Ray cluster as a job, follow its output, and end with its exit code.

    The command stands after `--`, as in `… -- python jobs/train.py configs/train/default.yaml output=s3://…`.
    """

    command: tuple[str, ...] = Field(min_length=1, description="what the cluster is to run; given after --")
    address: str | None = Field(
        None, description="of the dashboard; null: RAY_API_SERVER_ADDRESS, or else http://127.0.0.1:8265"
    )
    working_dir: str = Field(".", description="folder that is sent along, but for what its .rayignore names")
    id: str | None = Field(None, description="null: made of the command, so that the same command twice is one job")
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
        attempt, info = _first_attempt(client, config)
        if not config.follow:
            return f"{info.submission_id}: submitted; `ray job logs --follow {info.submission_id}` follows it"
        with _left_running(info):
            info = _followed(client, info)
            for again in range(attempt + 1, attempt + 1 + config.retries):
                if not _is_lost(info):
                    break
                _say(f"{info.submission_id}: {_reason(info)}; submitted again")
                info = _followed(client, _submitted(client, config, again))
    if info.status != JobStatus.SUCCEEDED:
        _say(f"{info.submission_id}: {info.status.value.lower()}: {_reason(info)}")
        sys.exit(_exit_code(info))
    return f"{info.submission_id}: {info.status.value.lower()}"


def name_of(config: SubmitConfig) -> str:
    """The same for the same command."""
    if config.id is not None:
        return config.id
    script = next((word for word in config.command if word.endswith(".py")), config.command[0])
    said = hashlib.sha256(shlex.join(config.command).encode()).hexdigest()[:10]
    return f"mmgenre-{os.path.basename(script).removesuffix('.py')}-{said}"  # noqa: PTH119 - it may be no path


def _client(address: str) -> JobSubmissionClient:
    # Without it, the client would send no token, and a cluster that takes commands without one is refused by doctor.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    logging.getLogger("ray.dashboard.modules").setLevel(logging.ERROR)
    return JobSubmissionClient(address)


def _first_attempt(client: JobSubmissionClient, config: SubmitConfig) -> tuple[int, JobDetails]:
    """The attempt that is under way, or a new one, with its number."""
    name = name_of(config)
    numbers = {
        _number(job.submission_id, name): job
        for job in client.list_jobs()
        if job.submission_id and _number(job.submission_id, name)
    }
    latest = max(numbers, default=0)
    if latest and numbers[latest].status in _NEVER_ENDED:
        _say(f"{numbers[latest].submission_id}: under way already")
        return latest, numbers[latest]
    return latest + 1, _submitted(client, config, latest + 1)


def _number(submission_id: str, name: str) -> int:
    """Which attempt at a job an id stands for, from 1; 0: another job."""
    if submission_id == name:
        return 1
    number = submission_id.removeprefix(f"{name}-")
    return int(number) if submission_id.startswith(f"{name}-") and number.isdecimal() else 0


def _submitted(client: JobSubmissionClient, config: SubmitConfig, number: int) -> JobDetails:
    name = name_of(config) if number == 1 else f"{name_of(config)}-{number}"
    # Where two people submit the same at the same moment, one is refused, and follows the other's.
    with contextlib.suppress(_AlreadyThereError), _refusals(name):
        client.submit_job(
            entrypoint=shlex.join(config.command),
            submission_id=name,
            runtime_env={"working_dir": config.working_dir},
            entrypoint_num_cpus=config.driver_cpus or None,
        )
        _say(f"{name}: submitted")
    return client.get_job_info(name)


def _followed(client: JobSubmissionClient, info: JobDetails) -> JobDetails:
    """The job's account when it has ended; its output is printed until then."""
    name = info.submission_id
    # The stream breaks off when the machine that it comes from is lost; what became of the job is asked for below.
    with contextlib.suppress(RuntimeError, OSError):
        asyncio.run(_print_output(client, name))
    while (info := client.get_job_info(name)).status in _NEVER_ENDED:
        time.sleep(_POLL_S)
    return info


async def _print_output(client: JobSubmissionClient, name: str) -> None:
    async for lines in client.tail_job_logs(name):
        sys.stdout.write(lines)
        sys.stdout.flush()


def _is_lost(info: JobDetails) -> bool:
    """Whether it ended without having said what was wrong: its machine is gone, or somebody killed it."""
    code = info.driver_exit_code
    return info.status == JobStatus.FAILED and (code is None or code < 0 or (code > 127 and code != _INTERRUPTED))


def _exit_code(info: JobDetails) -> int:
    code = info.driver_exit_code
    return code if code is not None and 0 < code < 256 else 1


def _reason(info: JobDetails) -> str:
    return " ".join((info.message or "no reason given").split())[:300]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - beside the job's own output


class _AlreadyThereError(Exception):
    """A job has this id."""


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Within it a job is submitted."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        if "already exists" in said:
            raise _AlreadyThereError from None
        raise InputError(f"{name}: could not be submitted: {said[-300:]}") from None


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
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{address}: no dashboard answers there ({said}); is `ray dashboard` forwarding it?") from None


@contextlib.contextmanager
def _left_running(info: JobDetails) -> Iterator[None]:
    """Within it a job is followed; Ctrl-C ends that, not the job."""
    try:
        yield
    except KeyboardInterrupt:
        name = info.submission_id
        _say(f"\n{name}: goes on; the same command follows it again, `ray job stop {name}` ends it")
        sys.exit(_INTERRUPTED)
