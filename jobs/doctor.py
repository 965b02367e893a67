"""Check what a run needs before it starts; takes the job and its arguments, and exits with 1 if a check fails.

ray job submit --working-dir . -- \\
    python jobs/doctor.py train configs/train/default.yaml dataset=URI output=URI workers=4
"""

from mmgenre.cli import interruptible, run_for_any_job

with interruptible():
    from mmgenre.operations.doctor import examine
    from mmgenre.operations.requirements import JOBS

if __name__ == "__main__":
    run_for_any_job(JOBS, examine)
