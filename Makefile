# make demo       train on handwritten digits and test the best checkpoint
# make test       everything a change has to pass: lint, format, types, layers, tests
# make test-distributed  whole jobs of several processes, under every launcher (some minutes)
# make test-gpu   what only a GPU can show, where there is one
# make test-ray   a Trainer in two workers of Ray Train, in an environment of its own (0.6 GB)
# make soak       kill a training job a hundred times and more, and compare bits (2 minutes)
# make soak-together  300 runs of random features together, broken off at random, compared (4 minutes)
# make soak-distributed  the same of two processes, under ddp and fsdp (3 minutes)
# make benchmark  the table of benchmarks/README.md, with the peers
# make benchmark-beside      steps of many kinds beside the same steps by hand, in turn in one process
# make benchmark-checkpoint  what durable, verified checkpoints cost
# make benchmark-evaluate    validation and prediction beside a hand-written loop
# make benchmark-distributed beside hand-written DDP on two processes, and sharded saves beside PyTorch's
# make benchmark-scale       bytes a rank and exchanges a step on up to 1,024 processes, planned on one machine
# make benchmark-gpt         tokens a second of examples/gpt.py beside the same model by hand
# make mutants    break the code a little, 60 times, and see whether a test notices (half an hour)
# make format     rewrite the code as the linter wants it
#
# MUTANTS="--seed 7 --sample 200" make mutants tries other mutants, and more of them.
# GPT="--layers 12 --heads 12 --width 768 --context 1024" make benchmark-gpt measures another size.
# PYTHON=python3.12 make ... takes another interpreter for the new environment.

PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
RAY := .venv-ray
BIN := $(VENV)/bin
PIP := -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-distributed test-gpu test-ray lint types layers pytest format soak soak-together soak-distributed mutants benchmark benchmark-beside benchmark-checkpoint benchmark-evaluate benchmark-gpt benchmark-scale benchmark-distributed clean

demo: $(VENV)/.stamp
	$(BIN)/python examples/digits.py

test: lint types layers pytest

lint: $(VENV)/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp
	$(BIN)/mypy

layers: $(VENV)/.stamp
	$(BIN)/lint-imports

pytest: $(VENV)/.stamp
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n 2 --dist worksteal  # else each process that a test starts compiles all anew

test-gpu: $(VENV)/.stamp
	$(BIN)/pytest -m gpu

test-distributed: $(VENV)/.stamp
	$(BIN)/pytest -m distributed

test-ray: $(RAY)/.stamp
	OMP_NUM_THREADS=1 $(RAY)/bin/python examples/cluster/ray_train.py

format: $(VENV)/.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(VENV)/.stamp $(PEERS)/.stamp
	$(BIN)/python benchmarks/overhead.py --peers $(PEERS)/bin/python

benchmark-beside: $(VENV)/.stamp
	$(BIN)/python benchmarks/beside.py

benchmark-checkpoint: $(VENV)/.stamp
	$(BIN)/python benchmarks/checkpoint.py

benchmark-evaluate: $(VENV)/.stamp
	$(BIN)/python benchmarks/evaluate.py

benchmark-distributed: $(VENV)/.stamp
	$(BIN)/python benchmarks/distributed.py

benchmark-scale: $(VENV)/.stamp
	$(BIN)/python benchmarks/scale.py

benchmark-gpt: $(VENV)/.stamp
	$(BIN)/python benchmarks/gpt.py $(GPT)

soak: $(VENV)/.stamp
	$(BIN)/python benchmarks/soak.py

soak-together: $(VENV)/.stamp
	$(BIN)/python benchmarks/soak_together.py

soak-distributed: $(VENV)/.stamp
	$(BIN)/python benchmarks/soak_distributed.py

mutants: $(VENV)/.mutants-stamp
	$(BIN)/python benchmarks/mutants.py $(MUTANTS)

clean:
	rm -rf $(VENV) $(PEERS) $(RAY) .mutants

$(VENV)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) -e '.[dev]'
	touch $@

$(VENV)/.mutants-stamp: $(VENV)/.stamp
	$(BIN)/python $(PIP) -e '.[dev,mutants]'
	touch $@

$(PEERS)/.stamp: benchmarks/peers.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(PIP) -r benchmarks/peers.txt
	touch $@

$(RAY)/.stamp: examples/cluster/ray.txt constraints.txt
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python $(PIP) -r examples/cluster/ray.txt .
	touch $@
