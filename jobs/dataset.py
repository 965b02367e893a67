"""Build a dataset: join catalogue and plots, label the movies and split them.

ray job submit --working-dir . -- \\
    python jobs/dataset.py configs/dataset/default.yaml catalog=DIR enriched=DIR output=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.dataset.job import DatasetConfig, build_dataset, describe

if __name__ == "__main__":
    run(DatasetConfig, lambda config: describe(build_dataset(config)))
