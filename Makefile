# Each target sets itself up: nothing but Python 3.11 or later is needed.
PYTHON ?= python3
PORT ?= 7860
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: test lint format test-data test-browser test-upstream test-versions demo clean

test: lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Needs the data sets in ../shared/data.
test-data: $(STAMP)
	$(BIN)/python -m pytest -m data

test-browser: $(STAMP)
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq \
		&& apt-get install -y -qq chromium; } \
		|| { echo "test-browser needs Chromium as 'chromium' on the PATH"; exit 1; }
	$(BIN)/python -m pytest -m browser

# transformers' own common tests, fetched from its source distribution.
test-upstream: $(STAMP)
	$(BIN)/python tests/upstream/fetch.py $(VENV)/upstream
	PYTHONPATH=$(VENV)/upstream $(BIN)/python -m pytest tests/upstream/common.py

# The oldest supported transformers, on the oldest supported Python; the newest; and torchvision, which
# transformers prefers where it is (its torch is several GB with CUDA).
oldest := transformers==5.18.0 huggingface_hub==1.31.0 torch==2.13.0
newest := transformers huggingface_hub torch==2.13.0
torchvision := transformers huggingface_hub torch==2.14.1 torchvision==0.29.1
# What constraints.txt pins needs a newer Python, so the oldest gets what pip finds.
PINS := constraints.txt
$(VENV)-oldest/.installed: PYTHON := python3.10
$(VENV)-oldest/.installed: PINS := /dev/null
VERSIONS := oldest newest torchvision

test-versions: $(VERSIONS:%=$(VENV)-%/.installed)
	for version in $(VERSIONS); do $(VENV)-$$version/bin/python -m pytest || exit 1; done

$(VENV)-%/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-$*
	sed -E '/^(transformers|huggingface_hub|tokenizers|torch)==/d' $(PINS) > $(@D)/constraints.txt
	$(VENV)-$*/bin/python -m pip install --quiet -c $(@D)/constraints.txt $($*) -e ".[train,demo,dev]"
	touch $@

demo: $(STAMP)
	GRADIO_SERVER_PORT=$(PORT) $(BIN)/python space/app.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[train,demo,dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(VENV)-* build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
