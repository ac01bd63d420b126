# The front door: `make run` and `make test` set up what is missing, build, and go.

MODEL ?= models/tales-moe
PORT ?= 30000
ARGS ?=
CUDA ?=
PRESET := $(if $(CUDA),cuda,release)
BUILD := build-$(PRESET)

.PHONY: help setup build run package test unit format bench compare prune-report clean
.DEFAULT_GOAL := help

help:
	@echo 'make run      build a release and serve MODEL on 127.0.0.1:PORT; Ctrl-C ends it'
	@echo '              MODEL=DIR (models/tales-moe)  PORT=N (30000)  ARGS="more flags of chorale serve"'
	@echo 'make build    build the release: build/chorale'
	@echo '              CUDA=1, here and below: with the backend for Hopper GPUs (docs/gpu.md)'
	@echo 'make package  build, then make a Debian package: build-release/chorale_*.deb'
	@echo 'make test     build, then run every test'
	@echo 'make unit     build, then run the unit tests alone'
	@echo 'make bench    build, then run the benchmarks'
	@echo 'make compare  build, then compare parallel strategies on both bundled models, of 16 experts and of one;'
	@echo '              reports in out/compare; ARGS="more flags of chorale compare"'
	@echo 'make prune-report  build, then compare ways of pruning the bundled model; report in out/prune'
	@echo 'make format   format all C++ and Rust sources'
	@echo 'make clean    remove what was built'

setup:
	@scripts/setup.sh $(if $(CUDA),cuda,run)

build-release/build.ninja build-cuda/build.ninja: build-%/build.ninja:
	@cmake --preset $*

# build/ is a link to the release folder, or to that of the build with CUDA.
build: setup
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	@if [ -d build ] && [ ! -L build ]; then echo 'build/ is a folder, not a link to $(BUILD)/; move it away' >&2; exit 1; fi
	@ln -sfn $(BUILD) build
	@cmake --build $(BUILD) --target chorale

run: build
	@exec scripts/foreground.sh build/chorale serve --model-path '$(MODEL)' --host 127.0.0.1 --port '$(PORT)' $(ARGS)

# build-release/chorale_VERSION_ARCHITECTURE.deb
package: build
	@cd $(BUILD) && cpack -G DEB

test:
	@CUDA='$(CUDA)' scripts/test.sh

unit:
	@CUDA='$(CUDA)' scripts/test.sh unit

bench: build
	@cmake --build $(BUILD)
	@set -e; for bench in $(BUILD)/*_bench; do echo "== $$bench"; "$$bench"; done

# Both are run, also when strategies of the first differ.
compare: build
	@status=0; for model in models/tales-moe models/tales-moe-1e; do \
	  build/chorale compare --model-path $$model --output "out/compare/$${model##*/}" $(ARGS) || status=1; echo; \
	done; exit $$status

# The table of docs/pruning.md: a quarter of an hour on two cores.
prune-report: build
	@build/chorale prune --model-path models/tales-moe --report out/prune \
	  --calibration-file tests/golden/calibration.txt --heldout-file tests/golden/heldout_excerpt.txt \
	  --variants frequency:12,frequency:8,frequency:1,reap:12,reap:8,reap:1,average \
	  --variants fit:128:0,fit:256:0,fit:512:0,fit:1024:0,fit:128,fit:512 $(ARGS)

format:
	@scripts/format.sh

clean:
	rm -rf build-release build-cuda build-debug build-asan build-tsan build-fuzz crates/target
	@if [ -L build ]; then rm build; fi
