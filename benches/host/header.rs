//! On what it was measured, and against whom.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// A program of this host, by `PATH`.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

pub(crate) fn available_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    line.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Runs this process, and all that it starts, before what else is on the machine, so that less of that is in the times: by
/// its niceness, and where the kernel has autogroups (sched(7)), in which that counts among their own, by that of a new one.
pub(crate) fn before_all_others() {
    let _ = rustix::process::setpriority_process(None, -20);
    if nix::unistd::setsid().is_ok() {
        let _ = fs::write("/proc/self/autogroup", "-20");
    }
}

pub(crate) fn print_header(guard: &Path) {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, m)| m);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("{model}, {cores} cores, {} MiB free; Linux {}", available_mib(), kernel.trim());
    println!("{}", version(guard, "--version"));
    for (name, flag) in [
        ("ss", "-V"),
        ("fuser", "-V"),
        ("lsof", "-v"),
        ("killport", "--version"),
        ("strace", "-V"),
        ("valgrind", "--version"),
    ] {
        match tool(name) {
            Some(program) => println!("{}", version(&program, flag)),
            None => println!("{name}: not here"),
        }
    }
}

/// The line that has a number; lsof begins with a title.
fn version(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.bytes().any(|byte| byte.is_ascii_digit()));
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    format!("  {name}: {}", line.unwrap_or("says nothing").trim())
}
