"""Check what a run would fail for later; takes what the job itself takes, and exits with 1 where something is wrong.

ray job submit --working-dir . -- \\
    python jobs/doctor.py configs/train/default.yaml dataset=URI output=URI workers=4
"""

from mmgenre.cli import run
from mmgenre.operations.doctor import examine
from mmgenre.operations.requirements import RUNS

if __name__ == "__main__":
    run(RUNS[0], examine, *((kind, examine) for kind in RUNS[1:]))
