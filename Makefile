# Everything runs in .venv. The first target that needs it makes it from requirements.lock.

PYTHON ?= $(or $(firstword $(foreach name,python3.11 python3,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name)))),\
	$(error no Python 3.11 or newer found: set PYTHON to its path))
PY := .venv/bin/python
# Files in their order: by their number of tests, the slowest would come last and be waited for.
PYTEST_FLAGS ?= --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo notebooks docs second-corpus test slow chaos lint stages worth bench lock clean

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: .venv ## run the whole plan, small, on the demo corpus (minutes)
	$(PY) -m train.pipeline --config configs/demo.yaml --overwrite

notebooks: .venv ## run the notebooks, and keep their outputs and pictures (minutes)
	cd notebooks && ../$(PY) run.py

docs: .venv ## build the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

second-corpus: data/raw/second/unpacked ## fetch Django's and SQLAlchemy's documentation and code

test: .venv ## run the tests, except the slow ones
	$(PY) -m pytest $(PYTEST_FLAGS)

slow: .venv ## run the slow tests, and the golden ones with XLA's optimizations (minutes)
	$(PY) -m pytest $(PYTEST_FLAGS) -m "slow or golden"

chaos: .venv ## kill, fill, damage and disturb what runs, and print the counts (half an hour)
	$(PY) -m pytest $(PYTEST_FLAGS) -m chaos

lint: .venv ## check style, format and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

stages: .venv second-corpus ## measure what each stage gains: two corpora, three seeds (more than half an hour)
	$(PY) -m benchmarks.stage_gains --jobs 2

worth: .venv second-corpus ## measure what the architecture and its experts are worth (days on two cores)
	$(PY) -m benchmarks.peers
	$(PY) -m benchmarks.experts
	$(PY) -m benchmarks.worth

bench: .venv ## measure speed and memory
	$(PY) -m benchmarks.run

# Pins stay where they still fit pyproject.toml; LOCK_FLAGS=--upgrade renews them. torch's release
# is named because pip has a CPU build of only some. "+cpu" is removed because the builds of other
# machines have other names, and the project itself because an extra names it that takes over others.
lock: ## recompute requirements.lock (LOCK_FLAGS=--upgrade renews all pins)
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet pip-tools
	build/lock/bin/pip-compile --quiet --extra bridge --extra train --extra docs --extra ray --extra dev \
		--build-deps-for editable --allow-unsafe \
		--strip-extras --annotation-style line --no-header --no-emit-index-url --no-emit-find-links \
		--upgrade-package torch==2.13.0 $(LOCK_FLAGS) \
		--output-file requirements.lock pyproject.toml
	sed -i -e 's/+cpu /     /' -e '/^# The following/d' -e '/^$$/d' requirements.lock

clean: ## delete .venv, caches and build products; data/ and runs/ stay
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so an interrupted installation starts again from the beginning.
.PHONY: .venv
.venv: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --requirement requirements.lock
	$(PY) -m pip install --no-deps --no-build-isolation --editable .
	touch $@

# The corpus leaves out tests and files that repeat others (patch releases' notes, translations,
# databases' migrations). Before pip downloads an archive, it asks the package for its metadata. That
# needs setuptools, which is in requirements.lock.
data/raw/second/unpacked: configs/second-corpus.txt | .venv/installed
	rm -rf build/second data/raw/second
	mkdir -p data/raw/second/text data/raw/second/code
	$(PY) -m pip download --no-deps --no-binary :all: --no-build-isolation --dest build/second \
		--require-hashes --requirement $<
	cd data/raw/second/text && tar xzf $(CURDIR)/build/second/django-*.tar.gz --wildcards \
		--exclude 'docs/_theme' --exclude 'docs/requirements.txt' \
		--exclude 'docs/releases/*.*.*.txt' 'django-*/docs/*.txt'
	cd data/raw/second/text && tar xzf $(CURDIR)/build/second/sqlalchemy-*.tar.gz --wildcards \
		'sqlalchemy-*/doc/build/*.rst'
	cd data/raw/second/code && tar xzf $(CURDIR)/build/second/django-*.tar.gz --wildcards \
		--exclude '*/locale/*' --exclude '*/contrib/*/migrations/*' 'django-*/django/*.py'
	cd data/raw/second/code && tar xzf $(CURDIR)/build/second/sqlalchemy-*.tar.gz --wildcards \
		--exclude '*/testing/suite/*' 'sqlalchemy-*/lib/sqlalchemy/*.py'
	touch $@
