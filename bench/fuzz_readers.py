"""Fuzz every reader of people's files with thousands of random files.

python bench/fuzz_readers.py 300

Each test in tests/tables/test_fuzz.py makes that many files, and fails if a file is not refused and the rows that
come out are not the rows that went in. Prints how many were read and refused, by test.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = "tests/tables/test_fuzz.py"


def main() -> None:
    """Run the fuzz tests and print their figures."""
    examples = sys.argv[1] if len(sys.argv) > 1 else "300"
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", TESTS, "--hypothesis-show-statistics", "-p", "no:cacheprovider"]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"FUZZ_EXAMPLES": examples}, capture_output=True, text=True, check=False
    )
    num_files = 0
    for name, figures in re.findall(
        r"^tests/tables/test_fuzz\.py::(\S+):\n((?:\n?  .*\n)+)", result.stdout, re.MULTILINE
    ):
        passing = sum(map(int, re.findall(r"(\d+) passing, ", figures)))
        events = re.findall(r"(\d+\.\d+)%, (read|refused)", figures)
        print(f"{name}: {passing:,} files; " + ", ".join(f"{share} % {event}" for share, event in events))
        num_files += passing
    print(f"{num_files:,} files in {time.monotonic() - start:.0f} s")
    if result.returncode:
        sys.exit(result.stdout[-5000:])


if __name__ == "__main__":
    main()
