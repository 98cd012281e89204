# Gossamer's verbs. `make help` lists them.

CARGO ?= cargo
PYTHON ?= python3
TARGET := $(or $(CARGO_TARGET_DIR),target)
GOSSAMER := $(TARGET)/release/gossamer
LOADTEST := $(TARGET)/release/gossamer-loadtest
VENV := .venv
BROWSER_VENV := .venv-browser
# A workspace of its own.
RUST_CLIENT := tests/clients/async-openai/Cargo.toml
# 600 more crates: only `make test-mistralrs`, `make lint-mistralrs` and whoever asks for the feature compile it.
SECOND_ENGINE := --exclude gossamer-mistralrs
# For training and scoring the embedded model: PyTorch, so apart from the small one.
MODEL_VENV := .venv-model
# Flags for the server: make run ARGS="--port 9000"
ARGS ?=
# What `make run` builds in besides the CPU kernels: what suits this machine. FEATURES=cuda for another, FEATURES= for none.
FEATURES ?= $(shell tools/features)

.DEFAULT_GOAL := help
.PHONY: help run build test test-rust test-e2e test-browser test-clients test-candle test-mistralrs lint-mistralrs metal-check check fmt fmt-check lint openapi openapi-check openapi-lint
.PHONY: config doc bench bench-constraints bench-peers prove-constraints fuzz load hostile eval model clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# CUDA's installer leaves its compiler off the PATH, where the crates that call it look.
run: export PATH := $(PATH):$(or $(CUDA_HOME),/usr/local/cuda)/bin
run: ## Build for this machine and serve the embedded model on http://127.0.0.1:8000 (ARGS="--model DIR ..." for more)
	$(CARGO) run --release --locked -p gossamer-gateway --features "$(FEATURES)" -- serve $(ARGS)

build: ## Build the release binary for any machine, target/release/gossamer
	$(CARGO) build --release --locked -p gossamer-gateway

test: test-rust test-e2e test-clients ## Run the tests: Rust's, then end-to-end over the real binary, then every client

test-rust: ## Run unit, property, parity and API tests
	$(CARGO) test --workspace $(SECOND_ENGINE) --locked --no-fail-fast

test-candle: ## Run the tests of the accelerated backend over stand-ins for a GPU's kernels, against the CPU backend
	$(CARGO) test --locked -p gossamer-engine --features candle --lib

metal-check: ## Type-check the binary with Metal for Apple Silicon, also on Linux (needs rustup, or root on Debian)
	tools/metal-check

test-e2e: build $(VENV)/.installed ## Run the end-to-end tests (makes .venv)
	E2E_BINARY=$(GOSSAMER) $(VENV)/bin/python -m pytest tests/e2e

test-clients: build ## Run the suites of all clients and Schemathesis (SUITES="litellm ai-sdk" for some; makes .venv-clients)
	$(PYTHON) tests/clients/run.py --binary $(GOSSAMER) $(SUITES)

$(VENV)/.installed: tests/e2e/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

# One resolution for both, or 600 crates are built twice; the gateway's integration test brings the binary.
WITH_MISTRALRS := --locked -p gossamer-mistralrs -p gossamer-gateway --features gossamer-gateway/mistralrs
test-mistralrs: $(VENV)/.installed ## Build the gateway with mistral.rs, the quickest way, and test it on a tiny Qwen3
	$(CARGO) test --profile mistralrs $(WITH_MISTRALRS)
	E2E_BINARY=$(TARGET)/mistralrs/gossamer $(VENV)/bin/python -m pytest tests/mistralrs

lint-mistralrs: ## Run clippy over what only builds with mistral.rs have
	$(CARGO) clippy --profile mistralrs --all-targets $(WITH_MISTRALRS) -- -D warnings

# Chromium and its driver are the system's (Debian: chromium, chromium-driver); nothing is downloaded for them.
test-browser: build $(BROWSER_VENV)/.installed ## Run the tests of Swagger UI in headless Chromium (makes .venv-browser)
	E2E_BINARY=$(GOSSAMER) $(BROWSER_VENV)/bin/python -m pytest tests/browser

