"""Check what a run needs before it starts; takes the arguments of the run's job, and exits with 1 if a check fails.

ray job submit --working-dir . -- \\
    python jobs/doctor.py configs/train/default.yaml dataset=URI output=URI workers=4
python jobs/doctor.py my_training.yaml --job=train
"""

from mmgenre.cli import run_for_any_job
from mmgenre.operations.doctor import examine
from mmgenre.operations.requirements import JOBS

if __name__ == "__main__":
    run_for_any_job(JOBS, examine)
