# make demo    export the shipped checkpoint everywhere it can go, measure it, print one table, write one page
# make test    run the test suite
# make lint    ruff, mypy, import rules
# make gate    hold the exported net against benchmarks/baseline.json
# Each makes the environment it needs first; PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
DATA ?=
DEMO := build/demo
BIN := .venv/bin
READY := .venv/.ready
OTHERS := nano base

.PHONY: need-data demo test lint gate figures curves int8 int8-speed sweep corruptions peers zoo zoo-test overhead repeatability catch-rate constraints clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; run make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[export,onnx,openvino,coreml,quantise,sign,report,dev]'
	touch $@

demo: $(READY)
	$(BIN)/fer-export --target pytorch --no-fold --out $(DEMO) $(if $(DATA),--data $(DATA))
	$(BIN)/fer-export --target all --out $(DEMO) $(if $(DATA),--data $(DATA))
	$(BIN)/fer-bench --runtime all --model $(DEMO) --processes 1 $(if $(DATA),--data $(DATA)) --json $(DEMO)/results.json --markdown $(DEMO)/results.md --html $(DEMO)/results.html

# fer-deploy is tested against a real sshd on loopback, the report in a real Chromium; both are installed where that may
# be done. A worker a core; a file at a time, in tests/conftest.py's order. Hundreds of commands are started: they keep
# their bytecode, whatever the environment says.
test: $(READY)
	@{ test -x /usr/sbin/sshd && command -v chromedriver >/dev/null; } || test "$$(id -u)" != 0 || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openssh-server chromium chromium-driver fonts-dejavu-core >/dev/null; }
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Holds the exported net against the committed baseline; needs no data.
gate: $(READY)
	$(BIN)/fer-bench gate --baseline benchmarks/baseline.json --no-latency --runtime onnxruntime --runtime openvino

need-data:
	@test -n "$(DATA)" || { echo "give the data: make $(MAKECMDGOALS) DATA=path/to/fer2013.csv" >&2; exit 2; }

# The figures in README.md and the model cards, made again: make figures DATA=path/to/fer2013.csv. README.md has the first table.
figures: need-data $(READY)
	$(BIN)/fer-bench --runtime all --data $(DATA) --queries 5000 --markdown build/figures.md --json build/figures.json
	$(BIN)/python benchmarks/paste_results.py results build/figures.md docs/model-card.md
	sed '/^Latency with confidence/,$$d' build/figures.md > build/figures-short.md
	$(BIN)/python benchmarks/paste_results.py results build/figures-short.md README.md
	for tier in $(OTHERS); do $(BIN)/fer-bench --runtime all --checkpoint fer_$$tier --data $(DATA) --queries 5000 --markdown build/figures-$$tier.md && \
	  $(BIN)/python benchmarks/paste_results.py results build/figures-$$tier.md docs/model-card-$$tier.md || exit $$?; done

