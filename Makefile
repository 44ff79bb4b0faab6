# make test is all there is to know; the rest are its parts. Needs Go; everything else it gets itself and says so.

GO          ?= go
STATICCHECK ?= honnef.co/go/tools/cmd/staticcheck@v0.7.0
FUZZTIME    ?= 15s
BENCHFLAGS  ?=

# Packages that need nothing but Go, and those that are programs for people.
UNIT     = $$($(GO) list ./... | grep -v -e '/itest' -e '/examples')
EXAMPLES = $(sort $(dir $(wildcard examples/[0-9]*/main.go)))
CACHE    = .cache

.DEFAULT_GOAL := help
.PHONY: help fmt lint gofmt vet staticcheck unit race examples run-examples kafka itest run-itest test conformance bench bench-quick bench-peers fuzz fuzz-state clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

fmt: ## format the code
	gofmt -w .

lint: gofmt vet staticcheck ## gofmt, vet, staticcheck, and the house's own rules
	$(GO) test ./internal/lint

gofmt:
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "not formatted (make fmt does it):"; echo "$$files"; exit 1; }

vet: ## go vet, of the chaos build too
	$(GO) vet ./...
	$(GO) vet -tags chaos ./...

staticcheck: ## staticcheck, fetched by the go command at a fixed version
	$(GO) run $(STATICCHECK) ./...

# Many tests wait for a broker's time-outs and not for the processor, hence -parallel.
unit: ## the fast loop: unit tests, without the race detector
	$(GO) test -parallel 8 -timeout 5m $(UNIT)

# Some tests repeat themselves hundreds of times on purpose (crashes of a store, random assignments); under the race
# detector they run their short form, in "unit" the long one.
race: ## unit tests with the race detector
	$(GO) test -race -short -timeout 12m $(UNIT)

examples: ## test every example, and run it as a newcomer would
	$(GO) test -timeout 5m ./examples/...
	@$(MAKE) --no-print-directory run-examples

run-examples:
	@mkdir -p $(CACHE)
	@for dir in $(EXAMPLES); do \
	  printf 'go run ./%s' "$${dir%/}"; began=$$(date +%s); \
	  timeout 300 $(GO) run "./$${dir%/}" </dev/null >$(CACHE)/example.log 2>&1 || { rc=$$?; echo ": exit $$rc"; tail -40 $(CACHE)/example.log; exit 1; }; \
	  echo ": done in $$(( $$(date +%s) - began )) s"; \
	done

kafka: ## a container engine and a Kafka image, where there are none
	@itest/kafka/up.sh

itest: kafka run-itest ## end to end, on the embedded broker and on a real Kafka

run-itest:
	$(GO) test -count=1 -p 1 -timeout 20m ./itest/...

# The engine and the image come while the unit tests run. Their output waits until it is needed, so that lines do not mix.
test: ## everything: lint, unit tests without and with the race detector, examples, end to end
	@echo "make test gets what is missing: Go modules, staticcheck ($(STATICCHECK)), and for the real Kafka a container engine and an image (itest/kafka/up.sh)"
	@mkdir -p $(CACHE); set -e; \
	itest/kafka/up.sh </dev/null >$(CACHE)/kafka.log 2>&1 & kafka=$$!; \
	$(MAKE) --no-print-directory lint; \
	$(MAKE) --no-print-directory unit; \
	$(MAKE) --no-print-directory race; \
	$(MAKE) --no-print-directory examples; \
	wait $$kafka || { cat $(CACHE)/kafka.log; exit 1; }; \
	cat $(CACHE)/kafka.log; \
	$(MAKE) --no-print-directory run-itest

conformance: ## run the acceptance cases of stateful processing and write docs/conformance.md
	$(GO) run ./cmd/conformance

bench: kafka ## all figures beside bare client loops, on one real broker; bench/RESULTS.md (half an hour)
	$(GO) run ./bench $(BENCHFLAGS)

bench-quick: kafka ## the main figures with a tenth of the records, written nowhere (three minutes)
	$(GO) run ./bench -quick $(BENCHFLAGS)

# Needs a JDK and Maven for Kafka Streams and Flink; without them it says so and measures the rest.
bench-peers: kafka ## beside Kafka Streams, Flink and the Go libraries, on the same broker in the same run (three quarters of an hour)
	$(GO) run ./bench -peers -only pass,count,large,latency,start,restore -rates 20000 $(BENCHFLAGS)

fuzz: ## every fuzz target for FUZZTIME (15s)
	@set -e; grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
	  for target in $$(grep -h '^func Fuzz' "$$dir"/*_test.go | sed 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/'); do \
	    echo "$$dir $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "$$dir" </dev/null; \
	  done; \
	done

fuzz-state: ## a million random operations on every kind of state, with crashes and aborts, against plain maps
	MILLRACE_STATE_OPS=1000000 $(GO) test -count=1 -timeout 60m -run '^TestModelState$$' -v ./store

clean: ## what was built, and brokers that tests left behind
	rm -rf bin $(CACHE) state
	find . -name '*.test' -o -name '*.prof' | xargs -r rm -f
	@if command -v docker >/dev/null 2>&1; then docker ps -aq --filter label=io.millrace.test=kafka 2>/dev/null | xargs -r docker rm -f -v >/dev/null; fi
