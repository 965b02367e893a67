"""Compare models on the same movies.

python jobs/compare.py configs/compare/default.yaml movies=DIR output=DIR predictions.NAME=DIR predictions.OTHER=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.evaluation.compare import CompareConfig, compare

if __name__ == "__main__":
    run(CompareConfig, compare)
