# Everything a contributor runs. `make help` is made from the ## comments.

FUZZTIME ?= 10s
VERSION ?= v0.0.0-snapshot

.DEFAULT_GOAL := help
.PHONY: help build test chaos receipts lint ci fuzz bench deploy release clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build bin/bridge8x8
	CGO_ENABLED=0 go build -trimpath -o bin/bridge8x8 ./cmd/bridge8x8

test: ## Run every test, with the race detector
	go test -race ./...

chaos: ## Kill bridges, servers and leaders for about ten minutes (the tests do it for one)
	BRIDGE_CHAOS=long go test -count=1 -v -parallel 1 -timeout 60m ./bridge/chaos

receipts: ## 2,000 messages' receipts across a restart, and NATS away for 100 s of 8x8's repeats
	BRIDGE_CHAOS=long go test -count=1 -v -timeout 20m -run '^(TestReceiptsAcrossARestart|TestNATSAwayWhile8x8Repeats)$$' ./bridge/app

lint: ## Check format, vet and lint (golangci-lint comes with make ci)
	@.ci/run lint

ci: ## Run what CI runs
	@.ci/run

fuzz: ## Fuzz each decoder for FUZZTIME (10s)
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | while IFS=: read -r file func; do \
		go test -run '^$$' -fuzz "^$${func#func }\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" || exit 1; \
	done

bench: ## Run the benchmarks
	go test -run '^$$' -bench . -benchmem ./...

deploy: ## Test what is shipped: image, packages, chart, manifests, examples
	cd deploy && go test ./...

release: ## Build a release into bin/release, as VERSION=vX.Y.Z, and publish nothing
	cd deploy && go run ./release -version $(VERSION) -out ../bin/release

clean: ## Remove what build and tests left behind
	rm -rf bin
	go clean -testcache
