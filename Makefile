# Set-up, demo, checks. Needs GNU make (3.81 or later), a POSIX sh and Python >= 3.11; `make` alone explains.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
PYTEST_ARGS ?=
# More would starve the tests that start clusters of their own.
TEST_PROCESSES ?= 2
# These mostly wait: for a server that is away, a signal, a lock that goes stale.
SYSTEM_PROCESSES ?= 3
ARGS ?=
TORCH_INDEX ?=

override VENV := $(patsubst %/,%,$(VENV))
BIN := $(VENV)/bin
PEERS := .venv-peers
ECOSYSTEM := .venv-ecosystem
# tests/ecosystem looks for it there.
PYDICOM_SEG := $(ECOSYSTEM)/pydicom-seg
CODE := etl tests $(wildcard bench docs/hooks.py)

export INPUT STORE PRESET SCHEDULER DEMO STATUS

# Relative paths below mean the checkout; from anywhere else they would mean somebody's own .venv and demo.
ifneq ($(lastword $(MAKEFILE_LIST)),Makefile)
$(error run make in the checkout, or with make -C CHECKOUT)
endif
ifneq ($(filter etl,$(MAKECMDGOALS)),)
ifneq ($(and $(INPUT),$(if $(STORE),,none)),)
$(error INPUT is given without STORE; say where to write: make etl INPUT=/data/scans STORE=/data/store.zarr)
endif
ifneq ($(and $(STORE),$(if $(INPUT),,none)),)
$(error STORE is given without INPUT; say what to read: make etl INPUT=/data/scans STORE=/data/store.zarr)
endif
endif

.DEFAULT_GOAL := help
.PHONY: help venv etl test test-slow test-ecosystem test-browser test-systems extras docs lint bench bench-peers clean constraints FORCE
# Every target may install into the one environment; two installs at once would spoil it.
.NOTPARALLEL:
.SUFFIXES:

help:
	@echo 'make etl           turn CT DICOM into one Zarr store; with no INPUT, a synthetic cohort into demo/store.zarr'
	@echo '                   INPUT="/data/a /data/b.zip" STORE=/data/store.zarr  read these, write there'
	@echo '                   PRESET=head-ct|article|FILE.toml  SCHEDULER=tcp://HOST:8786  ARGS="more options of ct-etl run"'
	@echo '                   STATUS=FILE writes the exit status of ct-etl there; that of make itself is 2 whatever failed'
	@echo '                   a path with spaces among several is quoted twice: INPUT="'\''/data/my scans'\'' /data/b"'
	@echo 'make test          the test suite (PYTEST_ARGS="-k name")'
	@echo 'make test-slow     real clusters, kills and whole cohorts'
	@echo 'make test-ecosystem  the tools that read a store and its files: MONAI, ITK, nnU-Net, dcmqi, napari … (gigabytes)'
	@echo 'make test-browser  the pages of ct-etl view in Chromium (on Debian: apt-get install chromium)'
	@echo 'make test-systems  buckets (SeaweedFS), SLURM, the image and the manifests of Kubernetes; as root on Debian it installs'
	@echo '                   SLURM and buildah; elsewhere the tests that lack them are skipped and say so'
	@echo 'make extras        add PyTorch and other readers of a store, which some tests need (TORCH_INDEX=URL)'
	@echo 'make docs          build the site of the documents into site/'
	@echo 'make lint          ruff format --check, ruff check, mypy --strict'
	@echo 'make bench         measure speed and memory (ARGS="options of bench/run.py")'
	@echo 'make bench-peers   install the programs that the benchmark compares with into $(PEERS) (some gigabytes)'
	@echo 'make venv          only create the environment $(VENV), as on a worker host'
	@echo 'make constraints   pin the newest versions for this Python anew'
	@echo 'make clean         remove the environment, the demo and caches; never an INPUT or STORE'
	@echo
	@echo 'PYTHON=python3.13 picks the interpreter (3.11 or later); a change of interpreter rebuilds $(VENV).'

# --- the environment: made once, then reused ------------------------------------------------------------

