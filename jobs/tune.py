"""Search the settings of a training.

ray job submit --working-dir . -- python jobs/tune.py configs/tune/default.yaml dataset=DIR output=DIR
"""

from mmgenre.job import run
from mmgenre.search_config import TuneConfig
from mmgenre.tune import describe, tune

if __name__ == "__main__":
    run(TuneConfig, lambda config: describe(tune(config)))
