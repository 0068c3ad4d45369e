# Everything that one does with a checkout. `make` alone explains.
#
# On a fresh Debian it needs Python 3.11 or newer, git and make, and the network or caches of it.

# The interpreter that .venv is made with; without it, the first on PATH that is new enough.
PYTHON ?=
export PYTHON
# Passed on: make demo ARGS='--machines 100', make test ARGS='-k watch'
ARGS ?=
# Processes of `make test`. Each starts a control plane of its own, so more of them than cores are no gain.
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))

# Images with Python set it. Without what is kept compiled each run of the tests compiles them anew, in each of its processes.
unexport PYTHONDONTWRITEBYTECODE
# Processes of `make check`. Two a core, for a good part of the quick tests wait for sockets, processes and pauses.
QUICK_JOBS ?= $(shell echo $$((2 * $$(nproc 2>/dev/null || echo 2))))

BIN := .venv/bin
QUICK := not slow and not etcd and not cluster and not docker

.DEFAULT_GOAL := help
.PHONY: help demo test check simulate image lint fmt venv clean

help: ## Show this
	@echo 'Dragonfly provisions bare metal through Tinkerbell and Kubernetes. In this checkout:'
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  ARGS='...' passes arguments on (make demo ARGS='--machines 100'), PYTHON=... names the interpreter."

demo: ## A whole swarm on this computer, at http://127.0.0.1:3000; Ctrl-C ends it
	@scripts/ensure-venv sandbox
	@$(BIN)/python -m dragonfly.sandbox ensure etcd kube-apiserver tinkerbell haproxy >/dev/null
	@$(BIN)/dragonfly demo $(ARGS)

test: lint ## Every check and every test, with real etcd, Kubernetes, Tinkerbell and Docker
	@scripts/ensure-test-programs
	@$(BIN)/python -m dragonfly.sandbox ensure >/dev/null
	@$(BIN)/python -m tests.integration.k3s.rendered >/dev/null
	@$(BIN)/python -m tests.node.programs >/dev/null
	@$(BIN)/python -m tests.node.replica_image >/dev/null
	$(BIN)/pytest -n $(JOBS) --dist loadfile $(ARGS)

check: lint ## Lint, types, layers and the quick tests, in about a minute
	$(BIN)/pytest -n $(QUICK_JOBS) --dist worksteal -m '$(QUICK)' $(ARGS)

simulate: venv ## Histories of the swarm in virtual time: make simulate SEEDS=100000 FIRST=0
	@$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000) --first $(or $(FIRST),0)

image: venv ## The image of a replica, into dist: make image BASE=debian makes its base of Debian's packages
	@scripts/image

lint: venv
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: venv ## Format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .

venv: ## Make .venv only, with all that development needs
	@scripts/ensure-venv dev

clean: ## Remove what was made here; the cache of built programs stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