$(BROWSER_VENV)/.installed: tests/browser/requirements.txt
	$(PYTHON) -m venv $(BROWSER_VENV)
	$(BROWSER_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

check: fmt-check lint openapi-check openapi-lint doc ## Everything but the tests that must be clean: format, lints, OpenAPI, docs

fmt: ## Format the code
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path $(RUST_CLIENT)
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

fmt-check: ## Fail if the code is not formatted
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path $(RUST_CLIENT) --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check

lint: ## Run clippy; warnings are errors
	$(CARGO) clippy --workspace $(SECOND_ENGINE) --all-targets --locked -- -D warnings

openapi: ## Write openapi/openapi.json from the routes
	$(CARGO) run --locked -p gossamer-gateway -- openapi > openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json

openapi-check: ## Fail if openapi/openapi.json is not what the routes say
	$(CARGO) run --locked -p gossamer-gateway -- openapi | diff -u openapi/openapi.json -

openapi-lint: openapi/node_modules/.installed ## Lint openapi/openapi.json with an independent linter (needs node and npm)
	REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true \
		openapi/node_modules/.bin/redocly lint --config openapi/redocly.yaml openapi/openapi.json

openapi/node_modules/.installed: openapi/package.json openapi/package-lock.json
	npm ci --prefix openapi --no-audit --no-fund --ignore-scripts
	touch $@

config: ## Write config/gossamer.toml from the table of keys
	$(CARGO) run --locked -p gossamer-gateway -- config --toml > config/gossamer.toml.new
	mv config/gossamer.toml.new config/gossamer.toml

doc: ## Build the API documentation of all crates; warnings are errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace $(SECOND_ENGINE) --no-deps --locked

bench: build $(LOADTEST) ## Measure one stream against sixteen, five times in turns; fails if the medians' ratio is under 2.5
	LOADTEST_SERVER=$(GOSSAMER) loadtest/with-server.sh sh -c '$(LOADTEST) --url $$LOADTEST_URL --min-ratio 2.5 --rounds 5 \
		loadtest/scenarios/one-stream.toml loadtest/scenarios/sixteen-streams.toml'

bench-constraints: build $(VENV)/.installed ## Measure what constraints cost at 16 sequences, and what compiling schemas delays
	E2E_BINARY=$(GOSSAMER) $(VENV)/bin/python tests/e2e/bench_constraints.py

prove-constraints: build $(VENV)/.installed ## 500 forced calls, 500 JSON answers and 2000 free turns, every one checked (test-e2e sends fewer)
	CONSTRAINED=500,500,2000 E2E_BINARY=$(GOSSAMER) $(VENV)/bin/python -m pytest tests/e2e/test_constraints.py

# make fuzz TARGETS="jwt request_json" FUZZ_SECONDS=1500. No sanitizer: the crates that it runs have no unsafe code of ours.
# What libFuzzer finds on the way goes to fuzz/corpus, a finding to fuzz/artifacts; a finding becomes a file in fuzz/seeds.
TARGETS ?= harmony_parser header_automaton request_json jwt constraint_compile
FUZZ_SECONDS ?= 60
fuzz: ## Look for inputs that break a property, FUZZ_SECONDS for each of TARGETS (needs a nightly toolchain and cargo-fuzz)
	@rustup run nightly rustc --version >/dev/null 2>&1 || { echo "a nightly toolchain is needed: rustup toolchain install nightly" >&2; exit 1; }
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is needed: cargo install cargo-fuzz --locked" >&2; exit 1; }
	for target in $(TARGETS); do \
		mkdir -p fuzz/corpus/$$target && \
		$(CARGO) +nightly fuzz run -s none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -dict=fuzz/dictionary.txt -max_len=4096 -timeout=10 -rss_limit_mb=2048 || exit 1; \
	done

load: build $(LOADTEST) ## Run the load scenarios with their thresholds and the leak check
	LOADTEST_SERVER=$(GOSSAMER) loadtest/with-server.sh sh -c '$(LOADTEST) --url $$LOADTEST_URL \
		loadtest/scenarios/chat.toml loadtest/scenarios/long-prompt-mix.toml loadtest/scenarios/cancel-storm.toml'

# make hostile HOSTILE="100000 --seed 7" for another storm
HOSTILE ?= 10000
hostile: build $(LOADTEST) ## Send 10,000 hostile requests; fails on a wrong answer, a dead server, or anything left behind
	LOADTEST_SERVER=$(GOSSAMER) SERVE_FLAGS="--kv-cache-bytes 64MiB --max-model-len 2048 --log-level warn" loadtest/with-server.sh sh -c \
		'$(LOADTEST) --url $$LOADTEST_URL --hostile $(HOSTILE)'

.PHONY: $(LOADTEST)
$(LOADTEST):
	$(CARGO) build --release --locked -p gossamer-loadtest

# make bench-peers PEERS="--layers 4 --only agree,decode" for a part; PEERS="--help" lists the options. Big files go to WORK.
PEERS ?=
PEERS_WORK ?= build/bench-peers
PEERS_VENV := .venv-peers
bench-peers: $(PEERS_VENV)/.installed ## Measure Gossamer beside llama.cpp at 20B's shape (35 GB of disk, 17 GB of memory, an hour or two)
	$(CARGO) build --release --locked -p gossamer-gateway -p gossamer-loadtest
	$(CARGO) build --release --locked -p gossamer-testkit --bin gossamer-make-model
	$(CARGO) build --release --locked -p gossamer-engine --example speed
	$(PEERS_VENV)/bin/python bench-peers/bench_peers.py --work $(PEERS_WORK) --programs $(TARGET)/release $(PEERS)

$(PEERS_VENV)/.installed: bench-peers/requirements.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

eval: $(MODEL_VENV)/.installed ## Score the embedded model on held-out items and 1000 samples (makes .venv-model, with PyTorch)
	cd models/tiny && ../../$(MODEL_VENV)/bin/python eval.py --vocab $(VOCABULARY) --samples 1000

model: $(MODEL_VENV)/.installed ## Train the embedded model anew and put it into models/tiny (about an hour)
	cd models/tiny && ../../$(MODEL_VENV)/bin/python train.py --vocab $(VOCABULARY) --out build/tiny
	cd models/tiny && ../../$(MODEL_VENV)/bin/python export.py --out build/tiny --to .

# The vocabulary is in the source of a crate that the workspace depends on; recursive, because fetching comes first.
VOCABULARY = $(firstword $(wildcard $(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src/*/tiktoken-rs-*/assets/o200k_base.tiktoken))

$(MODEL_VENV)/.installed: models/tiny/requirements.txt
	$(CARGO) fetch --locked
	$(PYTHON) -m venv $(MODEL_VENV)
	$(MODEL_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf $(VENV) $(VENV)-clients $(PEERS_VENV) $(BROWSER_VENV) $(MODEL_VENV) openapi/node_modules tests/clients/*/node_modules
