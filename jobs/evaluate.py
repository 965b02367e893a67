"""Score predictions against the labels of a dataset.

python jobs/evaluate.py configs/evaluate/default.yaml predictions=DIR movies=DIR output=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.evaluation.job import EvaluateConfig, evaluate

if __name__ == "__main__":
    run(EvaluateConfig, evaluate)
