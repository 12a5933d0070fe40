# What a developer types. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

CACHE := $(or $(VMAIL_CACHE),$(HOME)/.cache/vmail-operator)
CLUSTER := tests/cluster/cluster
CHART := charts/vmail-operator

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(CACHE)/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny

CARGO_CYCLONEDX_VERSION := 0.5.9
CARGO_CYCLONEDX := $(CACHE)/cargo-cyclonedx-$(CARGO_CYCLONEDX_VERSION)/bin/cargo-cyclonedx

# The last line of a recipe: what it was, and for how many seconds it ran.
done = printf '== %s: %s s\n' '$@' "$$SECONDS"

.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

## Those that need nothing else, but root, Rust and Go.

.PHONY: demo
demo: install ## Local cluster, PowerDNS, chart and examples; a message by SMTP; leaves all running
	@tests/cluster/demo
	$(done)

.PHONY: test
test: install ## Every layer of the tests, against real parts
	@tests/run
	$(done)

.PHONY: fuzz
fuzz: install ## Generated sets of objects in large numbers, through the rules and a real Postfix; ten minutes
	@VMAIL_CASES=20000 cargo test --locked --test directory -- --nocapture properties
	VMAIL_OBJECTS=100000 cargo test --locked --test directory -- --nocapture --test-threads=1 large
	VMAIL_SETS=400 cargo test --locked --test postfix -- --nocapture generated
	$(done)

.PHONY: faults
faults: install ## Crash the operator at every write, disturb its answers and views, spoil a live cluster; an hour
	@tests/run-faults
	$(done)

.PHONY: bench
bench: install ## Latency, scale and throughput on real parts, into docs/benchmarks.md; an hour
	@benches/run
	$(done)

.PHONY: release
release: install $(CARGO_CYCLONEDX) ## Both images, the chart, lists of what is in them, checksums: into dist/
	@CARGO_CYCLONEDX='$(CARGO_CYCLONEDX)' images/release dist
	$(done)

## The local cluster.

.PHONY: install
install: need-cargo need-go
	@$(CLUSTER) install
	$(done)

.PHONY: images
images: install ## Build the two container images, and load them into the local cluster
	@cargo build --release --locked
	$(CLUSTER) images "$${CARGO_TARGET_DIR:-target}/release/vmail-operator"
	$(done)

.PHONY: shell
shell: ## A shell in the local cluster, with kubectl, helm and dig
	@exec $(CLUSTER) shell

.PHONY: clean
clean: ## Take the local cluster away
	@$(CLUSTER) down
	$(done)

.PHONY: distclean
distclean: clean ## Also what was built: target/ and the cache
	@rm -rf target '$(CACHE)'
	$(done)

## The source.

.PHONY: build
build: need-cargo ## Compile
	@cargo build --locked
	$(done)

.PHONY: crds
crds: need-cargo ## Write the custom resource definitions from the types in src/api
	@definitions=$$(cargo run --quiet --locked -- crds)
	rm -f crds/*.yaml $(CHART)/files/crds/*.yaml
	crds/split crds <<<"$$definitions"
	cp crds/*.yaml $(CHART)/files/crds/
	$(done)

.PHONY: api-reference
api-reference: need-cargo ## Write docs/api.md from the types in src/api
	@cargo run --quiet --locked -- api-reference >docs/api.md
	$(done)

.PHONY: metrics-reference
metrics-reference: need-cargo ## Write docs/metrics.md from the metrics in the source
	@cargo run --quiet --locked -- metrics-reference >docs/metrics.md
	$(done)

.PHONY: values-reference
values-reference: ## Write docs/values.md from the chart's values
	@charts/values-reference >docs/values.md
	$(done)

.PHONY: check
check: check-fmt check-clippy check-deny check-crds check-api-reference check-metrics-reference check-values-reference check-links check-chart check-monitoring ## Everything about the source but the tests

.PHONY: check-fmt
check-fmt: need-cargo
	@cargo fmt --check
	$(done)

.PHONY: check-clippy
check-clippy: need-cargo
	@cargo clippy --locked --all-targets -- --deny warnings
	$(done)

.PHONY: check-deny
check-deny: $(CARGO_DENY)
	@$(CARGO_DENY) --locked check bans licenses sources
	$(done)

.PHONY: check-crds
check-crds: need-cargo
	@fresh=$$(mktemp -d)
	trap 'rm -rf "$$fresh"' EXIT
	cargo run --quiet --locked -- crds | crds/split "$$fresh"
	for committed in crds $(CHART)/files/crds; do
	  diff -u --recursive --exclude=split "$$committed" "$$fresh" ||
	    { echo "$$committed is not what src/api says: run \`make crds\`" >&2; exit 1; }
	done
	$(done)

.PHONY: check-api-reference
check-api-reference: need-cargo
	@diff -u docs/api.md <(cargo run --quiet --locked -- api-reference) ||
	  { echo 'docs/api.md is not what src/api says: run `make api-reference`' >&2; exit 1; }
	$(done)

.PHONY: check-metrics-reference
check-metrics-reference: need-cargo
	@diff -u docs/metrics.md <(cargo run --quiet --locked -- metrics-reference) ||
	  { echo 'docs/metrics.md is not what the source says: run `make metrics-reference`' >&2; exit 1; }
	$(done)

.PHONY: check-values-reference
check-values-reference:
	@diff -u docs/values.md <(charts/values-reference) ||
	  { echo 'docs/values.md is not what values.yaml says: run `make values-reference`' >&2; exit 1; }
	$(done)

.PHONY: check-links
check-links:
	@docs/check-links
	$(done)

.PHONY: check-monitoring
check-monitoring:
	@charts/check-monitoring
	$(done)

.PHONY: check-release
check-release: install $(CARGO_CYCLONEDX)
	@CARGO_CYCLONEDX='$(CARGO_CYCLONEDX)' images/check-release
	$(done)

.PHONY: check-chart
check-chart: need-go
	@charts/check
	$(done)

.PHONY: advisories
advisories: $(CARGO_DENY) ## Known vulnerabilities in dependencies (needs the network)
	@$(CARGO_DENY) --locked check advisories
	$(done)

## Tools.

# Without optimisation: they compile sooner, and run for two seconds all the same.
$(CARGO_DENY) $(CARGO_CYCLONEDX): | need-cargo
	@directory='$(patsubst %/bin/,%,$(dir $@))'
	tool='$(notdir $@)'
	version=$${directory##*-}
	echo "building $$tool $$version (once, a few minutes)"
	mkdir -p '$(CACHE)'
	env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 nice cargo install --quiet --locked --debug \
	  "$$tool" --version "$$version" --root "$$directory"
	$(done)

.PHONY: need-cargo
need-cargo:
	@command -v cargo >/dev/null ||
	  { echo 'Rust is missing: install it by https://rustup.rs, version 1.89 or newer' >&2; exit 1; }

.PHONY: need-go
need-go:
	@command -v "$${GO:-go}" >/dev/null ||
	  { echo 'Go is missing, and the local cluster is built from its modules: install it by https://go.dev/dl, or point GO at it' >&2; exit 1; }
