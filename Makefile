# Needs Python 3.11 or newer and pip; everything is installed into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRAS ?= code,datasets,demo,export,fast,metrics,report,sweep,test,track
comma := ,
STAMP := .venv/installed-$(subst $(comma),-,$(EXTRAS))

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# accelerate gives each process one thread unless this is set.
export OMP_NUM_THREADS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)

# One process; without these four, `accelerate launch` prints which defaults it took.
LAUNCH := accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no
SPEAKER ?= clara

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## create .venv and install the package and what it needs

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("vqwave needs Python 3.11 or newer, found " + sys.version.split()[0])'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (the first time takes a minute or two)"
	@.venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

.PHONY: test
test: setup ## run the tests, on all cores
	OMP_NUM_THREADS=1 python -m pytest -n logical --dist loadfile --no-loadscope-reorder

.PHONY: chaos
chaos: setup ## kill trainings and commands at random moments, fill their disks; each must end as its undisturbed twin, bit for bit
	OMP_NUM_THREADS=1 python tests/chaos.py

N ?= 2000
SEED ?= 0
.PHONY: fuzz
fuzz: setup ## hostile variants of every file that is read, N=2000 of them; each must be refused in a line, or taken
	OMP_NUM_THREADS=1 python tests/fuzz/run.py $(N) $(SEED)

.PHONY: lint
lint: setup ## check the code's style, and that its type errors grow no more
	ruff check .
	python tests/type_errors.py

.PHONY: shipped
shipped: setup ## the shipped models, within a minute: generate a digit, encode it, decode it in three ways, convert it
	@mkdir -p runs/demo/shipped
	vqwave generate fsdd-prior --speaker theo --label text=7 --out runs/demo/shipped/seven-as-theo.wav
	vqwave encode fsdd runs/demo/shipped/seven-as-theo.wav --speaker theo --out runs/demo/shipped/seven.vqw
	vqwave decode fsdd runs/demo/shipped/seven.vqw --out runs/demo/shipped/seven.numba.wav
	vqwave decode fsdd runs/demo/shipped/seven.vqw --backend reference --out runs/demo/shipped/seven.reference.wav
	vqwave decode fsdd-student runs/demo/shipped/seven.vqw --out runs/demo/shipped/seven.student.wav
	vqwave convert fsdd runs/demo/shipped/seven-as-theo.wav --speaker george --out runs/demo/shipped/seven-as-george.wav

