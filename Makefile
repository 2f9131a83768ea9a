# make sweep   sets everything up and runs the beta sweep: a table and a plot at the end
# make test    sets everything up and runs all tests
# make check   lint, types, shell scripts, import directions: what `make test` runs first
# make notebook  sets everything up and opens the notebooks of analysis/notebooks
# make cluster       starts a real Slurm on this machine (root, Debian): four nodes with two fake GPUs each
# make cluster-down  ends it
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
OUTPUTS := outputs
BETAS := 0.05,0.1,0.3

# Every version is pinned, those of the build tools too. Relative, as pip splits this at blanks.
export PIP_CONSTRAINT := constraints.txt

CLUSTER := .cluster

.PHONY: sweep test check notebook tiny-checkpoint cluster cluster-down slurm-packages clean

sweep: $(VENV)/.installed
	$(BIN)/python run_hydra.py -m loss.beta=$(BETAS) paths.output_dir=$(OUTPUTS)
	$(BIN)/python -m analysis.summarize $(OUTPUTS)
	$(BIN)/python -m analysis.plot_curves $(OUTPUTS)

# One thread a worker: the tests are many small processes, and wait for Slurm. Each worker has a cluster of its own.
# `check` has run the import test. DeepSpeed compiles itself.
test: check slurm-packages
	@if command -v c++ >/dev/null; then $(MAKE) -s $(VENV)/.installed-deepspeed; fi
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 5 --dist worksteal $(or $(TESTS),--ignore tests/test_imports.py)

# The Debian packages of Slurm and a compiler, when root; otherwise a line that says how to get them, and tests are skipped.
slurm-packages:
	@bash tests/cluster/packages.sh

cluster: $(VENV)/.installed slurm-packages
	$(BIN)/python -m tests.cluster up $(CLUSTER)

cluster-down:
	$(BIN)/python -m tests.cluster down $(CLUSTER)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck -x .ci/run slurm_scripts/*.sh tests/cluster/*.sh
	$(BIN)/python -m pytest -q tests/test_imports.py

notebook: $(VENV)/.installed-notebook
	$(BIN)/jupyter lab analysis/notebooks

# The recipe of the weights in gpt_opt/training/models/tiny_gpt2: a few minutes on two cores.
tiny-checkpoint: $(VENV)/.installed
	$(BIN)/python -m gpt_opt.training.models.pretrain_tiny

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gpt-opt needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get update -q && apt-get install -q -y python3-venv; } || \
	  { echo "Python's venv module is missing: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[dev]'
	touch $@

$(VENV)/.installed-notebook: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[notebook]'
	touch $@

$(VENV)/.installed-deepspeed: $(VENV)/.installed-dev
	$(BIN)/python -m pip install -q -e '.[dev,deepspeed]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
