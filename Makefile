# `make help` lists the targets.
PORT ?= 8501
VENV_PYTHON := .venv/bin/python
BENCH_PYTHON := .venv-bench/bin/python

# What Python compiles is kept, wherever make runs: TensorFlow would else take seconds more to import each time.
unexport PYTHONDONTWRITEBYTECODE

# The Python that environments are made with: PYTHON, where it is given, or else the newest that is there and can.
VERSIONS := 3.13 3.12 3.11
CANDIDATES = $(if $(PYTHON),"$(PYTHON)",$(VERSIONS:%=python%))
CAN := import sys, ensurepip, venv; sys.exit("%d.%d" % sys.version_info[:2] not in "$(VERSIONS)".split())
CHOSEN = $(shell for python in $(CANDIDATES); do \
    "$$python" -c '$(CAN)' >/dev/null 2>&1 && echo "$$python" && break; done)
WANTED = Python 3.11, 3.12 or 3.13 with its modules venv and ensurepip (Debian: python3-venv)
MISSING = $(if $(PYTHON),PYTHON must be $(WANTED). Received: $(PYTHON),this needs $(WANTED), as one of $(CANDIDATES) \
    on PATH; PYTHON=/path/to/python make setup chooses another)
version_of = $(shell "$(1)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

.PHONY: help setup quickstart test test-slow lint results bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2} \
	    END {print "PYTHON=/path/to/python make setup chooses the Python of .venv: one of $(VERSIONS)"}' Makefile

setup: .venv/installed ## .venv with the package, what its tests need and the programs of export/
	$(if $(PYTHON),$(if $(filter-out $(call version_of,$(PYTHON)),$(call version_of,$(VENV_PYTHON))),\
	    $(error .venv has another Python than PYTHON=$(PYTHON); remove .venv to make it anew)))

.venv/bin/python .venv-bench/bin/python:
	"$(or $(CHOSEN),$(error $(MISSING)))" -m venv --clear $(@:/bin/python=)

# Once made, an environment keeps its Python, unless that is gone.
.venv/installed: pyproject.toml setup.py $(shell test -x $(VENV_PYTHON) || echo anew) | $(VENV_PYTHON)
	$(VENV_PYTHON) -m pip install --progress-bar on --no-compile --config-settings editable_mode=compat -e '.[test]'
	$(VENV_PYTHON) -c 'import tf_blurdiff'  # Compiles what is used, and not all that was installed.
	touch $@

quickstart: setup ## from nothing to images through a served endpoint
	$(VENV_PYTHON) -m tf_blurdiff.train --config digits.yaml --run_dir runs/digits
	$(VENV_PYTHON) -m tf_blurdiff.sample --model runs/digits/model.keras --num_images 64 --out runs/digits/samples.png
	$(VENV_PYTHON) -m tf_blurdiff.export --model runs/digits/model.keras --out served/digits
	$(VENV_PYTHON) export/local_server.py --model_name digits --model_base_path served/digits \
	    --port 0 --rest_api_port $(PORT) & server=$$!; trap "kill $$server" EXIT; \
	$(VENV_PYTHON) export/client.py --url http://localhost:$(PORT) --model digits --seeds 0:64 --wait 60 \
	    --out runs/digits/served.png
	@echo "Look at runs/digits/samples.png and, through the endpoint, runs/digits/served.png"

# Three files at a time, each in a process of its own: on two cores, for tests wait for the programs that they start.
test: setup ## the tests, in minutes
	$(VENV_PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-slow: setup ## the rare long tests
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow

lint: setup ## ruff and mypy
	.venv/bin/ruff check .
	$(VENV_PYTHON) -m mypy

results: setup ## scores the shipped digits again: one row of docs/results.md, within its error bar
	$(VENV_PYTHON) -m tf_blurdiff.evaluate --model digits --config digits.yaml --num_images 2048 --features pixels \
	    --out_dir runs/results

# torch and diffusers alone, so that the two frameworks never share a process. The requirements are pyproject.toml's.
.venv-bench/installed: pyproject.toml $(shell test -x $(BENCH_PYTHON) || echo anew) | $(BENCH_PYTHON)
	$(BENCH_PYTHON) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	    print(*project["optional-dependencies"]["bench"], sep="\n")' > .venv-bench/requirements.txt
	$(BENCH_PYTHON) -m pip install --progress-bar on -r .venv-bench/requirements.txt
	touch $@

bench: setup .venv-bench/installed ## figures of speed, beside diffusers in .venv-bench
	$(VENV_PYTHON) benchmarks/speed --diffusers_python $(BENCH_PYTHON)

# Never there: what needs it is made anew.
anew:
