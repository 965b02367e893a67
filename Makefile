PYTHON ?= python3.11
BIN := .venv/bin
# Real movies for tests and benchmarks; without the folder, the tests that need it are skipped.
DATA ?= ../shared/data

.PHONY: demo serve quick test check bench bench-models clean

# Reinstalls only when a requirement has changed. Python compiles each module when it is first imported.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/python jobs/pipeline.py configs/pipeline/demo.yaml output=runs/demo

# Serves the demo's model at http://127.0.0.1:8000 until Ctrl-C.
serve: .venv/.installed
	test -f runs/demo/tiny/checkpoint/checkpoint.json || $(MAKE) demo
	$(BIN)/python jobs/serve.py configs/serve/default.yaml checkpoint=runs/demo/tiny/checkpoint

# Tests that need neither Ray nor another process, without the slow ones.
quick: .venv/.installed
	MMGENRE_DATA=$(DATA) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not process and not slow"

# All tests: in parallel, then one after the other those that start Ray and other processes: side by side on few cores,
# their time limits would measure the load.
test: .venv/.installed
	MMGENRE_DATA=$(DATA) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not process"
	MMGENRE_DATA=$(DATA) $(BIN)/python -m pytest -m process

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.installed
	$(BIN)/python bench/catalog.py
	$(BIN)/python bench/enrich.py
	$(BIN)/python bench/posters.py
	$(BIN)/python bench/tagging.py scale
	$(BIN)/python bench/tagging.py resume
	$(BIN)/python bench/serving.py

# Benchmarks on real movies: MOVIES=DIR of a MOVIES table, PLOTS=FILE of plots, PRETRAINED=DIR of a text encoder,
# WEIGHTS=FILE of VGG-16's convolutions, CHECKPOINT=DIR of a trained poster model, TEXT=DIR of a trained text encoder.
bench-models: .venv/.installed
	$(BIN)/python bench/training.py $(MOVIES) $(PRETRAINED)
	$(BIN)/python bench/features.py $(MOVIES) $(WEIGHTS)
	$(BIN)/python bench/poster_inference.py $(MOVIES) $(CHECKPOINT)
	$(BIN)/python bench/search.py $(MOVIES)
	$(BIN)/python bench/tagging.py text $(PLOTS) $(PRETRAINED) --rows 25984
	$(BIN)/python bench/tagging.py actors $(PLOTS) $(PRETRAINED)
	$(BIN)/python bench/serving.py $(TEXT) --plots $(PLOTS)
	$(BIN)/python bench/topics.py $(TEXT) $(MOVIES)

clean:
	rm -rf .venv runs
