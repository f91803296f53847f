# Everything that is run by hand or by CI. `make` alone prints this list.
SHELL := /bin/bash
export CGO_ENABLED := 0
BIN := bin/cocoon
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 30s
CRASH_ROUNDS ?= 1000
POWERCUTS ?= 4
BITFLIPS ?= 1000000
MODELS ?= 1000

.PHONY: help build test race demo lint bench bench-vmm fuzz nightly crash pairs faults powercuts strace-faults bitflips models clean

help: ## print this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/cocoon (static) and the simulator bin/cocoon-chsim
	@test -x $(BIN) || echo "building bin/cocoon: the first time takes a minute or two" >&2
	@go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/cocoon
	@go build -trimpath -o bin/cocoon-chsim ./internal/test/chsnaptest/cmd/cocoon-chsim

test: build ## run every test (needs Go and root); what was skipped or failed, and why, stands at the end
	go tool gotestsum --format pkgname -- -timeout 40m ./...

# What is counted: the product, in every process that the tests start.
COVERED = $(shell go list ./... | grep -vE '/internal/(test/|engine/demo$$)' | paste -sd,)
COVER := $(CURDIR)/bin/cover
PKGS ?= ./...
RUN ?= .
.PHONY: cover
cover: ## which statements the tests run, child processes counted: into docs/coverage.md where all are run (PKGS=./... RUN=.)
	@rm -rf $(COVER) && mkdir -p $(COVER)
	@set -o pipefail; rc=0; COCOON_TEST_VMM=sim go test -exec 'env GOCOVERDIR=$(COVER)' -count=1 -timeout 120m -cover -coverpkg=$(COVERED) -run '$(RUN)' $(PKGS) \
	  -args -test.gocoverdir=$(COVER) 2>&1 | grep -v '^warning: no packages' | sed 's/\tcoverage: .*//; /^coverage: /d' || rc=$$?; \
	go tool covdata percent -pkg=$(COVERED) -i=$(COVER) | sed -nE 's|^\s*github.com/cocoonv2/(cocoon\S*)\s+coverage: (\S+)% of statements|\2 \1|p' | sort -k2 >$(COVER).txt; \
	go tool covdata textfmt -pkg=$(COVERED) -i=$(COVER) -o $(COVER).out; \
	go tool cover -func=$(COVER).out | awk '$$1 == "total:" {sub("%", "", $$3); print $$3, "all"}' >>$(COVER).txt; cat $(COVER).txt; \
	if [[ '$(PKGS) $(RUN)' == './... .' ]]; then sed -i '/^| [0-9]/d; s/^Counted: .*/Counted: every test that `make test` runs./' docs/coverage.md && awk '{printf "| %s | %s |\n", $$1, $$2}' $(COVER).txt >>docs/coverage.md; fi; exit $$rc

race: ## the tests of the concurrent rooms under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -timeout 40m -race -short ./store/... ./refs/... ./gc/... ./chsnap/... ./restore/... ./network/... ./internal/...

demo: build ## the whole job in front of you: save a running VM, remove it, rebuild it, collect
	@$(BIN) demo

lint: ## vet, staticcheck, gofumpt, import floors
	go vet ./...
	go tool staticcheck ./...
	@out=$$(go tool gofumpt -l .); if [ -n "$$out" ]; then echo "not gofumpt-formatted:"; echo "$$out"; exit 1; fi
	go test -run TestImportsOnlyPointDown ./internal/test/layout

bench: build ## figures of docs/benchmarks.md: whole commands against their yardsticks, then Go benchmarks
	go run ./internal/test/bench -cocoon $(BIN)
	go test -run '^$$' -bench . -benchtime 1x -timeout 20m ./store/... ./refs ./gc ./network

# Peers come by exact version or from Debian, and stay outside the tree.
PEERS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cocoon-peers
.PHONY: bench-peers
bench-peers: build ## against restic, borg, casync and zstd: generated images, or IMAGES=a.raw,b.raw
	@need=; for p in borg:borgbackup casync:casync zstd:zstd; do \
	  command -v $${p%:*} >/dev/null || need="$$need $${p#*:}"; done; \
	  if [[ -n $$need ]]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$need; fi
	GOBIN=$(PEERS) go install github.com/restic/restic/cmd/restic@v0.18.1
	go run ./internal/test/bench -cocoon $(BIN) -bytes 1073741824 -peers -restic $(PEERS)/restic -images '$(IMAGES)'

