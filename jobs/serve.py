"""Serve a model over HTTP, with a demo page, until Ctrl-C.

python jobs/serve.py configs/serve/default.yaml checkpoint=DIR
"""

from mmgenre.cli import interruptible, run

with interruptible():
    from mmgenre.serving.job import ServingConfig, serve

if __name__ == "__main__":
    run(ServingConfig, serve)
