# make install | deb | rpm | package-lint | dist | dist-check; ../Makefile includes it.

PREFIX     ?= /usr
SYSCONFDIR ?= /etc
ZSHDIR     ?= $(PREFIX)/share/zsh/site-functions

VERSION  := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml)
PACKAGES  = target/packages
MAN       = portguard.8 portguard.toml.5 portguard-cookbook.7

# All that is made has the date of its version, so that it is the same wherever and whenever it is made.
ifndef SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH := $(shell date -u -d "$$(sed -n 's/^ -- .*>  //p' packaging/debian/changelog | head -n 1)" +%s)
endif
export SOURCE_DATE_EPOCH

# Where the crates lie on the builder (in cargo's registry, or in the vendor/ of `make dist`) has no place in the binary,
# and would be all that differs between two builders. A stable cargo has no trim-paths yet. For the shell of a recipe: the
# registry is filled by the command before it.
REMAP = $$(for dir in "$${CARGO_HOME:-$$HOME/.cargo}"/registry/src/* $(CURDIR)/vendor; do \
	printf '"--remap-path-prefix=%s=/crates",' "$$dir"; done)

# rpm's own, and where it differs, what makes two builds the same.
RPM_DEFINES = --define '_topdir $(CURDIR)/$(PACKAGES)/rpm' --define '_rpmdir $(CURDIR)/$(PACKAGES)' \
	--define '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' --define '_buildhost reproducible' \
	--define 'use_source_date_epoch_as_buildtime 1' --define 'clamp_mtime_to_source_date_epoch 1'

.PHONY: install man packages deb next-deb rpm package-lint deb-tools rpm-tools dist dist-check

# Builds what is not up to date; where there is no cargo (that of a user, and this is root), what was built has to be of
# this version.
install: man
	@if command -v $(CARGO) >/dev/null; then $(MAKE) build; \
	elif [ "$$($(BINARY) --version)" != "portguard $(VERSION)" ]; then echo "run make build first"; exit 1; fi
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/portguard
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 target/man/portguard.8
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man5 target/man/portguard.toml.5
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man7 target/man/portguard-cookbook.7
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/catalog packaging/portguard.catalog
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/portguard packaging/portguard.schema.json
	install -D -m 644 packaging/completions/portguard.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/portguard
	install -D -m 644 -t $(DESTDIR)$(ZSHDIR) packaging/completions/_portguard
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d packaging/completions/portguard.fish
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/portguard README.md
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/portguard/examples contrib/systemd/*.conf
	cd contrib/systemd && find cookbook -type f -exec install -D -m 644 {} $(abspath $(DESTDIR))$(PREFIX)/share/doc/portguard/examples/{} \;
	find $(DESTDIR)$(PREFIX)/share/doc/portguard/examples -type f -exec sed -i 's|/usr/bin/portguard|$(PREFIX)/bin/portguard|' {} +
	install -d $(DESTDIR)$(SYSCONFDIR)/portguard/conf.d
	@# A policy that is there is somebody's work; a package manager looks after it itself.
	test -e $(DESTDIR)$(SYSCONFDIR)/portguard/portguard.toml || \
		install -m 644 packaging/portguard.toml $(DESTDIR)$(SYSCONFDIR)/portguard/portguard.toml

man:
	@command -v scdoc >/dev/null || { echo "scdoc makes the man pages: apt-get install scdoc"; exit 1; }
	mkdir -p target/man
	for page in $(MAN); do scdoc <packaging/man/$$page.scd >target/man/$$page || exit 1; done

packages: deb next-deb rpm

# $(call debian_package,FOLDER,VERSION): debhelper works in the folder that its files are in, so in a copy.
define debian_package
	rm -rf $(1)/debian-build
	mkdir -p $(1)/debian-build
	cp -R packaging/debian $(1)/debian-build/
	sed -i '1s/(.*)/($(2))/' $(1)/debian-build/debian/changelog
	cd $(1)/debian-build && SOURCE=$(CURDIR) debian/rules binary >log 2>&1 || { cat log; exit 1; }
	@ls $(1)/portguard_$(2)_*.deb
endef

deb: deb-tools build
	$(call debian_package,$(PACKAGES),$(VERSION))

# What an upgrade is tried with.
next-deb: deb-tools build
	$(call debian_package,$(PACKAGES)/next,$(VERSION)+next)

# --nodeps: what it is built with is no rpm where this is Debian.
rpm: rpm-tools build
	rpmbuild -bb --quiet --nodeps --build-in-place $(RPM_DEFINES) packaging/portguard.spec
	@ls $(PACKAGES)/portguard-$(VERSION)-*.rpm

package-lint: deb rpm
	@tests/lab/tools package-lint
	mandoc -T lint -W error $(addprefix target/man/,$(MAN))
	lintian --fail-on error,warning $(PACKAGES)/portguard_$(VERSION)_*.deb
	rpmlint --strict --config packaging/rpmlint.toml $(PACKAGES)/portguard-$(VERSION)-*.rpm

deb-tools:
	@tests/lab/tools deb

rpm-tools:
	@tests/lab/tools rpm

# The sources of the last commit, and all crates that they are built from.
DIST = portguard-$(VERSION)
dist:
	rm -rf $(PACKAGES)/$(DIST)
	mkdir -p $(PACKAGES)
	git archive --prefix=$(DIST)/ HEAD | tar -x -C $(PACKAGES)
	cd $(PACKAGES)/$(DIST) && $(CARGO) vendor --locked --quiet --versioned-dirs && printf '\n%s\n%s\n\n%s\n%s\n' \
		'[source.crates-io]' 'replace-with = "vendored-sources"' \
		'[source.vendored-sources]' 'directory = "vendor"' >>.cargo/config.toml
	tar -C $(PACKAGES) --sort=name --mtime=@$(SOURCE_DATE_EPOCH) --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw,a-s \
		-cf - $(DIST) | xz -T0 -3 >$(PACKAGES)/$(DIST).tar.xz
	rm -rf $(PACKAGES)/$(DIST)
	@ls $(PACKAGES)/$(DIST).tar.xz

# What a release is held against: one version everywhere, and packages that come out the same from the tarball, in another
# folder, with nothing but what is in it.
dist-check: packages dist
	@git diff --quiet HEAD || { echo "the tarball has what is committed, and this is not"; exit 1; }
	$(TEST) --test packages
	set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; tar -xf $(PACKAGES)/$(DIST).tar.xz -C "$$folder"; \
		CARGO_HOME="$$folder/cargo" CARGO_NET_OFFLINE=true $(MAKE) -C "$$folder/$(DIST)" deb rpm; \
		(cd $(PACKAGES) && sha256sum portguard_$(VERSION)_*.deb portguard-$(VERSION)-*.rpm) >"$$folder/sums"; \
		cd "$$folder/$(DIST)/$(PACKAGES)" && sha256sum -c "$$folder/sums"
	@echo "$(VERSION) is the same everywhere, and its packages are the same from two folders"
