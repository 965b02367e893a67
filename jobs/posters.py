"""Download the posters of an ENRICHED table.

ray job submit --working-dir . -- python jobs/posters.py configs/posters/default.yaml enriched=DIR output=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.posters.job import PostersConfig, posters

if __name__ == "__main__":
    run(PostersConfig, posters)
