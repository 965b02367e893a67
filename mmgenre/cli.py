"""The frame of every file in jobs/: read the config, do the work, print the result, one line for a mistake."""

import sys
from collections.abc import Callable
from typing import Any

from mmgenre.config import Config, parse_args
from mmgenre.errors import InputError, one_line

# A kind of config, and what is done with it.
Kind = tuple[type[Any], Callable[[Any], Any]]


def run(config_type: type[Any], work: Callable[[Any], Any], *others: Kind) -> None:
    """Run a job from the command line; exits with 1 after a person's mistake, 130 after Ctrl-C.

    Args:
        config_type: what the command line gives.
        work: what is done with it.
        others: further kinds of config that the job takes: the fields that are given say which it is.
    """
    kinds: dict[type[Config], Callable[[Any], Any]] = {config_type: work, **dict(others)}
    try:
        config = parse_args(list(kinds))
        result = kinds[type(config)](config)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        # What a disk, a bucket or a network refuses: nothing that a traceback would tell more of.
        sys.exit(f"error: {one_line(error)}")
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is finished", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    print(result)  # noqa: T201
