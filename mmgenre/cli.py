"""Entry point of every script in jobs/: parse the config, run the job, print its result or a one-line error."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmgenre.config import Config, parse_any_job, parse_args
from mmgenre.errors import InputError, one_line


def run(
    config_type: type[Any], work: Callable[[Any], Any], *alternatives: tuple[type[Any], Callable[[Any], Any]]
) -> None:
    """Run a job from the command line; exits with 1 after a user's mistake, 130 after Ctrl-C.

    Args:
        config_type: type of the config on the command line.
        work: the job; its result is printed.
        alternatives: more config types of this job, each with its function; the given fields decide which one is used.
    """
    works: dict[type[Config], Callable[[Any], Any]] = {config_type: work, **dict(alternatives)}
    _run(lambda: parse_args(list(works)), lambda config: works[type(config)](config))


def run_for_any_job(jobs: Mapping[str, Sequence[type[Config]]], work: Callable[[Any], Any]) -> None:
    """Like `run`, for a function that takes the config of any job, whose name is the first argument.

    Args:
        jobs: the config types of each job, by its name.
        work: see `run`.
    """
    _run(lambda: parse_any_job(jobs), work)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ends the process with 130 and without a traceback after Ctrl-C; imports alone take seconds."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to resume", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _run(parse: Callable[[], Config], work: Callable[[Any], Any]) -> None:
    """Print what `work` returns; errors that need no traceback become one line and an exit code."""
    with interruptible():
        try:
            result = work(parse())
        except InputError as error:
            sys.exit(f"error: {error}")
        except OSError as error:
            # Raised by a disk, a bucket or a network: a traceback would add nothing.
            sys.exit(f"error: {one_line(error)}")
    print(result)  # noqa: T201
