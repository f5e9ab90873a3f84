# make build | test | demo | lab | proof | bench | fuzz | sanitize | mutants | coverage | deny | lint | install | deb | rpm | dist-check | clean — see README.md

CARGO ?= cargo
HOST   = $(shell rustc -vV | sed -n 's/^host: //p')

# The C library that is linked in. musl's start leaves the processor alone; glibc's asks it 43 times what it is, and in a
# virtual machine each time the host has to answer: a quarter of a start whose ports are free. LIBC=gnu is for a Rust without
# a standard library for musl.
LIBC   ?= musl
export LIBC
ifneq ($(LIBC),musl)
ifneq ($(LIBC),gnu)
$(error LIBC=$(LIBC): musl or gnu)
endif
endif
TRIPLE  = $(if $(filter musl,$(LIBC)),$(subst -gnu,-musl,$(HOST)),$(HOST))
# All tests are linked with it as well, so that everything is compiled once.
TEST    = $(CARGO) test --locked --target $(TRIPLE)
BINARY = target/release/portguard

# The release on which the proof is part of the tests; make proof PROOF= takes all four.
PROOF ?= bookworm::

.PHONY: build std test unit lab proof demo bench fuzz sanitize mutants coverage deny lint tools clean

# A copy, as what is installed will be: the linker writes its file in small pieces, and as long as they are in the page
# cache as such, a start takes a tenth longer.
#
# The tests' own builds do unwind, so what leaves the tables out is here and not in .cargo/config.toml.
SMALL = "-Clink-arg=-Wl,-T,packaging/no-unwinding.ld","-Clink-arg=-Wl,--no-eh-frame-hdr"

# Each of them would take the place of all flags that are set here and in .cargo/config.toml: a distribution's RUSTFLAGS
# make a dynamic binary that is a tenth larger, and says nothing about it.
FLAGS_OF_OTHERS = RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS \
	CARGO_TARGET_$(shell echo $(TRIPLE) | tr a-z- A-Z_)_RUSTFLAGS

build: std
	$(CARGO) fetch --locked --quiet --target $(TRIPLE)
	env $(addprefix -u ,$(FLAGS_OF_OTHERS)) \
		$(CARGO) build --release --locked --target $(TRIPLE) --config 'build.rustflags=[$(SMALL)]' --config "build.rustflags=[$(REMAP)]"
	@sections=$$(LC_ALL=C readelf --program-headers --section-headers --wide target/$(TRIPLE)/release/portguard) || exit 1; \
		case $$sections in *INTERP*|*.eh_frame_hdr*|*.gcc_except_table*) \
		echo "it is not static, or has tables to unwind its stack: other flags have taken the place of those in" \
			".cargo/config.toml and Makefile (target.*.rustflags in a config.toml of cargo?), or the linker is not" \
			"GNU ld or lld"; exit 1;; esac
	install -D -m 755 target/$(TRIPLE)/release/portguard $(BINARY)
	@$(BINARY) --version >/dev/null || { echo "it does not start: see .cargo/config.toml for what it has to be built with"; exit 1; }

std:
	@[ -d "$$(rustc --print sysroot)/lib/rustlib/$(TRIPLE)" ] || rustup target add $(TRIPLE) || \
		{ echo "no standard library of Rust for $(TRIPLE): install it, or build with make LIBC=gnu"; exit 1; }

# Every test: of the parts, and on real systemds. None is skipped; a lab that cannot be had is a failure.
test: tools build packages unit
	PORTGUARD_UNDER_TEST=$(CURDIR)/$(BINARY) $(TEST) --test budget --test killed
	$(TEST) --test packages --test security
	$(MAKE) package-lint
	$(MAKE) proof
	PORTGUARD_UNDER_TEST=$(CURDIR)/$(BINARY) $(TEST) --test demo
	PORTGUARD_UNDER_TEST=$(CURDIR)/$(BINARY) $(TEST) --test lab

# With the C library of the release.
unit: std
	$(TEST) --lib

# make lab ARGS=trixie::leftover   runs what matches
lab: tools build deb next-deb
	PORTGUARD_UNDER_TEST=$(CURDIR)/$(BINARY) $(TEST) --test lab -- $(ARGS)

# A test that passes without a guard tests nothing: with /bin/true in its place, every scenario must fail.
# Most of them wait for it in vain then, so there are more at once.
proof: tools build deb next-deb
	$(TEST) --no-run --test lab --test budget --test killed
	! PORTGUARD_UNDER_TEST=true $(TEST) --test lab -- --test-threads 8 $(PROOF) >target/proof.log 2>&1
	! grep -E 'cannot boot|the lab needs' target/proof.log
	$(ALL_FAILED)
	! PORTGUARD_UNDER_TEST=true $(TEST) --test budget >target/proof.log 2>&1
	$(ALL_FAILED)
	! PORTGUARD_UNDER_TEST=true $(TEST) --test killed >target/proof.log 2>&1
	$(ALL_FAILED)

