"""Serve a generated catalogue through the APIs of TMDB and OMDb, until Ctrl-C.

python jobs/sandbox.py configs/sandbox/default.yaml output=runs/sandbox
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.sandbox.job import ServeConfig, serve

if __name__ == "__main__":
    run(ServeConfig, serve)
