# make demo   serve a tiny model with stock tritonserver on this machine's CPU and ask it two questions
# make demo-multimodal  the same with a model that is asked about a picture
# make test   everything that continuous integration checks
# make help   the rest

PYTHON ?= python3.12
UV_VERSION := 0.13.9
UV := .uv/bin/uv
BASE := .venv
MEGATRON := .envs/megatron
NEMO := .envs/nemo
DOCS := .envs/docs

PYTEST := -n 2 --dist loadfile --no-loadscope-reorder

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
# Without bytecode every start of a rank compiles Megatron again, which takes a minute.
unexport PYTHONDONTWRITEBYTECODE
export UV_PYTHON_DOWNLOADS := never
export TRGEN_RANK_PYTHON ?= $(CURDIR)/$(MEGATRON)/bin/python
export TRGEN_NEMO_PYTHON ?= $(CURDIR)/$(NEMO)/bin/python

.PHONY: help demo demo-multimodal test check docs reference bench bench-gpu environments lock clean

help:
	@sed -n 's/^# make/make/p' Makefile

# One fetches and unpacks while another is compiled to bytecode.
environments: $(UV)
	$(MAKE) -j 2 $(BASE)/.ready $(MEGATRON)/.ready $(NEMO)/.ready

demo: $(BASE)/.ready $(MEGATRON)/.ready
	$(BASE)/bin/python examples/demo.py

demo-multimodal: $(BASE)/.ready $(NEMO)/.ready
	$(BASE)/bin/python examples/demo_multimodal.py

# make check  only the linters, the type checker and the rules of imports
check: $(BASE)/.ready
	$(BASE)/bin/ruff check .
	$(BASE)/bin/ruff format --check .
	$(BASE)/bin/mypy
	$(BASE)/bin/lint-imports

# make docs   build the documentation as a site in build/docs; broken links are errors
docs: $(DOCS)/.ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs -q build --strict

# make reference  write docs/reference/ from the code
reference: $(BASE)/.ready
	$(BASE)/bin/python scripts/make_reference.py

# What ranks run is tested in their environments; all three runs use the same checkpoints of tiny models.
test: check docs environments
	scripts/install-chromium
	export TRGEN_TEST_FOLDER=$$(mktemp -d); trap 'rm -rf "$$TRGEN_TEST_FOLDER"' EXIT; \
	$(MEGATRON)/bin/python -m pytest tests/rank $(PYTEST) --disable-warnings; \
	$(NEMO)/bin/python -m pytest tests/rank/nemo --disable-warnings; \
	$(BASE)/bin/python -m pytest $(PYTEST)

# make bench  measure: command line, overhead over the engine, start
bench: environments
	$(BASE)/bin/python -m bench

# make bench-gpu  the same on GPUs, with GPUS=2 on two; STAGES="speed overhead" are some of them. TRGEN_RANK_PYTHON
#                 names the Python of an environment of locks/megatron-gpu.txt, TRGEN_NEMO_PYTHON that of NeMo's
GPUS ?= 1
bench-gpu: $(BASE)/.ready
	$(BASE)/bin/python -m bench.gpu $(STAGES) --gpus $(GPUS) --rank-python $(TRGEN_RANK_PYTHON) \
	    $(if $(wildcard $(TRGEN_NEMO_PYTHON)),--nemo-python $(TRGEN_NEMO_PYTHON))

# make lock   resolve the environments anew
lock: $(UV)
	for lock in base serve build docs; do \
	    $(UV) pip compile -q --python-version 3.12 --generate-hashes --no-annotate --no-header \
	        locks/$$lock.in -o locks/$$lock.txt; \
	done
	for lock in megatron nemo; do \
	    $(UV) pip compile -q --python-version 3.12 --generate-hashes --no-annotate --no-header \
	        --override locks/$$lock-overrides.txt locks/$$lock.in -o locks/$$lock.txt; \
	done
	$(UV) pip compile -q --python-version 3.12 --generate-hashes --no-annotate --no-header \
	    --python-platform x86_64-manylinux_2_28 \
	    --override locks/megatron-gpu-overrides.txt locks/megatron-gpu.in -o locks/megatron-gpu.txt

# make clean  remove the environments and what was made with them
clean:
	rm -rf .uv $(BASE) .envs .cache build dist

$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)

$(BASE)/.ready: locks/base.txt pyproject.toml | $(UV)
	scripts/install-environment $(UV) $(PYTHON) locks/base.txt $(BASE)
	$(UV) pip install -q -p $(BASE) --no-deps --no-build-isolation -e .
	touch $@

$(MEGATRON)/.ready: locks/megatron.txt | $(UV)
	scripts/install-environment $(UV) $(PYTHON) locks/megatron.txt $(MEGATRON)
	touch $@

$(NEMO)/.ready: locks/nemo.txt | $(UV)
	scripts/install-environment $(UV) $(PYTHON) locks/nemo.txt $(NEMO)
	touch $@

$(DOCS)/.ready: locks/docs.txt | $(UV)
	scripts/install-environment $(UV) $(PYTHON) locks/docs.txt $(DOCS)
	touch $@
