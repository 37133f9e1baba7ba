# Two commands matter: make demo, make test. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help install demo test soak check bench firmware test-edge clean
help:
	@echo "make demo       the whole line on painted parts; ends with runs/demo/report.html"
	@echo "make test       the tests"
	@echo "make install    .venv with everything, pinned"
	@echo "make check      ruff, mypy and the tests that take seconds"
	@echo "make soak       the long tests"
	@echo "make bench      the benchmarks, quick"
	@echo "make firmware   the line device for every board: text, RAM and worst-case stack"
	@echo "make test-edge  the edge extra alone, in an environment of its own, without torch"

install: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[workstation,firmware,openvino,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/diagline demo

test: $(STAMP)
	$(BIN)/pytest -m "not soak" -n 2 --dist loadfile

soak: $(STAMP)
	$(BIN)/pytest -m soak

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	if command -v clang-format >/dev/null; then clang-format --dry-run --Werror $$(git ls-files '*.[ch]'); fi
	$(BIN)/mypy
	$(BIN)/pytest -q tests/diagline tests/test_imports.py

bench: $(STAMP)
	$(BIN)/python benchmarks/edge_latency.py --quick
	$(BIN)/python benchmarks/flash_faults.py --quick
	$(BIN)/python benchmarks/generation.py --quick
	$(BIN)/python benchmarks/training.py --quick

firmware: $(STAMP)
	$(BIN)/python -m firmware_bridge.proof.footprint

test-edge:
	$(PYTHON) -m venv .venv-edge
	.venv-edge/bin/pip install --quiet --disable-pip-version-check -c constraints.txt '.[edge]' pytest hypothesis
	cd tests/edge_runtime && ../../.venv-edge/bin/python -I -m pytest -q -p no:cacheprovider --rootdir=../.. .

clean:
	rm -rf .venv .venv-edge runs
