# Every target works on a fresh clone: the environment is made when it is missing and brought up to date when
# pyproject.toml or constraints.txt changed.
PYTHON ?= python3
VENV ?= .venv
DATA ?= ../shared/data
OUT ?= out
DEMO ?= examples/photo.png
FUZZ_SECONDS ?= 300
INSTALL ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PY := $(BIN)/python
READY := $(VENV)/.ready

.PHONY: demo test test-all test-browser lint typecheck bench peers ray fuzz wheel dist clean

$(READY): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
# torch first and alone: it is by far the largest package, and its index may be another one (CPU or CUDA builds).
	$(PY) -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev]'
# pip compiles what it copies, not what it links to.
	$(PY) -m compileall -q sdk lic_format
	touch $@

demo: $(READY)
	$(PY) examples/demo.py $(DEMO) --out $(OUT)/demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: $(READY)
	$(BIN)/mypy --strict

# One thread where a test says nothing: torch's threads wait for each other in small nets. Three files of codecs' tests
# take 28 s with two threads and 22 with one, and beside another process 307 and 22. What depends on their number is
# tested with several.
test: lint typecheck
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow and not browser" $(PYTEST_ARGS)

test-all: lint typecheck
	$(PY) -m pytest $(PYTEST_ARGS)

# The pages of `licodec compare` and `licodec bench --html` in chromium. INSTALL=1 installs browser and driver
# first (Debian, as root).
test-browser: $(READY)
ifeq ($(INSTALL),1)
	apt-get install -y --no-install-recommends chromium chromium-driver
endif
	@for need in chromium chromedriver; do command -v $$need >/dev/null || \
	  { echo "test-browser needs $$need: apt-get install chromium chromium-driver, or make test-browser INSTALL=1 as root" >&2; exit 1; }; done
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev,browser]'
	$(PY) -m pytest tests/browser $(PYTEST_ARGS)

bench: $(READY)
	$(BIN)/licodec bench --images $(DATA)/kodak --out $(OUT)/bench

peers: $(READY)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev,peers]'
	$(PY) tools/peers.py --out docs/peers.md

# The example on Ray Data, with a cluster of its own: 500 MB of packages that the other tests do without.
ray: $(READY)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev,ray]'
	$(PY) -m pytest tests/examples/test_ray_dataset.py $(PYTEST_ARGS)

fuzz: $(READY)
	$(PY) tests/fuzz/fuzz_container.py --seconds $(FUZZ_SECONDS)
	LICODEC_FUZZ_SECONDS=$(FUZZ_SECONDS) $(PY) -m pytest -m fuzz $(PYTEST_ARGS)

wheel: $(READY)
	$(PY) -m build --wheel --no-isolation --outdir dist .

# What a release publishes (docs/releasing.md), and what must be true of it.
dist: $(READY)
	rm -rf dist
	$(PY) -m build --no-isolation --outdir dist .
	$(PY) -m twine check --strict dist/*
	LICODEC_DIST=dist $(PY) -m pytest tests/packaging/test_distributions.py $(PYTEST_ARGS)

clean:
	rm -rf $(OUT) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
