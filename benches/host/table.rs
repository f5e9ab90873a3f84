//! The one table that is printed: what was measured, and the bound that it has to keep.

use std::time::Duration;

use crate::race::{NOISE, Times, Tries};

/// What a number must not be above, or below.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// It is only told.
    None,
}

/// One line of the table.
pub(crate) struct Row {
    what: String,
    text: String,
    spread: String,
    bound: String,
    kept: bool,
    /// A time, or of times: what else the machine does has a say in it.
    is_time: bool,
}

impl Row {
    /// A time that is compared by others.
    pub(crate) fn time(what: &str, times: &Times, bound: Option<Duration>) -> Self {
        let median = times.median();
        let spread = format!("{} – {}", shown(times.least()), shown(times.most()));
        let bound = bound.map_or(Bound::None, |bound| Bound::AtMost(bound.as_secs_f64() * 1e3));
        Self::new(what, median.as_secs_f64() * 1e3, &shown(median), &spread, bound, " ms").of_time()
    }

    /// Of the medians; and, for who wonders how busy the machine was, of the shortest times.
    pub(crate) fn ratio(what: &str, ours: &Times, other: &Times, bound: Bound) -> Self {
        let ratio = ours.median().div_duration_f64(other.median());
        let least = ours.least().div_duration_f64(other.least());
        Self::new(what, ratio, &format!("{ratio:.2} x"), &format!("least {least:.2} x"), bound, " x").of_time()
    }

    /// One that is far from its bound: what else the machine does has no say in whether it is kept. Half of it, where times are
    /// only told.
    pub(crate) fn far_ratio(what: &str, ours: &Times, other: &Times, least: f64) -> Self {
        let least = if are_times_told() { least / 2.0 } else { least };
        Self { is_time: false, ..Self::ratio(what, ours, other, Bound::AtLeast(least)) }
    }

    /// Of the medians of all rounds, which were run in turn; and that of the quicker half of them, by its own medians, has to
    /// keep the bound as well: what a busy machine puts on top of both sides hides what is between them.
    pub(crate) fn in_turn(what: &str, ours: &Tries, other: &Tries, bound: Bound) -> Self {
        let quick = ours.all().quartile().div_duration_f64(other.all().quartile());
        let row = Self::new(what, ratio_of_all(ours, other), "", "", bound, " x");
        let text = format!("{:.2} x", ratio_of_all(ours, other));
        let kept = row.kept && Self::new(what, quick, "", "", bound, " x").kept;
        Self { text, spread: format!("quicker half {quick:.2} x"), kept, ..row }.of_time()
    }

    /// What a larger load costs, of the quietest tries, as both were not there at the same time; with the tries of `/bin/true`
    /// beside each side, which no load makes slower.
    pub(crate) fn growth(what: &str, [large, idle]: &[Tries; 2], [small, before]: &[Tries; 2], bound: Bound) -> Self {
        let spread =
            format!("/bin/true {:.2} x; all tries {:.2} x", ratio_of(idle, before), ratio_of_all(large, small));
        let told = is_told(large, small) && is_told(idle, before) && is_told(before, idle);
        Self::of_tries(what, ratio_of(large, small), &spread, bound, told)
    }

    fn of_tries(what: &str, ratio: f64, spread: &str, bound: Bound, told: bool) -> Self {
        let noise = if told { "" } else { ", noise" };
        let row = Self::new(what, ratio, &format!("{ratio:.2} x{noise}"), spread, bound, " x");
        Self { kept: row.kept && told, ..row }.of_time()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts and sizes that are far from 2^52")]
    pub(crate) fn count(what: &str, count: u64, bound: Bound, unit: &str) -> Self {
        Self::new(what, count as f64, &format!("{count}{unit}"), "", bound, unit)
    }

    pub(crate) fn size(what: &str, kib: u64, bound: Bound) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "sizes that are far from 2^52")]
        let mib = kib as f64 / 1024.0;
        Self::new(what, mib, &format!("{mib:.2} MiB"), "", bound, " MiB")
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    pub(crate) fn note_again(&self) {
        Table::note(&format!("measured again: {} was {}, not {}", self.what.trim(), self.text, self.bound));
    }

    fn new(what: &str, value: f64, text: &str, spread: &str, bound: Bound, unit: &str) -> Self {
        let (kept, bound) = match bound {
            Bound::AtMost(most) => (value <= most, format!("<= {most}{unit}")),
            Bound::AtLeast(least) => (value >= least, format!(">= {least}{unit}")),
            Bound::None => (true, String::new()),
        };
        Self { what: what.to_owned(), text: text.to_owned(), spread: spread.to_owned(), bound, kept, is_time: false }
    }

    fn of_time(self) -> Self {
        Self { is_time: true, ..self }
    }
}

