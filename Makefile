# Sets up everything by itself: `make demo` and `make test` work in a fresh clone. `make` alone lists the targets.
# Needs Python 3.11 or newer; `make test` also Java 17 and Maven, for a real Kafka broker.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KAFKA := .servers/kafka
MONITORING := .servers/monitoring

# For `make lock LOCK_FLAGS=--upgrade` or `LOCK_FLAGS='--upgrade-package redis'`; without it, pins stay where they are.
LOCK_FLAGS ?=
# Tests side by side, more than two since some wait; each process starts its own broker, so more want more memory.
WORKERS ?= 3
# Arguments of `make quality`, `make throughput`, `make fuzz`, `make soak` and `make chaos`.
ARGS ?=
COMPILE = $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url $(LOCK_FLAGS)
# Compiled here once: where Python is told to write no bytecode, each process would compile TensorFlow anew for ten seconds.
INSTALL = $(BIN)/uv pip install -q --compile-bytecode --python $(VENV)

# uv looks at the system's certificates, like pip does where its configuration says so: some networks need that.
export UV_SYSTEM_CERTS ?= true
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev demo check test chaos lint servers dashboards docs reference browser screenshot real throughput fuzz soak quality models choices training lock format clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.runtime  ## .venv with what running needs, at locked versions

setup-dev: $(VENV)/.dev  ## .venv with what developing needs too

demo: setup  ## simulate a plant with faults, train, replay, report
	$(BIN)/stream-detector demo

check: setup-dev lint  ## lint, types, import contracts and every test that needs no server
	$(BIN)/pytest -m "not servers"

test: setup-dev servers browser lint  ## everything: lint, types, import contracts and all tests, on real servers
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

chaos: setup-dev servers  ## exactly once while everything dies, for long (ARGS='--minutes 60 --seed 1')
	$(BIN)/python -m tests.chaos $(ARGS)

lint: setup-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

servers: $(KAFKA)/.stamp $(MONITORING)/.stamp  ## Kafka, Prometheus and Alertmanager, which tests and benchmarks start

dashboards: setup-dev  ## write deploy/grafana/dashboards anew from its code
	$(BIN)/python -m deploy.grafana

docs: setup-dev  ## the documents as a site that needs no network, in build/docs; a link that breaks fails
	rm -rf build/docs
	$(BIN)/sphinx-build --quiet --fail-on-warning -b html -c docs . build/docs

reference: setup-dev  ## write docs/reference/*.md anew from the code that they are about
	$(BIN)/python -m docs.reference

browser:
	tests/servers/browser.sh

screenshot: setup-dev browser  ## docs/report.png and docs/page.png anew, of what make demo has left in demo-out
	$(BIN)/python -m tests.screenshot demo-out docs

quality: setup-dev  ## detection quality on labelled real streams, beside baselines: make quality DATA=folder
	@test -n "$(DATA)" || { echo 'say where the data sets are: make quality DATA=folder' >&2; exit 2; }
	$(BIN)/python -m benchmarks.quality --data "$(DATA)" $(ARGS)

models: setup-dev  ## quality and cost of every model on the same streams: make models DATA=folder
	@test -n "$(DATA)" || { echo 'say where the data sets are: make models DATA=folder' >&2; exit 2; }
	$(BIN)/python -m benchmarks.models --data "$(DATA)" $(ARGS)

choices: setup-dev  ## what each choice of the default is worth on those streams: make choices DATA=folder
	@test -n "$(DATA)" || { echo 'say where the data sets are: make choices DATA=folder' >&2; exit 2; }
	$(BIN)/python -m benchmarks.choices --data "$(DATA)" $(ARGS)

training: $(VENV)/.peers  ## windows learnt from per second, next to named peers (downloads PyTorch, some gigabytes)
	$(BIN)/python -m benchmarks.training $(ARGS)

real: setup-dev servers  ## one of those sets through a real broker and Redis: make real DATA=folder
	@test -n "$(DATA)" || { echo 'say where the data sets are: make real DATA=folder' >&2; exit 2; }
	$(BIN)/python -m benchmarks.real --data "$(DATA)"

throughput: setup-dev servers  ## events per second, next to named peers (ARGS=--quick for a short run)
	$(BIN)/python -m benchmarks.throughput $(ARGS)

fuzz: setup-dev  ## hostile messages through the pipeline: make fuzz ARGS='--messages 10000000 --seed 1'
	$(BIN)/python -m tests.fuzz $(ARGS)

soak: setup-dev servers  ## whether memory and lag stay as they are: make soak ARGS='--minutes 60 --sensors 100000'
	$(BIN)/python -m benchmarks.soak $(ARGS)

format: setup-dev  ## format the code and apply the safe fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The others are constrained by dev.txt, so that all name the same versions.
lock: export UV_CUSTOM_COMPILE_COMMAND := make lock
lock: $(BIN)/uv  ## bring requirements/ in line with pyproject.toml (LOCK_FLAGS=--upgrade for newer versions)
	$(COMPILE) --group bootstrap -o requirements/bootstrap.txt
	$(COMPILE) pyproject.toml --extra jax --group build --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --group build -c requirements/dev.txt -o requirements/runtime.txt
	$(COMPILE) pyproject.toml --extra gpu --group build -c requirements/dev.txt -o requirements/gpu.txt
	$(COMPILE) --group peers -c requirements/dev.txt -o requirements/peers.txt

clean:  ## remove everything that make made
	rm -rf $(VENV) .servers demo-out dist build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/uv: requirements/bootstrap.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.runtime: $(BIN)/uv requirements/runtime.txt pyproject.toml
	$(INSTALL) --require-hashes -r requirements/runtime.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	$(INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)/.peers: $(VENV)/.dev requirements/peers.txt
	$(INSTALL) --require-hashes -r requirements/peers.txt
	@touch $@

$(MONITORING)/.stamp: tests/servers/monitoring.sh
	$< $(MONITORING)
	@touch $@

# Into a new folder each time, so that no jar of an older version stays on the class path.
$(KAFKA)/.stamp: tests/servers/pom.xml
	@command -v mvn >/dev/null || { echo 'Maven (mvn) is needed to fetch the Kafka broker' >&2; exit 1; }
	rm -rf $(KAFKA)
	mvn -B -q -f $< org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
		-DoutputDirectory=$(CURDIR)/$(KAFKA)/libs -DincludeScope=runtime
	@touch $@
