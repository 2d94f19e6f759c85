# Beeway: build, test, demo, bench. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
MAKEFLAGS += --no-builtin-rules

PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
CARGO_HOME ?= $(HOME)/.cargo
# rustup's place last: what the caller has in PATH goes first
export PATH := $(PATH):$(CARGO_HOME)/bin:/usr/sbin:/sbin

TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
STAMP := $(TARGET)/.setup

# make itself is found, or nothing here would run
PACKAGES := build run test

.PHONY: help setup build demo test fuzz bench lint install uninstall clean rust root kafka otlp

help: ## List the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' \
		| while IFS=$$'\t' read -r name what; do printf '  make %-10s %s\n' "$$name" "$$what"; done

setup: rust $(STAMP) ## Install the Debian packages that are missing

$(STAMP): .ci/packages | rust
	@.ci/packages $(PACKAGES)
	mkdir -p $(@D)
	touch $@

# what the tests of traces need
otlp: setup
	@.ci/otlp $(TARGET)/otlp

# what the tests of Kafka need
kafka: setup
	@.ci/kafka $(TARGET)/kafka

rust:
	@missing() {
		echo "$$1 is missing: install Rust 1.92 or newer with rustup (https://rustup.rs);" \
			"Debian's own is too old. Looked in PATH and $(CARGO_HOME)/bin." >&2
		exit 1
	}
	command -v cargo >/dev/null || missing cargo
	command -v rustc >/dev/null || missing rustc

root:
	@if (( EUID != 0 )); then
		echo "This makes network namespaces and loads kernel programs: run it as root," \
			"for example: sudo env PATH=\"\$$PATH\" make $(or $(MAKECMDGOALS),test)" >&2
		exit 1
	fi

build: setup ## Build the release binaries into target/release
	cargo build --locked --release --workspace --bins

demo: root build ## Run the demonstration: a shop of eight pods, real traffic, one minute
	@$(RELEASE)/beeway-demo

test: root setup kafka otlp ## Build everything, then run every test: kernel and traffic tests too
	cargo build --locked --workspace --all-targets
	cargo test --locked --workspace

fuzz: root setup ## Try random configurations in the kernel, or FUZZ=http, FUZZ=frames in the proxy
	@case "$(FUZZ)" in
	'') what="-p beeway-dataplane --test kernel differential" ;;
	http | frames) what="-p beeway-proxy --test fuzz $(FUZZ)" ;;
	*) echo "FUZZ is http or frames" >&2; exit 1 ;;
	esac
	BEEWAY_FUZZ=1 cargo test --locked $$what -- --nocapture

bench: root build ## Measure against no mesh and other proxies into bench/results (some 20 minutes)
	@.ci/packages bench
	$(RELEASE)/beeway-bench run

lint: setup ## Check format, clippy, licences and advisories
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	if ! command -v cargo-deny >/dev/null; then
		echo "licences not checked: cargo-deny is not installed (cargo install --locked cargo-deny)"
	else
		cargo deny --offline check licenses bans sources
		if ! cargo deny --offline check advisories; then
			echo "advisories not checked: no local copy of the database (cargo deny fetch)"
		fi
	fi

install: build ## Install binary, man page, completions and unit below PREFIX (/usr/local)
	@to=$(DESTDIR)$(PREFIX)
	install -D -s -m 755 $(RELEASE)/beeway "$$to/bin/beeway"
	install -d "$$to/share/man/man1" "$$to/share/bash-completion/completions" \
		"$$to/share/zsh/site-functions" "$$to/share/fish/vendor_completions.d" \
		"$$to/lib/systemd/system" $(DESTDIR)$(SYSCONFDIR)/beeway
	$(RELEASE)/beeway man > "$$to/share/man/man1/beeway.1"
	$(RELEASE)/beeway completions bash > "$$to/share/bash-completion/completions/beeway"
	$(RELEASE)/beeway completions zsh > "$$to/share/zsh/site-functions/_beeway"
	$(RELEASE)/beeway completions fish > "$$to/share/fish/vendor_completions.d/beeway.fish"
	sed -e 's|/usr/local|$(PREFIX)|g' -e 's|/etc/beeway|$(SYSCONFDIR)/beeway|g' deploy/beeway.service \
		> "$$to/lib/systemd/system/beeway.service"
	echo "installed below $$to; configuration goes to $(SYSCONFDIR)/beeway"
	echo "start it with: systemctl daemon-reload && systemctl enable --now beeway"

uninstall: ## Remove what install has put below PREFIX; the configuration stays
	@to=$(DESTDIR)$(PREFIX)
	rm -f "$$to/bin/beeway" "$$to/share/man/man1/beeway.1" \
		"$$to/share/bash-completion/completions/beeway" "$$to/share/zsh/site-functions/_beeway" \
		"$$to/share/fish/vendor_completions.d/beeway.fish" "$$to/lib/systemd/system/beeway.service"

clean: ## Remove everything that was built
	rm -rf $(TARGET)