fn ratio_of(ours: &Tries, other: &Tries) -> f64 {
    ours.quietest().median().div_duration_f64(other.quietest().median())
}

fn ratio_of_all(ours: &Tries, other: &Tries) -> f64 {
    ours.all().median().div_duration_f64(other.all().median())
}

/// Whether the machine was quiet enough to compare them: each at least once, and `ours` took no less than what cannot
/// cost more.
fn is_told(ours: &Tries, other: &Tries) -> bool {
    ours.were_quiet() && other.were_quiet() && ratio_of(ours, other) >= 1.0 / NOISE
}

/// So often a race is run whose bounds are not kept: on a busy machine a time can be anything, but not again and again.
pub(crate) fn attempts() -> usize {
    if are_times_told() { 1 } else { 3 }
}

/// So many rounds instead of `rounds` where times are only told: enough to see that there are no bounds without them.
pub(crate) fn fewer(rounds: usize) -> usize {
    if are_times_told() { rounds.div_ceil(5) } else { rounds }
}

/// With `TIMES=told` the bounds of times are not asked for.
fn are_times_told() -> bool {
    std::env::var_os("TIMES").is_some_and(|times| times == "told")
}

/// Rows in the order in which they were measured; each is printed at once.
#[derive(Default)]
pub(crate) struct Table {
    section: String,
    failed: Vec<String>,
    /// Those of times.
    slow: Vec<String>,
}

impl Table {
    pub(crate) fn section(&mut self, title: &str) {
        title.split([':', ',']).next().unwrap_or(title).clone_into(&mut self.section);
        println!("\n{title}\n{:<52} {:>12} {:>23}  {:>12}", "", "median", "least – most", "bound");
    }

    pub(crate) fn add(&mut self, row: &Row) {
        let Row { what, text, spread, bound, kept, is_time } = row;
        let verdict = match (bound.is_empty(), kept) {
            (true, _) => "",
            (false, true) => "ok",
            (false, false) => "FAIL",
        };
        println!("{what:<52} {text:>12} {spread:>23}  {bound:>12} {verdict}");
        if !kept {
            let failed = if *is_time { &mut self.slow } else { &mut self.failed };
            failed.push(format!("  {}: {}", self.section, what.trim()));
        }
    }

    /// Adds times, and where one of their bounds is not kept, measures more of them and says so: all that were measured count,
    /// which is for `measure` to see to. What is counted has no place in it.
    pub(crate) fn race(&mut self, mut measure: impl FnMut() -> Result<Vec<Row>, String>) -> Result<(), String> {
        let mut rows = measure()?;
        for _ in 1..attempts() {
            let Some(row) = rows.iter().find(|row| !row.kept) else { break };
            row.note_again();
            rows = measure()?;
        }
        for row in &rows {
            self.add(row);
        }
        Ok(())
    }

    /// Something that must hold, and has no number.
    pub(crate) fn holds(&mut self, what: &str, objections: &[String]) {
        println!("{what:<52} {:>12} {:>23}  {:>12} {}", "", "", "", if objections.is_empty() { "ok" } else { "FAIL" });
        for objection in objections {
            println!("    {objection}");
        }
        if !objections.is_empty() {
            self.failed.push(format!("  {}: {}", self.section, what.trim()));
        }
    }

    pub(crate) fn note(text: &str) {
        println!("    {text}");
    }

    /// What was asked for, and cannot be measured on this machine as it is.
    pub(crate) fn untold(&mut self, what: &str, why: &str) {
        println!("{what:<52} {:>12} {:>23}  {:>12} FAIL\n    {why}", "", "", "");
        self.failed.push(format!("  {}: {}", self.section, what.trim()));
    }

    /// Whether every bound is kept. With `TIMES=told` those of times are not asked for, as a machine that does other things
    /// as well has a say in them; those of calls, instructions, memory and size are, and that of a [`Row::far_ratio`].
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let are_told = are_times_told();
        if are_told && !self.slow.is_empty() {
            println!(
                "\nTIMES=told: {} bounds of times were not kept on this machine:\n{}",
                self.slow.len(),
                self.slow.join("\n")
            );
        }
        let failed: Vec<&str> =
            self.failed.iter().chain(self.slow.iter().filter(|_| !are_told)).map(String::as_str).collect();
        match &failed[..] {
            [] => Ok(()),
            failed => Err(format!("{} bounds are not kept:\n{}", failed.len(), failed.join("\n"))),
        }
    }
}

/// Three digits of what a person can compare.
fn shown(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}
