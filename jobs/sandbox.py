"""Serve a generated catalogue as TMDB and OMDb would, until Ctrl-C.

python jobs/sandbox.py configs/sandbox/default.yaml output=runs/sandbox
"""

from mmgenre.job import run
from mmgenre.sandbox.serve import ServeConfig, serve

if __name__ == "__main__":
    run(ServeConfig, serve)
