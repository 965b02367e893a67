"""Score predictions against the labels of a dataset.

python jobs/evaluate.py configs/evaluate/default.yaml predictions=DIR movies=DIR output=DIR
"""

from mmgenre.evaluate import EvaluateConfig, evaluate
from mmgenre.job import run

if __name__ == "__main__":
    run(EvaluateConfig, evaluate)
