# Needs Python 3.11 to 3.13, git and make; everything else goes into .venv. On Windows: docs/windows.md.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PORT ?= 5000
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export UV_PYTHON_DOWNLOADS := never
export OMP_WAIT_POLICY ?= PASSIVE
# some images set it: each process would then compile all of torch's and Coqui's modules anew, for 20 s
unexport PYTHONDONTWRITEBYTECODE

CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3 python)
INSTALLED := .venv/.installed
# a checkout that was moved, or whose Python is gone, needs its environment anew
ifneq ($(shell .venv/bin/python -c 'print(open(".venv/.root").read())' 2>/dev/null),$(CURDIR))
$(INSTALLED): FORCE
endif

# for recipes whose commands start others by name
IN_VENV := PATH="$(CURDIR)/.venv/bin:$$PATH"

# two workers: each may need 8 GB
PYTEST := python -m pytest --numprocesses 2 --dist worksteal

.PHONY: help setup repro test test-slow test-gpu faults lint format ui lock FORCE

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup: $(INSTALLED)  ## make .venv from the lock, and data/ from samples/ where there is none
	@.venv/bin/python scripts/bootstrap_data.py

repro: setup  ## run every stage that is not up to date, bring MLflow what it lacks, show the status
	@.venv/bin/dvc repro
	-@.venv/bin/xtts-finetune sync
	@.venv/bin/xtts-finetune status --pages

test: setup  ## run the quick tests
	@$(IN_VENV) $(PYTEST) -m "not slow and not gpu and not alone"

test-slow: setup  ## run the slow tests
	@$(IN_VENV) $(PYTEST) -m "slow and not gpu"
	@$(IN_VENV) python -m pytest -m alone

test-gpu: setup  ## run the tests that need a CUDA device
	@$(IN_VENV) python -m pytest -m gpu

faults: setup  ## kill, stop and fill up at every single change: hours
	@$(IN_VENV) XTTS_FINETUNE_FAULTS=1 python -m pytest -s tests/test_faults.py tests/test_faults_disk.py tests/test_faults_damage.py

lint: setup  ## check style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: setup  ## put the sources into the one format
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

ui: setup  ## compare runs in the browser (PORT=5000, this machine only)
	@$(IN_VENV) MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_WORKERS=1 \
		mlflow ui --host 127.0.0.1 --port $(PORT) --backend-store-uri sqlite:///mlruns/mlflow.db

LOCK := .venv/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --fork-strategy fewest
lock: setup  ## bring the locks in line with pyproject.toml (newest versions: make lock UPGRADE=--upgrade)
	@$(LOCK) $(UPGRADE) --group dev pyproject.toml --output-file requirements.lock
	@$(LOCK) $(UPGRADE) --group bootstrap --output-file requirements-bootstrap.lock

$(INSTALLED): requirements.lock requirements-bootstrap.lock pyproject.toml scripts/setup.sh
	@sh scripts/setup.sh $(CANDIDATES)
