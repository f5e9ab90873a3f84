//! Commands against each other: whole processes, in turn, again and again, so that a busy moment of the machine hits
//! all of them alike.
//!
//! It owns the clock and the child. What the numbers mean is `table`'s business.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use crate::table::fewer;

/// One command, and what it has to bring about: a run that fails is worth no number.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    status: i32,
    must_say: Option<String>,
    must_not_say: Option<&'static str>,
}

impl Contender {
    /// The program is looked for once, in `PATH`: with a path std can spawn it with `posix_spawn()`, which is cheap.
    pub(crate) fn new(name: &'static str, program: &Path, arguments: &str) -> Self {
        let arguments = arguments.split('|').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        let environment = vec![("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())];
        Self {
            name,
            program: program.to_owned(),
            arguments,
            environment,
            status: 0,
            must_say: None,
            must_not_say: None,
        }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// It must end with this status, and write this pid.
    pub(crate) fn naming(self, pid: u32, status: i32) -> Self {
        self.saying(&pid.to_string(), status)
    }

    /// It must end with this status, and write this word.
    pub(crate) fn saying(mut self, word: &str, status: i32) -> Self {
        (self.must_say, self.status) = (Some(word.to_owned()), status);
        self
    }

    /// It must not write these words.
    pub(crate) fn never_saying(self, words: &'static str) -> Self {
        Self { must_not_say: Some(words), ..self }
    }

    /// This command as the argument of another.
    pub(crate) fn under(&self, tool: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(tool);
        self.append_to(command.args(arguments));
        command
    }

    fn append_to(&self, command: &mut Command) {
        command.arg(&self.program).args(&self.arguments);
        command.env_clear().envs(self.environment.clone()).stdin(Stdio::null());
    }

    /// Runs once: the wall time from just before it is spawned until it has been reaped.
    fn run(&self, output: &mut File) -> Result<Duration, String> {
        let failed = |error: io::Error| format!("{}: {error}", self.name);
        output.set_len(0).and_then(|()| output.rewind()).map_err(failed)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(self.environment.clone()).stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(failed)?).stderr(output.try_clone().map_err(failed)?);
        let begin = Instant::now();
        let status = command.spawn().and_then(|mut child| child.wait()).map_err(failed)?;
        let took = begin.elapsed();
        self.check(status.code(), output)?;
        Ok(took)
    }

    fn check(&self, status: Option<i32>, output: &mut File) -> Result<(), String> {
        let mut bytes = Vec::new();
        output.rewind().and_then(|()| output.read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&bytes);
        let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '-';
        let says = |word: &String| text.split(is_end).any(|one| one == word);
        let is_silent = self.must_not_say.is_none_or(|words| !text.contains(words));
        if status == Some(self.status) && self.must_say.as_ref().is_none_or(says) && is_silent {
            return Ok(());
        }
        let wanted = self.must_say.as_ref().map_or(String::new(), |word| format!(", naming {word}"));
        Err(format!(
            "{} was to end with {}{wanted}; it ended with {status:?} and wrote: {text}",
            self.name, self.status
        ))
    }

    /// The peak of its resident memory in KiB, as wait4(2) tells it.
    ///
    /// A child begins with the peak of whoever spawned it (Linux `exec_mmap()`, `fs/exec.c`), so that is a fresh copy
    /// of this program, which has little in its memory yet and nothing else to wait for. Less than that is never told.
    pub(crate) fn peak_rss(&self) -> Result<u64, String> {
        self.peak_rss_by(Command::new(std::env::current_exe().map_err(|error| error.to_string())?))
    }

    /// The same, where `ours` is a command that runs this program somewhere else.
    pub(crate) fn peak_rss_by(&self, mut ours: Command) -> Result<u64, String> {
        self.append_to(ours.arg("--peak-rss"));
        let output = ours.output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        self.has_ended(output.status)?;
        text.trim().parse().map_err(|_| format!("no peak of memory of {}: {text}", self.name))
    }

    /// Whether a tool that ends as what it runs does has run this as it should be: a guard that breaks off costs little.
    pub(crate) fn has_ended(&self, status: ExitStatus) -> Result<(), String> {
        if status.code() == Some(self.status) {
            Ok(())
        } else {
            Err(format!("{} was to end with {}; under a tool: {status}", self.name, self.status))
        }
    }
}

/// `--peak-rss PROGRAM ARGUMENTS`; ends as the program does.
pub(crate) fn print_peak_rss(command: &[String]) -> Result<ExitCode, String> {
    let (program, arguments) = command.split_first().ok_or("of what?")?;
    let mut child = Command::new(program);
    let child = child.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = child.status().map_err(|error| error.to_string())?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|error| error.to_string())?;
    println!("{}", usage.max_rss());
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// How long one contender took, the shortest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    /// That below which a quarter of them are.
    pub(crate) fn quartile(&self) -> Duration {
        self.0[self.0.len() / 4]
    }

    pub(crate) fn least(&self) -> Duration {
        self.0[0]
    }

    pub(crate) fn most(&self) -> Duration {
        self.0[self.0.len() - 1]
    }
}

/// All times of all rounds of each, where a race is run again: none is left out for being slow.
#[derive(Debug)]
pub(crate) struct Pool<const N: usize>([Times; N]);

impl<const N: usize> Default for Pool<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Times::default()))
    }
}

