"""Train one model.

ray job submit --working-dir . -- python jobs/train.py configs/train/electra.yaml dataset=DIR output=DIR
"""

from mmgenre.job import run
from mmgenre.train import TrainConfig, train

if __name__ == "__main__":
    run(TrainConfig, train)
