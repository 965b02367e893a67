"""Train one model.

ray job submit --working-dir . -- python jobs/train.py configs/train/default.yaml dataset=DIR output=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.training.config import TrainConfig
    from mmgenre.training.job import describe, train

if __name__ == "__main__":
    run(TrainConfig, lambda config: describe(train(config)))
