"""The frame of every file in jobs/: read the config, do the work, print the result, one line for a mistake."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from mmgenre.config import Config, parse_args
from mmgenre.errors import InputError

C = TypeVar("C", bound=Config)


def run(config_type: type[C], work: Callable[[C], Any]) -> None:
    """Run a job from the command line; exits with 1 after a person's mistake, 130 after Ctrl-C."""
    try:
        result = work(parse_args(config_type))
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what is finished", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    print(result)  # noqa: T201