# How the runs behind the nets went, from their logs (docs/training.md).
curves: $(READY)
	$(BIN)/fer-bench curve docs/curves/*.jsonl --markdown build/curves.md --plot docs/curves.svg
	$(BIN)/python benchmarks/paste_results.py curves build/curves.md docs/training.md

# What INT8 costs and what its cures buy (docs/precision.md).
int8: need-data $(READY)
	$(BIN)/python -m evidence.int8 --data $(DATA) --markdown build/int8.md
	$(BIN)/python benchmarks/paste_results.py int8 build/int8.md docs/precision.md
	for tier in $(OTHERS); do $(BIN)/python -m evidence.int8 --data $(DATA) --checkpoint fer_$$tier --markdown build/int8-$$tier.md && \
	  $(BIN)/python benchmarks/paste_results.py int8-$$tier build/int8-$$tier.md docs/precision.md || exit $$?; done

# What INT8 is worth in time, on a CPU that has instructions for it: the shipped nets, and two larger ones after six epochs on drawn
# faces, since time does not depend on what a net has learnt (docs/precision.md).
LARGER := repvgg_a0 mobileone_s1
int8-speed: need-data $(READY)
	for net in $(LARGER); do test -f build/larger/$$net.done || { rm -rf build/larger/$$net; $(BIN)/fer-train --model $$net --size 64 --epochs 6 --out build/larger/$$net && touch build/larger/$$net.done; } || exit $$?; done
	$(BIN)/python -m evidence.int8_speed --data $(DATA) --checkpoint fer_small --checkpoint fer_nano $(LARGER:%=--checkpoint build/larger/%/last.pt) --markdown build/int8-speed.md
	$(BIN)/python benchmarks/paste_results.py int8-speed build/int8-speed.md docs/precision.md

# Every precision of the default net side by side (docs/precision.md).
sweep: need-data $(READY)
	$(BIN)/fer-bench sweep --data $(DATA) --markdown build/sweep.md
	$(BIN)/python benchmarks/paste_results.py sweep build/sweep.md docs/precision.md

# What blur, noise, low light and bad crops do to the shipped nets (docs/corruptions.md).
corruptions: need-data $(READY)
	$(BIN)/fer-export --target onnx --out build/corruptions
	for tier in $(OTHERS); do $(BIN)/fer-export --target onnx --out build/corruptions --checkpoint fer_$$tier || exit $$?; done
	$(BIN)/fer-bench corruptions --data $(DATA) --model build/corruptions/fer_small-onnx-fp32 $(OTHERS:%=--model build/corruptions/fer_%-onnx-fp32) --markdown build/corruptions.md
	$(BIN)/python benchmarks/paste_results.py corruptions build/corruptions.md docs/corruptions.md

# What a user would pick instead, beside ours: make peers DATA=path/to/fer2013.csv (docs/peers.md). Two of them need Node.js.
peers: need-data $(READY)
	$(BIN)/python -m peers --data $(DATA) --json build/peers.json --markdown build/peers.md --plot docs/peers.svg
	$(BIN)/python benchmarks/paste_results.py peers build/peers.md README.md

# The field's backbones side by side (docs/zoo.md); the first time each is exported, later ones find it in the cache.
zoo: $(READY)
	rm -f build/zoo.md
	$(BIN)/fer-bench zoo --checkpoints train/fer_train/checkpoints --json build/zoo.json --markdown build/zoo.md --plot docs/zoo.svg; code=$$?; \
	test -f build/zoo.md && $(BIN)/python benchmarks/paste_results.py zoo build/zoo.md docs/zoo.md; exit $$code

# Every one of them: a step of training, ONNX and OpenVINO, parity. Ten minutes on two cores, and 6 GB of memory.
zoo-test: $(READY)
	$(BIN)/python -m pytest -m zoo

# What the benchmark claims of itself, on this machine: under 3 % beside the engines' own tools; the same answer twice.
# A few minutes each; leave the machine alone meanwhile.
overhead: $(READY)
	$(BIN)/python -m evidence.overhead --markdown build/overhead.md
	$(BIN)/python benchmarks/paste_results.py overhead build/overhead.md docs/results.md

repeatability: $(READY)
	$(BIN)/python -m evidence.repeatability --markdown build/repeatability.md
	$(BIN)/python benchmarks/paste_results.py repeatability build/repeatability.md docs/results.md

# What the gate catches, and how often its test of accuracy tells (docs/gate.md).
catch-rate: $(READY)
	$(BIN)/python -m evidence.catch_rate --markdown build/catch-rate.md
	$(BIN)/python benchmarks/paste_results.py catch-rate build/catch-rate.md docs/gate.md
	$(BIN)/python -m evidence.gate_power --markdown build/gate-power.md
	$(BIN)/python benchmarks/paste_results.py gate-power build/gate-power.md docs/gate.md

# Pins for every Python from 3.10 on, without download addresses. Needs uv; pins that still fit are
# kept unless UPGRADE=--upgrade. torchvision must be of the release that belongs to torch's.
constraints:
	uv pip compile pyproject.toml --universal --python-version 3.10 --extra all --extra dev --no-annotate --no-header --no-emit-package fer-edge \
	  $(UPGRADE) --output-file constraints.txt

clean:
	rm -rf build .venv
