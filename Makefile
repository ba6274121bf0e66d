# Everything runs inside .venv; only test-etcd, chaos, test-net and test-real install anything outside it.
# PYTHON=python3.12 make setup    uses another interpreter (3.11 or newer).
# PYTEST_ARGS="-k join" make test  passes options on.

PYTHON      ?= python3
PYTEST_ARGS ?=
PYTEST_JOBS ?= auto
SEEDS       ?= 200
FIRST       ?= 0
MINUTES     ?= 2
SEED        ?=
HOSTS       ?= 3
ETCD        ?= own
PLANTED     ?=

BIN   := .venv/bin
STAMP := .venv/.setup-done
IMAGE := proto/released/poolmanager-v1.binpb

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Create .venv with everything needed (again only when pyproject.toml changed)

$(STAMP): pyproject.toml scripts/setup
	@scripts/setup "$(PYTHON)" .venv
	@touch $@

.PHONY: demo
demo: $(STAMP) ## Run a pool of three simulated hosts on loopback addresses
	@$(BIN)/pool demo $(ARGS)

.PHONY: test
test: $(STAMP) ## Unit, contract, simulation and integration tests (no root needed)
	@$(BIN)/python -m pytest -n $(PYTEST_JOBS) $(PYTEST_ARGS)

.PHONY: sim
sim: $(STAMP) ## Play simulated chaos: SEEDS=1000 FIRST=0 make sim
	@$(BIN)/python tests/sim/run.py --seeds $(SEEDS) --first $(FIRST)

.PHONY: test-strain
test-strain: $(STAMP) ## A master with too much to do is not replaced: STABILITY_SECONDS=1800 make test-strain
	@$(BIN)/python -m pytest -m strain $(PYTEST_ARGS) tests/integration/test_stability.py

.PHONY: test-etcd
test-etcd: $(STAMP) ## Tests with real etcd clusters (installs Debian's etcd-server, as root, if there is none)
	@scripts/install-etcd
	@$(BIN)/python -m pytest -n $(PYTEST_JOBS) -m etcd $(PYTEST_ARGS)

.PHONY: chaos
chaos: $(STAMP) ## A pool in a network lab under faults (needs root): make chaos MINUTES=10 HOSTS=5 SEED=42
	@scripts/install-net-deps
	@PYTHONPATH=tests $(BIN)/python -m chaos.run --minutes $(MINUTES) --hosts $(HOSTS) --etcd $(ETCD) \
	    $(if $(SEED),--seed $(SEED)) $(if $(PLANTED),--planted $(PLANTED))

.PHONY: test-net
test-net: $(STAMP) ## Tests on a network that is cut, with hosts that vanish (needs root; installs Debian packages)
	@scripts/install-net-deps
	@$(BIN)/python -m pytest -m net $(PYTEST_ARGS) tests/net

.PHONY: test-real
test-real: $(STAMP) ## Tests on real libvirt hosts (needs root; installs Debian packages)
	@scripts/install-real-deps .venv
	@$(BIN)/python -m pytest -m real $(PYTEST_ARGS) tests/real

.PHONY: check
check: check-style check-types check-imports check-protos ## Format, lint, types, import contracts, generated code, API

.PHONY: check-style
check-style: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: check-types
check-types: $(STAMP)
	$(BIN)/mypy

.PHONY: check-imports
check-imports: $(STAMP)
	$(BIN)/lint-imports --no-cache

# Generated code as the protos say; the API in good form, and compatible with the last release.
.PHONY: check-protos
check-protos: $(STAMP)
	$(BIN)/python scripts/protos.py --check
	$(BIN)/buf lint
	@test -f $(IMAGE) || { echo "$(IMAGE), the last release's API, is missing" >&2; exit 1; }
	$(BIN)/buf breaking --against $(IMAGE)

.PHONY: format
format: $(STAMP) ## Format the code and apply the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: protos
protos: $(STAMP) ## Generate proto/gen from proto/poolmanager
	$(BIN)/python scripts/protos.py

.PHONY: protos-release
protos-release: $(STAMP) ## At a release: keep the present API as what later ones are compared with
	@mkdir -p $(dir $(IMAGE))
	$(BIN)/buf build --exclude-source-info --output $(IMAGE)

.PHONY: bench
bench: $(STAMP) ## Measure, and write docs/benchmarks.md
	@PYTHONPATH=tests $(BIN)/python -m bench.run $(ARGS)

.PHONY: clean
clean: ## Remove .venv, caches and built packages
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
