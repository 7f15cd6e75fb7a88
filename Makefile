# Targets are listed by `make help`. Anything longer than a few lines is in hack/.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The same build everywhere, whatever the shell that calls make has set.
export GOFLAGS := -mod=readonly -buildvcs=false
export GOWORK := off

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# Images are $(REGISTRY)/weir:$(VERSION), …
REGISTRY ?= ghcr.io/weirmesh

FUZZTIME ?= 30s
SOAK     ?= 30m
ROUNDS   ?= 200
SEED     ?=
BENCH    ?= .
ARGS     ?=

WEB     := dashboard/web
WEB_SRC := $(shell find $(WEB) -type f -not -path '*/node_modules/*' -not -path '*/dist/*')

.PHONY: help
help: ## list the targets
	@echo "Weir, a service mesh whose telemetry is an event stream. Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: dashboard ## build bin/weir and bin/weir-proxy, static and stripped
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/weir ./cmd/weir-proxy

.PHONY: demo
demo: build ## run a whole mesh with a sample application on this machine (ARGS='--rate 10')
	@exec bin/weir demo $(ARGS)

.PHONY: images
images: dashboard ## write the images of weir, weir-proxy and the sample application to bin/images
	@REGISTRY='$(REGISTRY)' VERSION='$(VERSION)' COMMIT='$(COMMIT)' hack/images.sh

.PHONY: dashboard
dashboard: $(WEB)/dist/index.html ## build the dashboard's pages, where there is Node 20 or newer

# Without Node the binaries are whole but for these pages; the dashboard then
# serves one that says how to build them.
$(WEB)/dist/index.html: $(WEB_SRC)
	@hack/dashboard.sh build

.PHONY: test
test: test-deps ## run every test, twice: plain and with the race detector; install what that needs
	@hack/test.sh

.PHONY: test-deps
test-deps: ## see to what the tests need: a C compiler (race detector) and Chromium
	@hack/test-deps.sh

.PHONY: test-cluster
test-cluster: dashboard ## run the tests on a real Kubernetes cluster, started for them (root; ARGS='-run TestPods')
	@hack/test-cluster.sh $(ARGS)

.PHONY: cluster-up
cluster-up: images ## start a Kubernetes cluster on this machine, with Weir's images (root; first time 10 min)
	@hack/cluster.sh up bin/images/*.tar

.PHONY: kubectl
kubectl: ## use that cluster (ARGS='get pods -A')
	@hack/cluster.sh kubectl -- $(ARGS)

.PHONY: cluster-down
cluster-down: ## end it; nothing is left
	@hack/cluster.sh down

.PHONY: lint
lint: ## run golangci-lint, built from tools/lint, over all modules (ARGS='--fix')
	@hack/lint.sh $(ARGS)

.PHONY: generate
generate: ## write what is generated: from .proto files, and the chart's values
	@hack/generate.sh

.PHONY: verify-generate
verify-generate: ## fail if `make generate` would change anything
	@hack/generate.sh --verify

.PHONY: deps
deps: ## write cmd/weir-proxy/deps.txt, the reviewed list of what the proxy links
	go test . -run '^TestProxyLinks$$' -count=1 -update-deps
	@git --no-pager diff --stat -- cmd/weir-proxy/deps.txt

.PHONY: bench
bench: ## run the benchmarks (BENCH=regexp)
	go test ./... -run '^$$' -bench '$(BENCH)' -benchmem

.PHONY: bench-proxy
bench-proxy: build ## compare the proxy with nginx and haproxy (20 min; BENCH_ONLY=h1-32)
	@hack/bench-proxy.sh

.PHONY: bench-telemetry
bench-telemetry: build ## compare the telemetry pipeline with the OpenTelemetry Collector (15 min; BENCH_SUSTAIN=600)
	@hack/bench-telemetry.sh compare

.PHONY: simulate
simulate: build ## play the proxies of 10,000 pods for a real bus and aggregators, for docs/capacity.md (3 min)
	@hack/bench-telemetry.sh simulate

.PHONY: soak
soak: test-deps ## mixed load on a pair of proxies for SOAK (30m), and their memory
	SOAK='$(SOAK)' go test ./e2e/conformance -run '^(TestSoak|TestMemory)$$' -count=1 -v -timeout 24h

.PHONY: chaos
chaos: test-deps ## kill, pause, cut off and fill up a mesh under load, 200 rounds (root; 15 min; ROUNDS=20 SEED=7 FAULTS='fill disk,kill bus')
	WEIR_CHAOS_ROUNDS='$(ROUNDS)' WEIR_CHAOS_SEED='$(SEED)' WEIR_CHAOS_FAULTS='$(FAULTS)' go test ./e2e -run '^TestChaos$$' -count=1 -v -timeout 24h

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	@hack/fuzz.sh '$(FUZZTIME)'

.PHONY: size
size: build ## print the binaries' sizes; fail if the proxy has grown past its budget
	@hack/size.sh

.PHONY: clean
clean: ## remove what was built (tools, binaries, pages, artifacts)
	rm -rf bin artifacts $(WEB)/node_modules
	find $(WEB)/dist -mindepth 1 -not -name .gitkeep -delete