impl<const N: usize> Pool<N> {
    /// All so far, and these.
    pub(crate) fn with(&mut self, more: [Times; N]) -> &[Times; N] {
        for (times, more) in self.0.iter_mut().zip(more) {
            *times = Times::of(times.0.iter().chain(&more.0).copied().collect());
        }
        &self.0
    }
}

/// Rounds of one try.
const SHORT: usize = 21;

/// By how much the same may differ from one time to another on a machine that is quiet.
pub(crate) const NOISE: f64 = 1.25;

/// Many short races of one contender, the quietest of which counts: noise makes a time longer, and never shorter.
#[derive(Debug, Default)]
pub(crate) struct Tries(Vec<Times>);

impl Tries {
    pub(crate) fn quietest(&self) -> Times {
        self.0.iter().min_by_key(|times| times.median()).cloned().unwrap_or_else(|| Times(vec![Duration::ZERO]))
    }

    /// Every round of every try.
    pub(crate) fn all(&self) -> Times {
        Times::of(self.0.iter().flat_map(|times| times.0.iter().copied()).collect())
    }

    /// Whether the machine was quiet at least once: then the median of that try is near the shortest time of all.
    pub(crate) fn were_quiet(&self) -> bool {
        let least = self.0.iter().map(Times::least).min().unwrap_or_default();
        self.quietest().median().div_duration_f64(least) <= NOISE
    }

    pub(crate) fn push(&mut self, times: Times) {
        self.0.push(times);
    }

    pub(crate) fn append(&mut self, mut more: Self) {
        self.0.append(&mut more.0);
    }
}

/// So many short races of all of them.
pub(crate) fn tries<const N: usize>(contenders: [&Contender; N], count: usize) -> Result<[Tries; N], String> {
    let mut tries: [Tries; N] = std::array::from_fn(|_| Tries::default());
    for _ in 0..count {
        for (tries, times) in tries.iter_mut().zip(race(contenders, SHORT)?) {
            tries.push(times);
        }
    }
    Ok(tries)
}

/// Runs all of them `rounds` times, or fewer, one after the other, after a round that does not count.
pub(crate) fn race<const N: usize>(contenders: [&Contender; N], rounds: usize) -> Result<[Times; N], String> {
    let rounds = fewer(rounds);
    let mut output = tempfile::tempfile_in("/run").map_err(|error| error.to_string())?;
    let mut times: [Vec<Duration>; N] = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for round in 0..=rounds {
        // Each comes first as often as the others: what it finds in the caches is what the one before it has left.
        for turn in 0..N {
            let who = (round + turn) % N;
            let took = contenders[who].run(&mut output)?;
            if round > 0 {
                times[who].push(took);
            }
        }
    }
    Ok(times.map(Times::of))
}
