# make demo       the whole recipe on a small synthetic corpus
# make test       lint, types and tests (SLOW=0 leaves the slow ones out)
# make bench      this machine's limits and bottlenecks (QUICK=1: a preview)
# make lint       style, formatting, contracts of imports
# make typecheck  mypy
# make format     fix what ruff can fix, and format
# make test-gpu   the tests that need a GPU
# make clean      remove the environment and the demo's run

PYTHON ?= python3
PY := .venv/bin/python
# A make that is killed takes the demo's command with it: else a second make would find its network locked.
DEMO := $(if $(shell command -v setpriv),setpriv --pdeathsig KILL) $(PY)
CORPUS := runs/demo-corpus
RUN := runs/demo
SLOW ?= 1
QUICK ?= 0

.PHONY: demo test test-gpu bench lint typecheck format clean

demo: .venv/installed
	@$(DEMO) -c "print('1/7 writing the demo corpus')"
	@$(DEMO) -m melgpu.demo $(CORPUS)
	@echo "2/7 round 1: training three networks"
	@$(DEMO) train.py --run $(RUN) --recipe demo --data $(CORPUS) \
		--labels $(CORPUS)/train.csv --test $(CORPUS)/test.csv --private $(CORPUS)/private.csv
	@echo "3/7 round 1: predicting"
	@$(DEMO) predict.py --run $(RUN)
	@echo "4/7 round 1: stacking, pseudo labels"
	@$(DEMO) stack.py --run $(RUN)
	@echo "5/7 round 2: training six networks, about half of the whole"
	@$(DEMO) train.py --run $(RUN)
	@echo "6/7 round 2: predicting"
	@$(DEMO) predict.py --run $(RUN)
	@echo "7/7 round 2: stacking, submission"
	@$(DEMO) stack.py --run $(RUN)

test: .venv/installed lint typecheck
	$(PY) -m pytest $(if $(filter 0,$(SLOW)),-m "not slow")

test-gpu: .venv/installed
	$(PY) -m pytest -m gpu

bench: .venv/installed
	$(PY) -m benchmarks $(if $(filter 1,$(QUICK)),--quick)

lint: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/lint-imports

typecheck: .venv/installed
	$(PY) -m mypy

format: .venv/installed
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=...')"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

clean:
	rm -rf .venv runs/demo runs/demo-corpus
