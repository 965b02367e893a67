"""Serve a model over HTTP, with a page to try it on, until Ctrl-C.

python jobs/serve.py configs/serve/default.yaml checkpoint=DIR
"""

from mmgenre.job import run
from mmgenre.serve import ServingConfig, serve

if __name__ == "__main__":
    run(ServingConfig, serve)
