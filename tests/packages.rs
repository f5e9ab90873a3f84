//! What is shipped beside the binary, and the packages that `make packages` has built: they say the same as the program,
//! and leave nothing behind. How the Debian package fares on a real systemd is the lab's (`scenarios/packages.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use portguard::cli::Cli;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAN_PAGES: [&str; 3] = ["portguard.8", "portguard.toml.5", "portguard-cookbook.7"];

#[test]
fn version_is_the_same_everywhere() {
    let first_with = |path: &str, prefix: &str| {
        let text = source(path);
        let line = text.lines().find_map(|line| line.strip_prefix(prefix));
        line.unwrap_or_else(|| panic!("no line of {path} begins with {prefix:?}")).trim().to_owned()
    };
    assert_eq!(first_with("CHANGELOG.md", "## "), VERSION);
    assert!(first_with("packaging/debian/changelog", "portguard (").starts_with(&format!("{VERSION}) ")));
    assert_eq!(first_with("packaging/portguard.spec", "Version:"), VERSION);
    assert!(first_with("packaging/portguard.spec", "* ").ends_with(&format!(" - {VERSION}-1")));
    for page in MAN_PAGES {
        let title = source(&format!("packaging/man/{page}.scd")).lines().next().map(str::to_owned);
        assert!(title.is_some_and(|title| title.contains(&format!("\"portguard {VERSION}\""))), "{page}");
    }
}

/// `--unit`, `-v` and so on.
fn options(command: &clap::Command) -> BTreeSet<String> {
    let of = |argument: &clap::Arg| {
        let short = argument.get_short().map(|short| format!("-{short}"));
        argument.get_long().map(|long| format!("--{long}")).into_iter().chain(short).collect::<Vec<_>>()
    };
    command.get_arguments().flat_map(of).collect()
}

/// Those that are completed: short ones are typed.
fn long(options: &BTreeSet<String>) -> BTreeSet<String> {
    options.iter().filter(|option| option.starts_with("--")).cloned().collect()
}

/// What begins with a dash in words of this text.
fn dashed(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphabetic() && c != '-');
    words.filter(|word| word.starts_with('-') && word.len() > 1).map(str::to_owned).collect()
}

/// The options that fish completes where these conditions hold.
fn fish_options(is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let fish = source("packaging/completions/portguard.fish");
    let mut options = BTreeSet::new();
    for line in
        fish.lines().filter_map(|line| line.strip_prefix("complete -c portguard -n ")).filter(|line| is_wanted(line))
    {
        let words: Vec<_> = line.split_whitespace().take_while(|word| *word != "-d").collect();
        for pair in words.windows(2) {
            match pair {
                ["-l", long] => options.insert(format!("--{long}")),
                ["-s", short] => options.insert(format!("-{short}")),
                _ => false,
            };
        }
    }
    options
}

