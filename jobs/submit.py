"""Run a job on a Ray cluster: upload the code, submit the job once, and print its output until it ends.

python jobs/submit.py configs/submit/default.yaml -- \\
    python jobs/train.py configs/train/default.yaml dataset=URI output=URI
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.operations.submit import SubmitConfig, submit

if __name__ == "__main__":
    run(SubmitConfig, submit)
