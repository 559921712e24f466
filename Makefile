# Builds, shows, tests and installs Sluice. Each target installs or unpacks what it lacks (.ci/packages says which
# Debian packages, and why); all but `install` write only under target/.

CARGO ?= cargo
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= /lib/systemd/system
SYSUSERSDIR ?= /usr/lib/sysusers.d
DESTDIR ?=
DEMO_ARGS ?=
# What the demo's gateways run on: tun, af_xdp or auto.
LINK ?= tun
BENCH_ARGS ?=
ROLES := root cluster gateway

.PHONY: build demo test bench install uninstall fmt lint clean

build:
	@.ci/install build
	$(CARGO) build --release --locked -p sluice -p sluice-perf

demo: build
	@.ci/install run unpack
	target/release/sluice demo --link $(LINK) $(DEMO_ARGS)

# Everything that needs no root; `.ci/run netns` runs the rest.
test:
	@.ci/install build
	@.ci/test

bench: build
	@.ci/install run unpack bench
	@.ci/peer boringtun-cli gotatun >/dev/null
	@mkdir -p target/bench
	target/release/sluice-perf tun --json target/bench/tun.json $(BENCH_ARGS)
	target/release/sluice-perf engine --json target/bench/engine.json $(BENCH_ARGS)
	target/release/sluice-perf fastpath --json target/bench/fastpath.json $(BENCH_ARGS)
	target/release/sluice-perf tunnel --json target/bench/tunnel.json $(BENCH_ARGS)
	target/release/sluice-perf footprint --json target/bench/footprint.json $(BENCH_ARGS)
	target/release/sluice-perf control --json target/bench/control.json $(BENCH_ARGS)

# As root, or with DESTDIR. Starts nothing: `systemctl enable --now sluice-gateway` does.
install:
	@test -x target/release/sluice || { echo "run \`make build\` first, as yourself" >&2; exit 1; }
	install -D -m 755 target/release/sluice $(DESTDIR)$(PREFIX)/bin/sluice
	install -D -m 644 control/gateway/systemd/sluice.sysusers $(DESTDIR)$(SYSUSERSDIR)/sluice.conf
	install -d -m 755 $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSCONFDIR)/sluice
	for role in $(ROLES); do \
		sed 's|@PREFIX@|$(PREFIX)|; s|@SYSCONFDIR@|$(SYSCONFDIR)|' control/gateway/systemd/sluice-$$role.service \
			> $(DESTDIR)$(UNITDIR)/sluice-$$role.service || exit 1; \
	done
	test -e $(DESTDIR)$(SYSCONFDIR)/sluice/sluice.toml || \
		install -m 644 sluice.example.toml $(DESTDIR)$(SYSCONFDIR)/sluice/sluice.toml
	test -n "$(DESTDIR)" || ! command -v systemd-sysusers >/dev/null || systemd-sysusers sluice.conf
	test -n "$(DESTDIR)" || ! test -d /run/systemd/system || systemctl daemon-reload

# Leaves the configuration and /var/lib/sluice.
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/sluice $(DESTDIR)$(SYSUSERSDIR)/sluice.conf \
		$(foreach role,$(ROLES),$(DESTDIR)$(UNITDIR)/sluice-$(role).service)

fmt:
	$(CARGO) fmt --all

lint:
	@.ci/install build
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

clean:
	$(CARGO) clean
