"""Train one model.

ray job submit --working-dir . -- python jobs/train.py configs/train/default.yaml dataset=DIR output=DIR
"""

from mmgenre.job import run
from mmgenre.train import TrainConfig, describe, train

if __name__ == "__main__":
    run(TrainConfig, lambda config: describe(train(config)))