ALL_FAILED = @sed -n 's/^test result: FAILED. 0 passed; \([1-9][0-9]*\) failed.*/proof: all \1 fail without a guard, as they must/p' target/proof.log | grep .

# The main job on a real systemd, with the real journal.
demo: tools build
	PORTGUARD_UNDER_TEST=$(CURDIR)/$(BINARY) $(TEST) --quiet --test demo

# What it costs, against what is used instead. KILLPORT=1 builds killport as well; GROWTH=1 goes on to ten full hosts;
# TIMES=told measures less often, and holds it to all bounds but those of times, and to half of the ratios that are far from theirs,
# for a machine that does other things as well.
bench: build
	@tests/lab/tools bench
	$(if $(KILLPORT),$(CARGO) install --quiet --locked --root target/bench-tools killport@2.0.2)
	PATH="$(CURDIR)/target/bench-tools/bin:$$PATH" GROWTH=$(GROWTH) TIMES=$(TIMES) PORTGUARD_UNDER_TEST=$(CURDIR)/$(BINARY) \
		$(CARGO) bench --locked --target $(TRIPLE) --profile dev --bench host

# FUZZ_SECONDS=600 a target instead of 60, FUZZ_JOBS=2 at a time instead of 1, TARGET=policy alone. The seeds are
# replayed by make unit as well.
fuzz:
	FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_JOBS=$(FUZZ_JOBS) TARGET=$(TARGET) fuzz/run

# What the compiler cannot prove: the unit tests under AddressSanitizer, all of them (what a test leaves to its end is no
# fault, nor what a child of it has copied), and under Miri those of the pure
# parts and what of src/sys.rs Miri has. It knows no getauxval(3), kcmp(2), open_by_handle_at(2), sigaction(2), no
# processes and no cgroups; the rest of src/sys.rs is under AddressSanitizer alone.
MIRI = sys::no_name_service model:: timespan policy::expand policy::error ledger::tests::text ledger::tests::torn observe::sock_diag::codec \
	--skip no_name_is_looked_up --skip the_kernel_says

sanitize:
	@rustup run nightly rustc --version || rustup toolchain install nightly --profile minimal
	@rustup component add --toolchain nightly miri rust-src
	ASAN_OPTIONS=detect_leaks=0 RUSTFLAGS=-Zsanitizer=address $(CARGO) +nightly test --locked --target $(HOST) --target-dir target/sanitize/address --lib
	MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=4 \
		$(CARGO) +nightly miri test --locked --target-dir target/sanitize --lib -- $(MIRI)

# Whether a test falls for each change to what decides and reads: .cargo/mutants.toml. It takes hours; MUTANTS_JOBS=2 at
# a time, FILE=src/judge.rs alone. It ends well if no mutant is missed
# (3: some hang, which no test lets pass); what it has found lies in target/mutants.out.
mutants:
	@target/mutants-tools/bin/cargo-mutants mutants --version 2>/dev/null | grep -qxF 'cargo-mutants $(MUTANTS)' || \
		$(CARGO) install --quiet --locked --debug --root target/mutants-tools cargo-mutants@$(MUTANTS)
	PROPTEST_CASES=32 target/mutants-tools/bin/cargo-mutants mutants --output target --jobs $(or $(MUTANTS_JOBS),1) \
		$(FILE:%=--re '%') || [ $$? = 3 ]

MUTANTS = 27.1.0

# Which lines the unit tests and the lab run, both together. COVERAGE=trixie:: on another release, COVERAGE= on all.
coverage: COVERAGE = bookworm::
coverage: tools deb next-deb
	COVERAGE='$(COVERAGE)' TEST='$(TEST)' tests/coverage

# What may become part of it: licences, versions, where it comes from; deny.toml.
deny:
	@target/deny-tools/bin/cargo-deny --version 2>/dev/null | grep -qxF 'cargo-deny $(DENY)' || \
		$(CARGO) install --quiet --locked --debug --root target/deny-tools cargo-deny@$(DENY)
	target/deny-tools/bin/cargo-deny check licenses bans sources

DENY = 0.20.2

lint: tools
	@cargo fmt --version && cargo clippy --version || { echo "install them: rustup component add rustfmt clippy"; exit 1; }
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

tools:
	@tests/lab/tools

clean:
	$(CARGO) clean

include packaging/packages.mk
