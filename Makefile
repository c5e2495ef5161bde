# Everything a newcomer needs: each target does its own set-up. `make help` lists them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DATA ?= $(NEURAL_CLEANSE_DATA)

SHAPES := neural_cleanse,beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))

.PHONY: help setup demo test test-browser check examples shapes wheel docs fix bench bench-speed bench-scale bench-gpu reproduce clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.done ## make .venv with the pinned dependencies

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: setup ## scan an infected digit classifier and its clean counterpart
	$(BIN)/neural-cleanse demo --output out/demo --overwrite

test: setup ## run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadscope --no-loadscope-reorder

test-browser: setup ## check reports in headless Chromium, which is installed where apt-get is
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
		|| echo 'chromium is not here and apt-get cannot install it: the tests will be skipped'
	$(BIN)/python -m pytest tests/browser -rs

shapes: setup ## tests of what computes, with types and array shapes checked at every call: a quarter slower
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadscope '--jaxtyping-packages=$(SHAPES)' \
		tests/inversion tests/triggers tests/attacks tests/laws tests/detection/test_kinds.py \
		tests/detection/test_all_to_all.py tests/mitigation/test_guard.py tests/test_classifier.py tests/test_cut.py

examples: setup ## run the documentation's long examples and compare what they print
	$(BIN)/python -m pytest -n auto --maxprocesses 8 -m example tests/test_docs.py tests/cli/test_cli.py

check: setup wheel shapes examples ## formatting, lint, types, shapes, architecture, sizes, the wheel, the examples
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_sizes.py

wheel: setup ## build dist/, check it, install the wheel by itself and run its demo
	$(BIN)/python .ci/check_wheel.py

docs: setup ## the documentation as a site in build/site; a broken link fails
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

fix: setup ## format, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## default against reference on real models; needs DATA=directory with mnist/ and gtsrb/
	$(BIN)/python benchmarks/presets.py --data '$(DATA)' --output benchmarks/results

bench-speed: setup ## the model's share of a step on five networks, random weights
	$(BIN)/python benchmarks/speed.py --output benchmarks/results/speed.jsonl

bench-scale: setup ## passes, time and memory against labels and pixels, one process a scan
	$(BIN)/python benchmarks/scale.py --rows benchmarks/results/scale.jsonl

bench-gpu: setup ## speed, share of peak and memory of the search on a GPU, under 8 minutes; exit code 2 without one
	$(BIN)/python benchmarks/gpu.py --rows benchmarks/results/gpu.jsonl

reproduce: setup ## the paper's tables again on MNIST; QUICK=1 compares a part with the recorded rows; needs DATA
ifdef QUICK
	$(BIN)/python benchmarks/reproduce.py --data '$(DATA)' --models out/reproduce-quick/models \
		--rows out/reproduce-quick/rows.jsonl --quick --compare benchmarks/results/reproduce.jsonl
else
	$(BIN)/python benchmarks/reproduce.py --data '$(DATA)' --models out/reproduce/models \
		--rows benchmarks/results/reproduce.jsonl
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/reproduce_charts.py
endif

clean: ## remove .venv and what the demo wrote
	rm -rf $(VENV) out
