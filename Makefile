# make setup       .venv with the package, its tests' needs and the client's
# make quickstart  from nothing to images through a served endpoint
# make test        the whole test suite; make test-slow the rare long tests
# make results     scores the shipped digits again: one row of docs/results.md, within its error bar
# make bench       figures of speed, beside diffusers in .venv-bench; make lint ruff
PYTHON := .venv/bin/python
BENCH_PYTHON := .venv-bench/bin/python
PORT ?= 8501

.PHONY: setup quickstart test test-slow lint bench results

setup: .venv/installed

.venv/installed: pyproject.toml setup.py
	python3.11 -m venv .venv
	$(PYTHON) -m pip install --progress-bar on -e '.[test]'
	touch $@

quickstart: setup
	$(PYTHON) -m tf_blurdiff.train --config digits.yaml --run_dir runs/digits
	$(PYTHON) -m tf_blurdiff.sample --model runs/digits/model.keras --num_images 64 --out runs/digits/samples.png
	$(PYTHON) -m tf_blurdiff.export --model runs/digits/model.keras --out served/digits
	$(PYTHON) export/local_server.py --model_name digits --model_base_path served/digits \
	    --port 0 --rest_api_port $(PORT) & server=$$!; trap "kill $$server" EXIT; \
	$(PYTHON) export/client.py --url http://localhost:$(PORT) --model digits --seeds 0:64 --wait 60 \
	    --out runs/digits/served.png
	@echo "Look at runs/digits/samples.png and, through the endpoint, runs/digits/served.png"

# Two files at a time, each in a process of its own: much of a test is Python that traces.
test: setup
	$(PYTHON) -m pytest -n 2 --dist loadfile

test-slow: setup
	$(PYTHON) -m pytest -m slow

results: setup
	$(PYTHON) -m tf_blurdiff.evaluate --model digits --config digits.yaml --num_images 2048 --features pixels \
	    --out_dir runs/results

# torch and diffusers alone, so that the two frameworks never share a process. The requirements are pyproject.toml's.
.venv-bench/installed: pyproject.toml
	python3.11 -m venv .venv-bench
	$(BENCH_PYTHON) -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	    print(*project["optional-dependencies"]["bench"], sep="\n")' > .venv-bench/requirements.txt
	$(BENCH_PYTHON) -m pip install --progress-bar on -r .venv-bench/requirements.txt
	touch $@

bench: setup .venv-bench/installed
	$(PYTHON) benchmarks/speed --diffusers_python $(BENCH_PYTHON)

lint: setup
	.venv/bin/ruff check .