.PHONY: curves
curves: build ## draw docs/curves: cost against RAM size, number of snapshots, generations
	go run ./internal/test/bench -cocoon $(BIN) -runs 3 -curves docs/curves

bench-vmm: build ## what guests notice of captures, on the real Cloud Hypervisor (needs it, KVM and root)
	go run ./internal/test/benchvmm -cocoon $(BIN)

.PHONY: linux-guests
linux-guests: build ## ten scenarios with Debian guests on an emulated host, some 30 minutes (needs mmdebstrap and QEMU)
	go run ./internal/test/linuxguests -cocoon $(BIN)

fuzz: ## each fuzz target for FUZZTIME (30s, or a number of inputs: 300x); goes on behind one that fails
	@failed=; for d in $$(git ls-files '*_test.go' | xargs grep -l '^func Fuzz' | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$d/*_test.go | sed 's/func //'); do \
	    echo "== $$d $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./$$d || failed="$$failed $$d:$$f"; done; done; \
	  if [[ -n $$failed ]]; then echo "failed:$$failed"; exit 1; fi

nightly: FUZZTIME = 10m
nightly: ## all of the long suites, one after the other: fuzz (FUZZTIME=10m) crash pairs faults powercuts strace-faults bitflips models
	@failed=; for t in fuzz crash pairs faults powercuts strace-faults bitflips models; do \
	  echo "==== $$t, $$(date -u +%FT%TZ)"; $(MAKE) --no-print-directory $$t FUZZTIME=$(FUZZTIME) || failed="$$failed $$t"; done; \
	  if [[ -n $$failed ]]; then echo "failed:$$failed"; exit 1; fi

crash: build ## SIGKILLs at every named step and at random, then verify (CRASH_ROUNDS=1000)
	COCOON_TEST_ON_DISK=1 COCOON_CRASH_ROUNDS=$(CRASH_ROUNDS) go test -count=1 -timeout 60m -v -run 'Kill|Crash' ./store/... ./gc/... ./restore/... ./internal/... ./cmd/cocoon

pairs: build ## each command held at each of its steps beside each other command
	COCOON_PAIRS=1 go test -count=1 -timeout 120m -v -run TestPairs ./cmd/cocoon

faults: build ## every call that changes a store, plain or encrypted, fails once: EIO, ENOSPC, short write
	COCOON_FAULTS=1 go test -count=1 -timeout 120m -v -run TestFaults ./cmd/cocoon

powercuts: build ## the power is cut after every call that changes a store, plain or encrypted (POWERCUTS=4 random parts each)
	COCOON_POWERCUTS=$(POWERCUTS) go test -count=1 -timeout 120m -v -run TestPowerCuts ./cmd/cocoon

strace-faults: build ## every N-th fsync, rename, write and unlink fails or kills, by strace
	COCOON_STRACE=1 go test -count=1 -timeout 60m -v -run TestStraceFaults ./cmd/cocoon

bitflips: ## BITFLIPS=1000000 single bits flipped in packs, maps, manifests, the index and journals
	COCOON_BITFLIPS=$(BITFLIPS) go test -count=1 -timeout 120m -v -run BitFlips ./internal/test/storetest ./restore

models: ## random sequences of steps beside a model of what must hold (MODELS=1000 of each)
	COCOON_TEST_ON_DISK=1 go test -count=1 -timeout 120m -v -run Model ./gc -rapid.checks $(MODELS)

.PHONY: redteam
REDTEAM ?= 1000
redteam: build ## forged snapshots, neighbours' stores and half-mounted folders, watched by the kernel (REDTEAM=1000 forgeries)
	COCOON_REDTEAM=$(REDTEAM) go test -count=1 -timeout 120m -v -run 'TestRedTeam|Hostile|TestImagesAreShared|TestScripts/(foreign|transfer)' ./cmd/cocoon
	go test -count=1 ./internal/engine/registry/... ./internal/base/private ./internal/base/runfolder ./internal/base/owner ./internal/engine/vm ./store ./store/pack -run 'Hostile|Refuse|Lie|Lying|Redirect|Archive|Tar|Bomb|Spliced|Forged|Agree|Sealed|Of(Others|SomebodyElse)|Elsewhere|Promised|HeldTo|Copy|Entry'

clean: ## remove what build made
	rm -rf bin