#[test]
fn every_option_is_in_the_man_page_and_the_completions_and_no_other() {
    let mut command = Cli::command();
    command.build();
    let known = options(&command);
    assert!(known.contains("--unit") && known.contains("-v") && known.contains("--version"), "{known:?}");

    let page = source("packaging/man/portguard.8.scd");
    let section = page.split("# OPTIONS").nth(1).and_then(|rest| rest.split("\n# ").next()).unwrap();
    let headings = section.lines().filter(|line| line.starts_with("*-"));
    let documented: BTreeSet<_> =
        headings.flat_map(|line| line.split('*').filter(|word| word.starts_with('-')).map(str::to_owned)).collect();
    assert_eq!(documented, known);

    let bash = complete(r#"COMP_WORDS=(portguard -); COMP_CWORD=1; _portguard; echo "${COMPREPLY[@]}""#);
    assert_eq!(bash, long(&known));
    let zsh = source("packaging/completions/_portguard");
    assert_eq!(dashed(zsh.split("'1: :_portguard_commands'").nth(1).unwrap()), known);
    assert_eq!(fish_options(|line| line.starts_with("__portguard_is_guard")), known);
}

#[test]
fn every_command_is_in_the_man_page_and_the_completions_with_its_options() {
    let mut parser = portguard::cli::commands();
    parser.build();
    let page = source("packaging/man/portguard.8.scd");
    let section = page.split("# COMMANDS\n").nth(1).and_then(|rest| rest.split("\n# ").next()).unwrap();
    let (zsh, fish) = (source("packaging/completions/_portguard"), source("packaging/completions/portguard.fish"));
    let zsh_of_all = zsh.split("local -a all=(").nth(1).and_then(|rest| rest.split("\n    )").next()).unwrap();
    let names: BTreeSet<String> = parser.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let words = complete(r#"COMP_WORDS=(portguard ""); COMP_CWORD=1; _portguard; echo "${COMPREPLY[@]}""#);
    assert_eq!(words.into_iter().filter(|word| !word.starts_with('-')).collect::<BTreeSet<_>>(), names);
    for command in parser.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = command.get_name();
        let known = options(command);
        let is_its = |line: &&str| {
            let mut words = line.split([' ', '|']).skip_while(|word| *word != "portguard").skip(1);
            line.starts_with("## portguard ") && words.any(|word| word == name)
        };
        let heading = section.lines().find(is_its).unwrap_or_else(|| panic!("{name} is not in the man page"));
        let help = BTreeSet::from(["--help".to_owned(), "-h".to_owned()]);
        assert_eq!(&dashed(heading) | &help, known, "{heading}");

        let script = format!(r#"COMP_WORDS=(portguard {name} -); COMP_CWORD=2; _portguard; echo "${{COMPREPLY[@]}}""#);
        assert_eq!(complete(&script), long(&known), "{name} in bash");

        let case =
            |line: &&str| line.trim_start().split(')').next().is_some_and(|of| of.split('|').any(|of| of == name));
        let cases = zsh.split("case $words[1] in").nth(1).unwrap();
        let begin = cases.lines().position(|line| case(&line)).unwrap_or_else(|| panic!("{name} is not in zsh"));
        let mut own = Vec::new();
        for line in cases.lines().skip(begin) {
            own.push(line.replace("_arguments -s", ""));
            if line.ends_with(";;") {
                break;
            }
        }
        assert_eq!(&dashed(&own.join("\n")) | &dashed(zsh_of_all), known, "{name} in zsh");

        let is_its = |line: &str| {
            let condition = line.strip_prefix("'__portguard_is ").and_then(|line| line.split('\'').next());
            condition.is_some_and(|commands| commands.split(' ').any(|command| command == name))
        };
        assert_eq!(fish_options(is_its), known, "{name} in fish");
        assert!(fish.contains(&format!("-n $first -a {name} ")), "{name} in fish");
    }
}

/// README.md says what portguard does when something else is broken, and which scenario of the lab proves each row.
#[test]
fn each_fault_in_the_readme_is_proven_by_a_scenario_and_each_scenario_of_a_fault_is_in_it() {
    let readme = source("README.md");
    let section =
        readme.split("\n## When something else is broken\n").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows = section.unwrap().lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    let rows = rows.take_while(|line| line.starts_with("| "));
    let proofs: BTreeSet<_> = rows.map(|row| row.rsplit('`').nth(1).unwrap_or(row).to_owned()).collect();
    assert!(proofs.len() > 30, "{proofs:?}");

    let lab = source("tests/lab/scenarios/mod.rs");
    let words = lab.split(|c: char| c.is_whitespace() || c == '[').filter_map(|word| word.split(',').next());
    let scenarios: BTreeSet<_> = words.filter_map(|word| word.split_once("::")).collect();
    let mut names: BTreeSet<_> = scenarios.iter().map(|(_, name)| (*name).to_owned()).collect();
    let killed = source("tests/killed.rs");
    names.extend(killed.lines().filter_map(|line| line.strip_prefix("fn ")?.strip_suffix("() {")).map(str::to_owned));
    assert_eq!(proofs.difference(&names).collect::<Vec<_>>(), [""; 0], "not in the lab");
    let of_faults: BTreeSet<_> =
        scenarios.iter().filter(|(module, _)| *module == "faults").map(|(_, name)| (*name).to_owned()).collect();
    assert!(!of_faults.is_empty());
    assert_eq!(of_faults.difference(&proofs).collect::<Vec<_>>(), [""; 0], "not in README.md");
}

/// portguard-cookbook(7) shows the files that are shipped and that the lab runs, and no others.
#[test]
fn cookbook_shows_the_very_files_that_the_lab_runs() {
    let folder = "contrib/systemd/cookbook";
    let files = files_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let files: BTreeSet<_> = files.iter().filter(|path| !path.ends_with('/')).map(|path| &path[1..]).collect();
    assert!(files.len() > 15, "{files:?}");

    let page = source("packaging/man/portguard-cookbook.7.scd");
    let blocks: Vec<_> = page.split("```\n").collect();
    let shown = blocks.chunks_exact(2).map(|pair| {
        let name = pair[0].trim_end().rsplit('\n').next().unwrap().trim_matches([':', '_']);
        assert_eq!(pair[1], source(&format!("{folder}/{name}")), "{name}");
        name
    });
    assert_eq!(shown.collect::<BTreeSet<_>>(), files);
    let lab = source("tests/lab/scenarios/cookbook.rs");
    for file in files {
        assert!(lab.contains(&format!("recipe!(\"{file}\")")), "{file} is in no scenario");
    }
}

/// `make install`, the Debian package and the rpm have the same files, but for what each distribution names differently.
#[test]
fn packages_have_what_make_install_installs() {
    let folder = tempfile::tempdir().unwrap();
    run(Command::new("make").args(["install", "PREFIX=/usr"]).arg(format!("DESTDIR={}", folder.path().display())));
    let installed = normal(files_below(folder.path()));
    assert!(installed.contains("/usr/bin/portguard") && installed.contains("/etc/portguard/conf.d/"), "{installed:#?}");

    let unpacked = tempfile::tempdir().unwrap();
    run(Command::new("dpkg-deb").arg("-x").args([&deb(), unpacked.path()]));
    assert_eq!(normal(files_below(unpacked.path())), installed);
    assert_same_file(&unpacked.path().join("usr/bin/portguard"), &folder.path().join("usr/bin/portguard"));

    let control = run(Command::new("dpkg-deb").arg("--ctrl-tarfile").arg(deb()));
    for script in ["preinst", "postinst", "prerm", "postrm"] {
        assert!(!control.contains(&format!("./{script}\0")), "there is a {script}, and nothing for it to do");
    }

    let list = run(Command::new("rpm").args(["-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]"]).arg(rpm()));
    let of_rpm = list.lines().map(|line| {
        let (mode, path) = line.split_once(' ').unwrap();
        if mode.starts_with('d') { format!("{path}/") } else { path.to_owned() }
    });
    assert_eq!(normal(of_rpm.collect()), installed);
}

/// No loader, so that it runs on every release, and none of the tables by which a stack is unwound. A distribution's flags
/// do not change that: `make build` sees to it, and is asked here.
#[test]
fn binary_in_the_packages_is_static_and_has_no_tables_to_unwind_its_stack() {
    let unpacked = tempfile::tempdir().unwrap();
    run(Command::new("dpkg-deb").arg("-x").args([&deb(), unpacked.path()]));
    let of_deb = unpacked.path().join("usr/bin/portguard");
    let of_rpm = unpacked.path().join("of-rpm");
    fs::create_dir(&of_rpm).unwrap();
    run(Command::new("sh")
        .args(["-c", "rpm2cpio \"$1\" | (cd \"$2\" && cpio -idm --quiet)", "sh"])
        .arg(rpm())
        .arg(&of_rpm));
    for binary in [of_deb, of_rpm.join("usr/bin/portguard")] {
        let parts = parts(&binary);
        assert!(parts.contains("GNU_RELRO") && parts.contains(".text"), "{parts}");
        for part in ["INTERP", ".eh_frame_hdr", ".gcc_except_table"] {
            assert!(!parts.contains(part), "{} has {part}: {parts}", binary.display());
        }
        // What the objects refer to in which musl's program begins and ends. [Nr] Name Type Address Off Size …
        let table = parts.lines().find_map(|line| line.split_once(" .eh_frame "));
        let size = table.map(|(_, rest)| u64::from_str_radix(rest.split_whitespace().nth(3).unwrap(), 16).unwrap());
        assert!(size.is_none_or(|bytes| bytes < 256), "{} has a table of {size:?} bytes", binary.display());
    }
    // This program unwinds.
    assert!(parts(&std::env::current_exe().unwrap()).contains(".eh_frame_hdr"));
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
        let plan = run(Command::new("make").args(["--dry-run", "build"]));
        assert!(plan.contains(&format!(" -u {name} ")), "{plan}");
    }
}

/// The names of the program headers and sections.
fn parts(binary: &Path) -> String {
    run(Command::new("readelf")
        .args(["--program-headers", "--section-headers", "--wide"])
        .arg(binary)
        .env("LC_ALL", "C"))
}

#[test]
fn rpm_is_installed_verified_run_and_erased() {
    let folder = tempfile::tempdir().unwrap();
    let rpm_in_it = || {
        let mut command = Command::new("rpm");
        command.arg("--root").arg(folder.path());
        command
    };
    // systemd, which it requires, is in no rpm here.
    run(rpm_in_it().args(["-i", "--nodeps"]).arg(rpm()));
    run(rpm_in_it().args(["-V", "--nodeps", "portguard"]));
    let version = run(Command::new("chroot").arg(folder.path()).args(["/usr/bin/portguard", "--version"]));
    assert_eq!(version, format!("portguard {VERSION}\n"));

    let policy = folder.path().join("etc/portguard/portguard.toml");
    fs::write(&policy, "[unit.\"app.service\"]\nports = [\"8080/tcp\"]\n").unwrap();
    run(rpm_in_it().args(["-e", "portguard"]));
    let mut left = files_below(folder.path());
    left.retain(|path| path.contains("portguard"));
    let saved = ["/etc/portguard/", "/etc/portguard/portguard.toml.rpmsave"].map(str::to_owned);
    assert_eq!(left, BTreeSet::from(saved), "all that is left is what an administrator wrote");
}

/// A file of the sources.
fn source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn deb() -> PathBuf {
    package("_", ".deb")
}

fn rpm() -> PathBuf {
    package("-", ".rpm")
}

/// The package of this version, whatever the machine is called in its name.
fn package(separator: &str, suffix: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/packages");
    let prefix = format!("portguard{separator}{VERSION}{separator}");
    let names = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(&prefix) && name.ends_with(suffix)
    };
    names.into_iter().find(fits).unwrap_or_else(|| panic!("no {prefix}…{suffix}: make packages"))
}