# Holds the interpreter's version and the folder, because neither a mixed nor a moved environment works.
# Its time stamp changes only when it is made anew. The .incomplete file lies in an environment from before
# the first byte is written until all is in place: what an interruption leaves is not trusted. An old one is
# renamed before it is removed, because half of one would no longer be known for an environment.
IDENTITY := $(VENV)/.identity
INCOMPLETE := $(VENV)/.incomplete

$(IDENTITY): FORCE
	@version=$$("$(PYTHON)" -c 'import sys; print(sys.implementation.name, "%d.%d.%d" % sys.version_info[:3]); sys.exit(sys.version_info < (3, 11))') \
	|| { echo "PYTHON=$(PYTHON): $${version:-not found}; Python 3.11 or later is needed" >&2; exit 1; }; \
	identity="$$version in $(CURDIR)"; \
	if [ "$$identity" = "$$(cat '$@' 2>/dev/null)" ] && [ ! -e '$(INCOMPLETE)' ] && '$(BIN)/python' -c '' 2>/dev/null; then exit 0; fi; \
	if [ -e '$(VENV)' ] && [ ! -e '$(VENV)/pyvenv.cfg' ] && [ ! -e '$(INCOMPLETE)' ] && ! rmdir '$(VENV)' 2>/dev/null; then \
		echo "VENV=$(VENV) exists and is not a virtual environment; it is left alone" >&2; exit 1; \
	fi; \
	echo "creating $(VENV) with $$version" >&2; \
	rm -rf '$(VENV).old' && { [ ! -e '$(VENV)' ] || mv '$(VENV)' '$(VENV).old'; } && rm -rf '$(VENV).old' \
	&& mkdir -p '$(VENV)' && : > '$(INCOMPLETE)' || exit; \
	"$(PYTHON)" -m venv '$(VENV)' \
	|| { echo "no environment could be made; on Debian and Ubuntu the package python3-venv is needed" >&2; exit 1; }; \
	printf '%s\n' "$$identity" > '$@' && rm '$(INCOMPLETE)'

