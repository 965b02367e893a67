"""Compare models on the same movies.

python jobs/compare.py configs/compare/default.yaml movies=DIR output=DIR predictions.NAME=DIR predictions.OTHER=DIR
"""

from mmgenre.compare import CompareConfig, compare
from mmgenre.job import run

if __name__ == "__main__":
    run(CompareConfig, compare)
