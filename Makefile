# BloxServer. `make` alone lists the targets.
.DEFAULT_GOAL := help
.PHONY: help run test lint fuzz faults bench bench-throughput bench-history bench-llm requirements clean

VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip -qq --disable-pip-version-check --no-input install --no-warn-script-location --no-compile --require-hashes

help:
	@echo "make run           the server on http://127.0.0.1:8000, with a demo flow (PORT=9000 make run)"
	@echo "make test          the whole suite; on PostgreSQL and Redis too, where they answer (ARGS='tests/flows -k name')"
	@echo "make lint          ruff, mypy, import-linter, missing migrations, check --deploy"
	@echo "make fuzz          a long run of schemathesis over the API"
	@echo "make faults        kills and stops processes, PostgreSQL and Redis, and looks whether anything was lost (docs/faults.md)"
	@echo "make bench         what it accepts, finishes and fires a second; how fast a million executions are listed (bench/README.md)"
	@echo "make requirements  compiles requirements*.in to hash-pinned requirements*.txt"
	@echo "make clean         removes the virtual environment and the tools' caches; keeps .env and var/"

run: $(VENV)/installed .env
	@exec $(PYTHON) manage.py up --demo --with-parent

test: $(VENV)/installed-dev
	@exec $(PYTHON) -m tests.run $(ARGS)

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/mypy .
	$(VENV)/bin/lint-imports --no-logo
	BLOX_TEST_DATABASE_URL= DJANGO_SETTINGS_MODULE=tests.settings $(PYTHON) manage.py makemigrations --check --dry-run
	@$(PRODUCTION_ENV) $(PYTHON) manage.py check --deploy --fail-level WARNING

# What a production server would be given, with secrets made for the moment.
PRODUCTION_ENV = env=$$(mktemp -d) && trap 'rm -rf "$$env"' EXIT && $(PYTHON) -I bloxserver/core/first_env.py $$env/env && \
	BLOX_ENV_FILE=$$env/env BLOX_VAR_DIR=$$env ALLOWED_HOSTS=flows.example.com BLOX_PUBLIC_URL=https://flows.example.com \
	BLOX_NUM_PROXIES=1 BLOX_METRICS_TOKEN=0123456789abcdef DATABASE_URL=postgres://blox:x@127.0.0.1:5432/blox \
	REDIS_URL=redis://127.0.0.1:6379/0

fuzz: $(VENV)/installed-dev
	@BLOX_FUZZ_CASES=$${BLOX_FUZZ_CASES:-500} exec $(PYTHON) -m pytest tests/fuzz $(ARGS)

faults: $(VENV)/installed-dev
	@BLOX_FAULTS_SCALE=$${BLOX_FAULTS_SCALE:-1} exec $(PYTHON) -m pytest -m "faults or experiment" $(ARGS)

# On scratch databases of the PostgreSQL that tests use, made if they are not there, and Redis' database 9.
bench: bench-throughput bench-history

bench-throughput: $(VENV)/installed-dev
	@$(call scratch,blox_bench_load) REDIS_URL=$${BLOX_BENCH_REDIS_URL:-redis://127.0.0.1:6379/9} exec $(PYTHON) -m bench.throughput $(ARGS)

bench-llm: $(VENV)/installed-dev
	@exec $(PYTHON) -m bench.llm_path $(ARGS)

bench-history: $(VENV)/installed-dev
	@$(call scratch,blox_bench) exec $(PYTHON) -m bench.history $(ARGS)

# BLOX_BENCH_DATABASE_URL names another database.
scratch = if [ -z "$$BLOX_BENCH_DATABASE_URL" ]; then \
		psql -qtA -h 127.0.0.1 -U postgres -c "SELECT 1 FROM pg_database WHERE datname = '$(1)'" | grep -q 1 || \
			createdb -h 127.0.0.1 -U postgres $(1) || exit 1; \
	fi; \
	DATABASE_URL=$${BLOX_BENCH_DATABASE_URL:-postgres://postgres@127.0.0.1:5432/$(1)}

requirements: $(VENV)/installed-dev
	@for name in requirements requirements-dev; do \
		$(VENV)/bin/uv pip compile -q --generate-hashes --no-header --no-annotate --python-version 3.11 --universal \
			$$name.in -o $$name.txt || exit 1; \
	done

clean:
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis staticfiles

# A stamp is the file that was installed: a checkout that only touches its time installs nothing.
$(VENV)/installed: requirements.txt | $(PYTHON)
	@cmp -s requirements.txt $@ || { echo "Installing the pinned requirements (once, under a minute) ..." && $(PIP) -r requirements.txt; }
	@cp requirements.txt $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	@cmp -s requirements-dev.txt $@ || { echo "Installing what tests and checks need ..." && $(PIP) -r requirements-dev.txt && \
		{ $(PYTHON) -m compileall -qq -j 0 $(VENV)/lib || true; }; }  # else each of several test processes compiles all it imports
	@cp requirements-dev.txt $@

$(PYTHON):
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Making $(VENV) with $$($$python --version) ..."; \
			$$python -m venv $(VENV) && exit 0; \
			echo "$$python cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
		fi; \
	done; echo "BloxServer needs Python 3.11 or newer, as python3." >&2; exit 1

.env: | $(PYTHON)
	@$(PYTHON) -I bloxserver/core/first_env.py $@
	@echo "Wrote .env with secrets of this server's own."