# Editable, so that a change of the code needs no new install. The build back end is installed first and the build
# not isolated, so that the constraints hold for it too (editables: what Hatchling asks for in such a build).
$(VENV)/.ready-%: $(IDENTITY) pyproject.toml $(wildcard constraints/*.txt)
	@set -e; \
	pins=$$('$(BIN)/python' -c 'import sys; print("constraints/py%d%d.txt" % sys.version_info[:2])'); \
	if [ -e "$$pins" ]; then set -- -c "$$pins"; else set --; pins="no $$pins: newest versions"; fi; \
	case '$*' in run) extra= ;; *) extra='[$*]' ;; esac; \
	echo "installing ct-etl$$extra into $(VENV) ($$pins); the first time takes a minute or two" >&2; \
	: > '$(INCOMPLETE)'; \
	'$(BIN)/python' -m pip install --quiet --disable-pip-version-check "$$@" hatchling editables; \
	'$(BIN)/python' -m pip install --quiet --disable-pip-version-check "$$@" --no-build-isolation -e ".$$extra"; \
	rm '$(INCOMPLETE)'; \
	: > '$@'

venv: $(VENV)/.ready-run

# --- work -----------------------------------------------------------------------------------------------

# The phantom is written aside and renamed: demo/dicom is there only when it is whole. Ctrl-C reaches ct-etl itself;
# the shell outlives it, so as to write its status down.
etl: $(VENV)/.ready-run
	@if [ -z "$$INPUT" ]; then \
		: "$${DEMO:?}"; \
		if [ ! -e "$$DEMO/dicom" ]; then \
			echo "writing a synthetic cohort to $$DEMO/dicom" >&2; \
			mkdir -p "$$DEMO" && rm -rf "$$DEMO/.dicom.partial" \
			&& '$(BIN)/ct-etl' phantom "$$DEMO/.dicom.partial" >/dev/null && mv "$$DEMO/.dicom.partial" "$$DEMO/dicom" || exit; \
		fi; \
		set -- "$$DEMO/dicom" "$$DEMO/store.zarr"; \
	else \
		if [ -e "$$INPUT" ]; then set -- "$$INPUT"; else eval "set -- $$INPUT"; fi; \
		case "$$STORE" in '~/'*) STORE="$$HOME/$${STORE#??}" ;; esac; \
		set -- "$$@" "$$STORE"; \
	fi; \
	if [ -n "$$PRESET" ]; then set -- "$$@" --preset "$$PRESET"; fi; \
	if [ -n "$$SCHEDULER" ]; then set -- "$$@" --scheduler "$$SCHEDULER"; fi; \
	trap : INT; \
	'$(BIN)/ct-etl' run "$$@" $(ARGS); \
	status=$$?; \
	if [ -n "$$STATUS" ]; then echo "$$status" > "$$STATUS"; fi; \
	case $$status in \
		0) ;; \
		3) echo 'make etl: ct-etl ended with exit status 3: finished, but some series failed (listed above)' >&2 ;; \
		*) echo "make etl: ct-etl ended with exit status $$status" >&2 ;; \
	esac; \
	exit $$status

test: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m 'not slow and not ecosystem and not browser' $(PYTEST_ARGS)

# Real clusters, kills, whole cohorts: what would make the suite above too slow to run often.
test-slow: $(VENV)/.ready-test
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m slow $(PYTEST_ARGS)

# The browser itself comes from the system. axe-core only where there is npm; its tests say what they lack.
test-browser: $(VENV)/.ready-test
	'$(BIN)/python' -m pip install --quiet --disable-pip-version-check -r constraints/browser.txt
	@if command -v npm >/dev/null; then npm install --silent --no-save --prefix .readers-browser axe-core@4.14.1; fi
	$(BIN)/python -m pytest -m browser tests/view $(PYTEST_ARGS)

# Debian's SLURM with its daemons, and buildah, as root; elsewhere what is missing is said by the tests, which are skipped.
test-systems: $(VENV)/.ready-test
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
			slurmctld slurmd slurm-client munge openssl buildah debootstrap gcc libc6-dev >/dev/null \
		|| echo 'apt-get could not install what they need: tests that lack something are skipped and say so' >&2; \
	fi
	@'$(BIN)/python' -m pip install --quiet --disable-pip-version-check -r constraints/systems.txt
	@'$(BIN)/python' -m pip install --quiet --disable-pip-version-check --no-deps dask-jobqueue==0.9.0 dask-kubernetes==2026.3.0
	CT_ETL_SYSTEMS=yes $(BIN)/python -m pytest -n $(SYSTEM_PROCESSES) --dist loadfile -m systems tests/systems $(PYTEST_ARGS)

# PyPI's PyTorch for Linux is a CUDA build of gigabytes: TORCH_INDEX=https://download.pytorch.org/whl/cpu is small.
# zarrita.js only where there is npm; its test says what it lacks.
extras: $(VENV)/.ready-test
	@pins=$$('$(BIN)/python' -c 'import sys; print("constraints/py%d%d.txt" % sys.version_info[:2])'); \
	if [ -e "$$pins" ]; then set -- -c "$$pins"; else set --; fi; \
	if [ -n '$(TORCH_INDEX)' ]; then set -- "$$@" --extra-index-url '$(TORCH_INDEX)'; fi; \
	'$(BIN)/python' -m pip install --quiet --disable-pip-version-check "$$@" -r constraints/extras.txt
	@if command -v npm >/dev/null; then npm install --silent --no-save --prefix .readers zarrita@0.7.5 @zarrita/storage@0.2.0; fi

docs: $(VENV)/.ready-test
	@'$(BIN)/python' -m pip install --quiet --disable-pip-version-check -r constraints/docs.txt
	NO_MKDOCS_2_WARNING=1 '$(BIN)/python' -m mkdocs build --strict --quiet --site-dir site
	@echo 'site/index.html'

# In an environment of its own: what these tools pin is not this project's. PyTorch first, so that the tools find it;
# nnU-Net without what only its training asks for, since torchvision and timm are no part of its check; napari without
# its windows. pydicom-seg wants a pydicom before 3. The plugins of napari for pytest would load it before any test.
test-ecosystem: $(VENV)/.ready-test
	"$(PYTHON)" -m venv '$(ECOSYSTEM)'
	@set -e; if [ -n '$(TORCH_INDEX)' ]; then set -- --extra-index-url '$(TORCH_INDEX)'; else set --; fi; \
	'$(ECOSYSTEM)/bin/python' -m pip install --quiet --disable-pip-version-check "$$@" -r constraints/extras.txt; \
	'$(ECOSYSTEM)/bin/python' -m pip install --quiet --disable-pip-version-check -e '.[test]'; \
	'$(ECOSYSTEM)/bin/python' -m pip install --quiet --disable-pip-version-check --no-deps -r constraints/ecosystem.txt
	"$(PYTHON)" -m venv '$(PYDICOM_SEG)'
	@'$(PYDICOM_SEG)/bin/python' -m pip install --quiet --disable-pip-version-check --no-deps -r constraints/ecosystem-pydicom-seg.txt
	'$(ECOSYSTEM)/bin/python' -m pytest -p no:napari -p no:npe2 -m ecosystem tests/ecosystem $(PYTEST_ARGS)

lint: $(VENV)/.ready-lint
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

bench: $(VENV)/.ready-run
	$(BIN)/python bench/run.py $(ARGS)

# In an environment of their own: their pins are not this project's. bench/run.py looks for it there.
bench-peers:
	"$(PYTHON)" -m venv '$(PEERS)'
	'$(PEERS)/bin/python' -m pip install --quiet --disable-pip-version-check -r bench/peers.txt

# --- upkeep ---------------------------------------------------------------------------------------------

# Only what these targets made: a store of one's own under demo/ stays, as does an environment elsewhere.
clean:
	@case '$(VENV)' in \
		/*|*..*) echo 'VENV=$(VENV) is outside the checkout; it is left alone' >&2 ;; \
		*) if [ -e '$(VENV)/pyvenv.cfg' ] || [ -e '$(INCOMPLETE)' ]; then rm -rf '$(VENV)'; fi; rm -rf '$(VENV).old' ;; \
	esac
	@if [ -e '$(PEERS)/pyvenv.cfg' ]; then rm -rf '$(PEERS)'; fi
	@if [ -e '$(ECOSYSTEM)/pyvenv.cfg' ]; then rm -rf '$(ECOSYSTEM)'; fi
	rm -rf .readers .readers-browser site demo/dicom demo/.dicom.partial demo/store.zarr demo/store.zarr.runs
	@if [ -d demo ] && [ ! -L demo ]; then rmdir demo 2>/dev/null || echo 'demo/ holds more than the demo; the rest is left alone' >&2; fi
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# In an environment of its own, so that what else is installed in $(VENV) does not leak into the pins.
constraints:
	@set -e; \
	folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
	"$(PYTHON)" -m venv "$$folder/venv"; \
	python="$$folder/venv/bin/python"; \
	"$$python" -m pip install --quiet --disable-pip-version-check hatchling editables; \
	"$$python" -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[test,lint,s3,bucket,cluster]'; \
	pins=$$("$$python" -c 'import sys; print("constraints/py%d%d.txt" % sys.version_info[:2])'); \
	{ "$$python" -c 'import platform; print("# Pins for Python %s: ct-etl with the extras test, lint, s3, bucket and cluster, and its build backend." % platform.python_version())'; \
	  echo '# Remake: make constraints PYTHON=<this interpreter>'; \
	  "$$python" -m pip freeze --disable-pip-version-check --exclude-editable > "$$folder/freeze"; \
	  LC_ALL=C sort -f "$$folder/freeze"; } > "$$folder/pins"; \
	if grep -nE '@|://|^-|\+' "$$folder/freeze"; then echo 'these pins name a place or a local build; nothing was written' >&2; exit 1; fi; \
	mkdir -p constraints; cp "$$folder/pins" "$$pins.new"; mv "$$pins.new" "$$pins"; \
	echo "wrote $$pins" >&2