.PHONY: demo
demo: shipped data/demo/corpus.json ## the same, then every step from recordings to a report on a small made-up corpus: runs/demo/report.html
	$(LAUNCH) experiments/vqvae.py --config configs/vqvae/demo.yaml
	$(LAUNCH) experiments/distill.py --config configs/distill/demo.yaml
	input=$$(ls runs/demo/vqvae/samples/*.original.wav | head -n 1); \
	vqwave convert runs/demo/vqvae "$$input" --speaker $(SPEAKER) --out runs/demo/converted.wav; \
	vqwave encode runs/demo/vqvae "$$input" --out runs/demo/codes.vqw
	vqwave decode runs/demo/student runs/demo/codes.vqw --speaker $(SPEAKER) --out runs/demo/student.wav
	vqwave report runs/demo/vqvae runs/demo/student --out runs/demo/report.html

data/demo/corpus.json: | setup
	vqwave prepare demo --out data/demo --sample-rate 8000

data/demo16/corpus.json: | setup
	vqwave prepare demo --out data/demo16 --sample-rate 16000

# The recordings that the shipped models are measured on: folders fsdd, librispeech_sub and librispeech_more.
VQWAVE_DATA ?= ../shared/data

data/fsdd/corpus.json: | setup
	vqwave prepare manifest $(VQWAVE_DATA)/fsdd --out data/fsdd

data/librispeech/corpus.json: | setup
	vqwave prepare manifest $(VQWAVE_DATA)/librispeech_sub $(VQWAVE_DATA)/librispeech_more --out data/librispeech

# pesq is compiled as it is installed; where that fails its rows are missing.
.PHONY: pesq
pesq: setup
	@python -c 'import pesq' 2>/dev/null || python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[pesq]" \
		|| echo "pesq could not be compiled here: its rows will be missing" >&2

.PHONY: judges
judges: setup
	@python -c 'import faster_whisper, resemblyzer, speechmos' 2>/dev/null || python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[judges]" \
		|| echo "the judges of words, voices and naturalness could not be installed here: their rows will be missing" >&2

.PHONY: results
results: setup pesq judges data/fsdd/corpus.json data/librispeech/corpus.json data/demo/corpus.json data/demo16/corpus.json ## measure the shipped models on the test splits: docs/results.md
	@mkdir -p runs/results
	vqwave evaluate fsdd --student fsdd-student --data data/fsdd --split test --out runs/results/fsdd.json
	vqwave evaluate fsdd-prior --data data/fsdd --split test --out runs/results/fsdd-prior.json
	vqwave evaluate speech --student speech-student --data data/librispeech --split test --speakers 19,26,27 \
		--metrics wer,similarity,mos,pitch,codes --out runs/results/speech.json
	vqwave evaluate speech --student speech-student --data data/librispeech --split test --speakers 19,26,27 \
		--metrics converted --max-conversions 24 --out runs/results/speech-conversions.json
	vqwave evaluate speech-prior --data data/librispeech --split test --speakers 19,26,27 --metrics prior \
		--out runs/results/speech-prior.json
	vqwave evaluate fsdd --data data/demo --split test --metrics map,abx --out runs/results/fsdd-phones.json
	vqwave evaluate speech --data data/demo16 --split test --metrics map,abx --out runs/results/speech-phones.json
	vqwave results $(foreach name,fsdd fsdd-prior speech speech-conversions speech-prior fsdd-phones speech-phones,runs/results/$(name).json) --readme docs/results.md

.PHONY: docs
docs: setup ## build the documentation site: build/site
	@python -c 'import mkdocs, mkdocstrings_handlers.python' 2>/dev/null || python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[docs]"
	python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

# Debian's chromium: playwright's own would come from elsewhere. What cannot be installed makes its tests skip.
.PHONY: browser
browser: setup ## the pages (of `vqwave app`, reports, exported models) in a browser, where one is there or can be installed
	@python -c 'import gradio, playwright' 2>/dev/null || timeout 300 python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[app,browser]" \
		|| echo "gradio and playwright could not be installed here: tests of the pages will skip" >&2
	@command -v chromium >/dev/null || timeout 180 sh -c 'apt-get update && apt-get install -y --no-install-recommends chromium' >/dev/null 2>&1 \
		|| echo "chromium could not be installed here: tests in a browser will skip" >&2
	python -m pytest tests/app tests/report/test_in_browser.py tests/export/test_web_browser.py -m "slow or not slow" -rs

.PHONY: tiny
tiny: setup data/demo/corpus.json ## every command once, each training for some seconds
	$(LAUNCH) experiments/wavenet.py --config configs/wavenet/tiny.yaml --restart --quiet
	$(LAUNCH) experiments/vqvae.py --config configs/vqvae/tiny.yaml --restart --quiet
	$(LAUNCH) experiments/distill.py --config configs/distill/tiny.yaml --restart --quiet
	@rm -rf runs/tiny && mkdir -p runs/tiny
	input=$$(ls runs/tiny-vqvae/samples/*.original.wav | head -n 1); \
	vqwave encode runs/tiny-vqvae "$$input" --out runs/tiny/codes.vqw; \
	vqwave convert runs/tiny-vqvae "$$input" --speaker $(SPEAKER) --out runs/tiny/converted.wav
	vqwave decode runs/tiny-vqvae runs/tiny/codes.vqw --speaker $(SPEAKER) --out runs/tiny/decoded.wav
	vqwave decode runs/tiny-distill runs/tiny/codes.vqw --speaker $(SPEAKER) --out runs/tiny/student.wav
	vqwave generate runs/tiny-wavenet --speaker $(SPEAKER) --seconds 0.2 --out runs/tiny/generated.wav
	vqwave info runs/tiny-vqvae
	vqwave info runs/tiny/codes.vqw
	vqwave info data/demo
	vqwave report runs/tiny-vqvae runs/tiny-distill --out runs/tiny/report.html
	@for name in codes.vqw converted.wav decoded.wav student.wav generated.wav report.html; do \
		test -s "runs/tiny/$$name" || { echo "runs/tiny/$$name was not written" >&2; exit 1; }; \
	done; echo "every command ran: runs/tiny/report.html"

.PHONY: clean
clean: ## remove what runs and tests leave (not .venv, data or runs)
	rm -rf dist build .pytest_cache .ruff_cache
	find vqwave experiments tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
