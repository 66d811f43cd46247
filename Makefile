# jwtunnel: build, run, test. `make` alone shows the targets.

# The cargo profile of `make build`: release for use, quick (release without LTO) for tests.
PROFILE ?= release
PREFIX  ?= /usr
# Where the results go.
BUILD   ?= build
DESTDIR ?=
# Which nginx the module is built for: Debian's, which is installed, or vendored, the nginx-src crate's copy.
NGINX_FLAVOUR ?= debian

target_dir := $(or $(CARGO_TARGET_DIR),target)
# With both set by the caller nothing is prepared.
ifneq ($(and $(NGINX_SOURCE_DIR),$(NGINX_BUILD_DIR)),)
nginx_env :=
else
nginx_env = env $$(scripts/nginx-source.sh $(NGINX_FLAVOUR))
endif
# The feature keeps both builds of nginx-sys in one target folder, beside the rest, which they share.
nginx_features := $(if $(filter vendored,$(NGINX_FLAVOUR)),--features ngx_http_jwt_module/vendored)

# For lists in ONLY.
comma := ,

.DEFAULT_GOAL := help
.PHONY: help build module daemon run test test-long fuzz memcheck check deny bench install clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: module daemon ## leave the module, the daemon and the command line in build/

module: ## only build/ngx_http_jwt_module.so
	@scripts/packages.sh build
	$(nginx_env) cargo build --locked --profile $(PROFILE) -p ngx_http_jwt_module $(nginx_features)
	@install -D -m 0755 $(target_dir)/$(PROFILE)/libngx_http_jwt_module.so $(BUILD)/ngx_http_jwt_module.so

daemon: ## only build/jwtunneld and build/jwtunnel
	@scripts/packages.sh build
	cargo build --locked --profile $(PROFILE) -p jwtunnel
	@install -D -m 0755 -t $(BUILD) $(target_dir)/$(PROFILE)/jwtunneld $(target_dir)/$(PROFILE)/jwtunnel

run: ## start the whole gateway and show what to try; ONCE=1 checks itself and stops
	@scripts/packages.sh run
	@$(MAKE) --no-print-directory build PROFILE=quick
	@ONCE=$(ONCE) scripts/run.sh

test: ## all tests, with nginx in Docker (NGINX=host: the installed nginx)
	@scripts/packages.sh test
	@$(MAKE) --no-print-directory build PROFILE=quick
	@scripts/test.sh

test-long: ## faults at the whole size of their requirements (takes hours; ONLY=f24,…)
	@NGINX=host scripts/packages.sh test
	@$(MAKE) --no-print-directory build PROFILE=quick
	@ONLY=$(ONLY) scripts/test-long.sh

fuzz: ## what reads untrusted bytes, under libFuzzer, FUZZ_TIME=60 seconds each (ONLY=token,…)
	@scripts/packages.sh build
	@FUZZ_TIME=$(FUZZ_TIME) scripts/fuzz.sh $(subst $(comma), ,$(ONLY))

memcheck: ## the module's tests with nginx under valgrind (takes minutes)
	@NGINX=host scripts/packages.sh memcheck
	@$(MAKE) --no-print-directory build PROFILE=quick
	@scripts/memcheck.sh

# With the profile of the tests, so that the C library behind the signatures is compiled once for both.
check: ## formatting, clippy, rustdoc, shell scripts, licences and sources
	@scripts/packages.sh check
	cargo fmt --all --check
	$(nginx_env) cargo clippy --locked --profile quick --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(nginx_env) cargo doc --locked --profile quick --workspace --no-deps --document-private-items --quiet
	shellcheck scripts/*.sh .ci/run
	@$(MAKE) --no-print-directory deny

deny: ## licences, bans and sources of the dependencies
	@scripts/deny.sh

bench: ## speed side by side with others, against the budgets (ONLY=row,… LONG=1 QUICK=1 STRICT=1 CONGESTION=cubic)
	@scripts/packages.sh build
	cargo build --locked --profile $(PROFILE) -p jwtunnel-bench
	@JWTUNNEL_BUILD_DIR=$(abspath $(BUILD)) JWTUNNEL_BENCH=$(target_dir)/$(PROFILE)/bench PROFILE=$(PROFILE) \
		ONLY=$(ONLY) LONG=$(LONG) QUICK=$(QUICK) STRICT=$(STRICT) PAIRS=$(PAIRS) LEG=$(LEG) CONGESTION=$(CONGESTION) scripts/bench.sh

install: ## install under DESTDIR/PREFIX what `make build` has left
	install -D -m 0644 $(BUILD)/ngx_http_jwt_module.so $(DESTDIR)$(PREFIX)/lib/nginx/modules/ngx_http_jwt_module.so
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(BUILD)/jwtunneld $(BUILD)/jwtunnel
	@# What an operator has written stays, with its mode.
	[ -e $(DESTDIR)/etc/jwtunnel/jwtunneld.toml ] || \
		install -D -m 0644 conf/jwtunneld.toml $(DESTDIR)/etc/jwtunnel/jwtunneld.toml
	install -D -m 0644 conf/jwtunneld.service $(DESTDIR)$(PREFIX)/lib/systemd/system/jwtunneld.service

clean: ## remove what was built
	rm -rf $(BUILD)
	cargo clean