/// What it wrote; it has to succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The words that a script for bash says, which has the completions.
fn complete(script: &str) -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completions/portguard.bash");
    let said = run(Command::new("bash").args(["-c", &format!("source \"$1\"; {script}"), "bash"]).arg(file));
    said.split_whitespace().map(str::to_owned).collect()
}

/// Files, and with a slash at their end folders, as they are named in the system that `root` is the root of.
fn files_below(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("/{}", path.strip_prefix(root).unwrap().display());
            if path.is_dir() {
                found.insert(name + "/");
                folders.push(path);
            } else {
                found.insert(name);
            }
        }
    }
    found
}

/// Without what a distribution does to all of its packages: compressed pages, folders that others own as well, its own
/// places for changes, licences and completions.
fn normal(files: BTreeSet<String>) -> BTreeSet<String> {
    let own = |path: &String| !path.ends_with('/') || path.starts_with("/etc/portguard");
    let by_distribution = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or_default().to_lowercase();
        name.starts_with("changelog")
            || name.starts_with("license")
            || name == "copyright"
            || path.starts_with("/usr/share/lintian/")
    };
    let plain = |path: String| path.trim_end_matches(".gz").replace("/vendor-completions/", "/site-functions/");
    files.into_iter().filter(own).filter(|path| !by_distribution(path)).map(plain).collect()
}

fn assert_same_file(one: &Path, other: &Path) {
    assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{} and {} differ", one.display(), other.display());
}
