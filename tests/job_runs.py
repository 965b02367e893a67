"""Runs a job's script in the test's own process, as a user's process would run it."""

import contextlib
import io
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class JobRun:
    """The exit code of a script, and what it prints."""

    returncode: int
    stdout: str
    stderr: str


def run_job(script, *arguments):
    """Run a script in jobs/ from the repository's folder; its imports and its Ray session are those of this process."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [f"jobs/{script}", *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(ROOT):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exited:
        # Python itself prints any other code on stderr, and exits with 1.
        code = exited.code if isinstance(exited.code, int) else 1
        err.write("" if isinstance(exited.code, int) else f"{exited.code}\n")
    finally:
        sys.argv = argv
    return JobRun(code, out.getvalue(), err.getvalue())
