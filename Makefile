# Everything runs in .venv, made here from requirements.lock. Targets are files: what is there and current is not made again.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
export PYTHONSAFEPATH := 1
export TF_CPP_MIN_LOG_LEVEL ?= 3
export CUDA_VISIBLE_DEVICES ?=

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
SEGTWIN := $(BIN)/segtwin
PHOTO := docs/images/chelsea.jpg

WRITE ?=
.PHONY: help docs install lock convert-vgg test test-fast lint test-wheel notebooks pictures proven fuzz mutants bench clean FORCE

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

convert-vgg: out/parity.html  ## vgg16.npy → weights, both models, both ONNX files, and the proof that they agree
	@$(BIN)/python -c 'import json, sys; report = json.load(open("out/parity.json")); print("out/parity.html:", report["network"], report["verdict"]); \
	    report["synthetic"] and print("out/ holds SYNTHETIC weights, not trained; VGG16_NPY=/path/to/vgg16.npy make convert-vgg takes real ones"); \
	    sys.exit(report["verdict"] != "equal")'

test: $(INSTALLED)  ## every test, in two processes of up to 8 GB
	$(BIN)/pytest parity_tests/ tests/ -n 2 --dist loadfile --durations=30

test-fast: $(INSTALLED)  ## units without a framework, in under a minute
	$(BIN)/pytest tests/ -n 2 --dist loadfile -m "not slow and not full_width and not fuzz"

test-wheel: $(INSTALLED)  ## the built wheel in an empty environment for each extra; downloads them all
	$(BIN)/python tests/wheel.py

lint: $(INSTALLED)  ## ruff, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

lock:  ## requirements.lock anew, from pyproject.toml (extra dev)
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check ".[dev]"
	.venv-lock/bin/python -m pip freeze --exclude segtwin > requirements.lock
	rm -rf .venv-lock

notebooks: $(INSTALLED)  ## execute docs/*.py and hold docs/*.ipynb against them (WRITE=--write: make those anew)
	$(BIN)/python docs/build.py $(WRITE)

docs: $(INSTALLED)  ## the site, docs/_site: pages, notebooks as committed, API reference; strict
	mkdir -p docs/_pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pictures: notebooks  ## the README's pictures, from the notebooks
	cp docs/_built/twins.png docs/_built/rounding.png docs/_built/unets.png docs/images/

proven: $(INSTALLED)  ## the README's table of measured errors
	PYTHONPATH=parity_tests $(BIN)/python parity_tests/proven.py

CASES ?= 1000
fuzz: $(INSTALLED)  ## CASES=1000 mutations of a file of every format through its reader
	PYTHONPATH=tests:parity_tests $(BIN)/python tests/fuzz.py --cases $(CASES)

MUTANTS ?= --table docs/mutants.md
mutants: $(INSTALLED)  ## put every bug of mutants.toml into a copy of the project: each has to be noticed (40 minutes; MUTANTS=--fast: one)
	$(BIN)/python parity_tests/mutants.py $(MUTANTS)

bench: $(INSTALLED)  ## fcn8s in every engine; all networks and sizes; conversion, export, start-up, memory (an hour)
	$(SEGTWIN) bench
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/networks.py
	$(BIN)/python benchmarks/spine.py

clean:  ## remove out/, docs/_built/ and docs/_site/, keep the environment
	rm -rf out docs/_built docs/_pages docs/_site

# The environment: pinned packages, then this project in place. pip takes no other constraints than the lock.
install: $(INSTALLED)  ## the environment .venv, from requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	PIP_CONSTRAINT=requirements.lock $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# Which vgg16.npy: written anew only when VGG16_NPY names another file, so that a second run finds everything current.
out/.source: FORCE
	@mkdir -p out
	@now="$${VGG16_NPY:-} $$(test -z "$${VGG16_NPY:-}" || ls -lL "$$VGG16_NPY" || true)"; \
	 test "$$now" = "$$(cat $@ 2>/dev/null || echo none)" || printf '%s\n' "$$now" > $@

out/fcn8s.safetensors: out/.source | $(INSTALLED)
	source="$$($(SEGTWIN) source vgg16)"; $(SEGTWIN) convert "$$source" $@ --to fcn8s --overwrite

out/fcn8s-torch.onnx: out/fcn8s.safetensors
	$(SEGTWIN) export $< $@ out/fcn8s.pth --framework torch --overwrite

out/fcn8s-keras.onnx: out/fcn8s.safetensors
	$(SEGTWIN) export $< $@ out/fcn8s.weights.h5 --framework keras --overwrite

out/parity.html: out/fcn8s.safetensors out/fcn8s-torch.onnx out/fcn8s-keras.onnx $(PHOTO)
	$(SEGTWIN) parity $< $(PHOTO) --report $@ --torch-onnx out/fcn8s-torch.onnx --keras-onnx out/fcn8s-keras.onnx --overwrite
