# Two commands: `make map` shows the whole way on the offline demo region, `make test` runs the suite.
# Each sets up what it needs, the virtual environment included.

PYTHON ?= python3
BIN := .venv/bin
DEMO := build/demo
DEMO_CARD := $(DEMO)/checkpoints/cropland/card.json

.PHONY: map test lint bench campaign clean

map: $(DEMO_CARD)
	$(BIN)/python -m pipeline.map --aoi aoi/demo.geojson --sensor s1
	$(BIN)/python -m pipeline.sandbox --score maps/demo-cropland-s1-2023-10 --truth $(DEMO)

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term --cov-fail-under=85

bench: .venv/ready
	$(BIN)/python -m tests.benchmarks --out build/bench.json

campaign: .venv/ready
	$(BIN)/python -m tests.campaigns.refresh --days 30
	$(BIN)/python -m tests.campaigns.one_scene

lint: .venv/ready
	$(BIN)/ruff check . && $(BIN)/mypy

# The demo's checkpoint is trained on points sampled from the demo's own catalogue.
$(DEMO_CARD): $(DEMO)/samples/cropland/dataset.json
	$(BIN)/python -m pipeline.train --task cropland --samples $(DEMO)/samples/cropland --fast \
		--out $(DEMO)/checkpoints/cropland

$(DEMO)/samples/cropland/dataset.json: $(DEMO)/catalog.json
	$(BIN)/python -m pipeline.sample --task cropland --points $(DEMO)/truth/points_cropland.geojson \
		--label-column cropland --catalog $(DEMO)/catalog.json --period 2023-10 \
		--out $(DEMO)/samples/cropland

$(DEMO)/catalog.json: | .venv/ready
	$(BIN)/python -m pipeline.sandbox --out $(DEMO)

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv build maps runs
