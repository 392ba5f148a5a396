# Every recipe that people and CI use. `make` lists them.
.DEFAULT_GOAL := help
SHELL := bash

.PHONY: help
help: ## List the recipes
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.PHONY: demo
demo: ## Build, run the webhook on loopback, send it AdmissionReviews, show what it answers
	@cargo build --quiet --bin pullpass --example demo
	@target/debug/examples/demo target/debug/pullpass

.PHONY: test
test: ## Everything: lints, unit and integration tests, fuzz and bench at small scale, a real cluster
	@tests/run

.PHONY: unit
unit: ## The tests that need nothing but the toolchain
	cargo test --lib --bins --tests

.PHONY: cluster
cluster: tools ## The tests on a real Kubernetes node (root); FILTER=name for some of them
	cargo test --test cluster -- $(FILTER)

.PHONY: cluster-always-pull
cluster-always-pull: tools ## Those of them that pull, where the API server has AlwaysPullImages
	PULLPASS_CLUSTER_TRIALS=always-pull cargo test --test cluster -- $(FILTER)

.PHONY: cluster-install
cluster-install: tools ## The tests of the image, installed by Helm and by kubectl on a real node (root)
	@image/build native
	PULLPASS_CLUSTER_TRIALS=install cargo test --test cluster -- $(FILTER)

.PHONY: soak
soak: tools ## The tests on a real node that take long
	@image/build native
	PULLPASS_CLUSTER_TRIALS=soak cargo test --test cluster -- $(FILTER)

.PHONY: bench-cluster
bench-cluster: tools ## Measure on a real API server, beside peers, what Pods wait for and what delivery takes
	@image/build native
	@bench=$$(cargo bench --quiet --bench figures --no-run --message-format=json | \
	  sed -nE 's|.*"executable":"([^"]*/figures-[^"]*)".*|\1|p') && \
	PULLPASS_BENCH=$$bench PULLPASS_PROGRAM=$$(echo target/image/*/pullpass) \
	PULLPASS_CLUSTER_TRIALS=bench cargo test --test cluster -- --nocapture $(FILTER)

.PHONY: chart
chart: tools ## The tests of the Helm chart: rendered, validated, linted, its alerts tried out
	cargo test --test chart

.PHONY: chart-readme
chart-readme: tools ## Write the chart's README.md from the comments in its values.yaml
	@target/tools/bin/helm-docs --chart-search-root charts/pullpass --sort-values-order file --log-level warning

.PHONY: install-yaml
install-yaml: tools ## Write install.yaml, the chart with its defaults, for people without Helm
	@charts/render-install-yaml > install.yaml

.PHONY: tools
tools: ## Build the Go programs of the tests into target/tools/bin, once
	@tests/tools/build

.PHONY: bench
bench: ## Measure, print the table, write target/bench.json
	@cargo bench --bench figures

.PHONY: fuzz
fuzz: ## Fuzz every parser; SECONDS_EACH=600 for longer
	@fuzz/run $${SECONDS_EACH:-60}

.PHONY: lint
lint: ## Format check and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	# Not among all targets, because they are not run with every `cargo test`.
	cargo clippy --test cluster --test chart -- -D warnings

.PHONY: docs
docs: ## Build the documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

.PHONY: deny
deny: ## Licences, duplicate crates, sources
	@tests/tools/cargo-install cargo-deny
	target/tools/bin/cargo-deny check bans licenses sources

.PHONY: image
image: ## Build the container image for every platform, without a container engine, into target/image
	@image/build

.PHONY: clean
clean: ## Remove everything that was built
	cargo clean
