"""Search for the best settings of a training.

ray job submit --working-dir . -- python jobs/tune.py configs/tune/default.yaml dataset=DIR output=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.search.config import TuneConfig
    from mmgenre.search.job import describe, tune

if __name__ == "__main__":
    run(TuneConfig, lambda config: describe(tune(config)))
