//! One run, from the policy to the outcome: policy → observe → judge → act → observe again.

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::act::units::StopError;
use crate::act::{self, ActError, Eyes, Step, Target, units};
use crate::cli::Cli;
use crate::deadlines::Deadlines;
use crate::interrupt::{self, Interrupt, Interruption};
use crate::judge::judge;
use crate::ledger::{self, LedgerError};
use crate::model::{
    Action, ActiveState, Asked, BlindRule, BlindSpot, Finding, ForeignRule, Obstacle, Outcome, Phase, Probe, Relation,
    Rules, Stopped, UnitName, Verdict,
};
use crate::observe::again::Again;
use crate::observe::holders::Thorough;
use crate::observe::pin::Pins;
use crate::observe::{Look, Place, Wanted};
use crate::policy;
use crate::probe::probe;
use crate::report::Report;
use crate::wait::{self, WAIT_FOR_STOPPING, Wait, Waited};
use crate::word;

/// A holder that starts anew whenever it is stopped is given up after so many times.
const MAX_STOPS: usize = 8;

/// A look that takes so long is said to have.
const LONG: Duration = Duration::from_secs(1);
const TO_THE_END: &str = "looking for all who may have the port, in all open files of all processes,";

/// How long those who hang may keep a start from being refused, all together, with what all looks have lost to such. Nothing
/// wakes whoever waits for that.
const WHO_HANGS: Duration = Duration::from_millis(1500);
const BETWEEN_TWO_GLANCES: Duration = Duration::from_millis(20);

/// How long that gets which may be gone in a moment. systemd does not wait for all that it has killed.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Guards one start of one unit, and reports all of it. The caller only has to exit; where it was ended from outside, it
/// does not come back.
pub fn run(args: &Cli, place: &Place, policies: &policy::Roots, report: &mut Report) -> Outcome {
    let rules = match rules(args, policies) {
        Ok(rules) => rules,
        Err(error) => {
            let (count, shown) = (error.problems().len(), error.shown().map(ToString::to_string).collect());
            let outcome = Outcome::BadPolicy { count, shown };
            report.outcome(&outcome, &[], &[]);
            return outcome;
        }
    };
    let mut guard = Guard {
        args,
        place,
        rules: &rules,
        report,
        began: Instant::now(),
        looked: Instant::now(),
        stopped: Stopped::default(),
        asked: Asked::default(),
        stops: 0,
        interrupt: Interrupt::default(),
        going: BTreeSet::new(),
        unclear: BTreeSet::new(),
        verdict: Rc::new(Verdict::Free),
        wait: Wait::default(),
        least: Thorough::IfNobodyFound,
        has_looked_long: false,
        told: BTreeSet::new(),
    };
    let mut outcome = guard.run();
    if let Some(by) = guard.interrupt.take() {
        outcome = guard.interrupted(by);
    }
    let Guard { report, verdict, interrupt, .. } = guard;
    report.outcome(&outcome, &rules.endpoints, verdict.findings());
    if let Outcome::Interrupted { signal, .. } = outcome {
        interrupt::end_by(signal);
    }
    interrupt.let_go();
    outcome
}

fn rules(args: &Cli, policies: &policy::Roots) -> Result<Rules, policy::PolicyError> {
    let policy = match &args.policy {
        Some(file) => policy::Policy::load_file(file)?,
        None => policy::Policy::load_for(&args.unit, policies)?,
    };
    // What it says of hundreds of other units is left to the exit.
    let policy = ManuallyDrop::new(policy);
    policy.rules_for(&args.unit, &|name| std::env::var(name).ok(), &args.ports)
}

struct Guard<'a> {
    args: &'a Cli,
    place: &'a Place,
    rules: &'a Rules,
    report: &'a mut Report,
    began: Instant,
    /// When the last look began.
    looked: Instant,
    stopped: Stopped,
    asked: Asked,
    /// How often something was stopped.
    stops: usize,
    interrupt: Interrupt,
    /// The units that were seen on their way down in this run.
    going: BTreeSet<UnitName>,
    /// The units of which it was not known once what had come of their stop.
    unclear: BTreeSet<UnitName>,
    /// Of the last look that was told of.
    verdict: Rc<Verdict>,
    wait: Wait,
    /// How thorough each look is at least.
    least: Thorough,
    /// Whether all processes were looked at once until somebody was found.
    has_looked_long: bool,
    /// What could not be seen, and what was asked instead of what is asked first, as it was said.
    told: BTreeSet<String>,
}

/// What one round came to.
enum Round {
    Done(Outcome),
    /// Something was stopped: look again.
    Stopped,
    /// What was to be stopped was gone or had changed before: look again.
    Settled,
    /// Something that was waited for has changed: look again.
    Waited,
}

impl Guard<'_> {
    fn run(&mut self) -> Outcome {
        if self.rules.endpoints.is_empty() {
            return Outcome::NoPorts;
        }
        let outcome = if self.all_free() { Outcome::Free } else { self.clear_the_way() };
        // A start that is refused leaves nothing behind; a loop of them must not push the others out of the ledger.
        if outcome.exit_status() == 0 && !self.args.dry_run {
            self.record();
        }
        outcome
    }

    /// Enters this start into the ledger: what it leaves behind can then be told, wherever it goes.
    fn record(&self) {
        if let Some(run) = self.place.present_run(&self.args.unit)
            && let Err(error) =
                ledger::record(&self.place.ledger, &self.args.unit, run, |unit| self.place.is_noted(unit))
        {
            let what = match error {
                LedgerError::TooLong { .. } => "the ledger could not be cut back",
                LedgerError::Io { .. } | LedgerError::Untrusted { .. } => "this start is not in the ledger",
            };
            self.report.warn(&format!("{what}, ignoring: {error}"));
        }
    }

    /// The fast path: nearly every start ends here.
    fn all_free(&self) -> bool {
        self.rules.endpoints.iter().all(|endpoint| {
            let seen = probe(endpoint, self.rules.reuse_address);
            self.report.detail(|| format!("{endpoint}: probe says {seen:?}"));
            seen == Probe::Free
        })
    }

    /// The slow path: looks, judges and acts, until everything was seen free, or it has to be given up.
    fn clear_the_way(&mut self) -> Outcome {
        let mut deadlines = Deadlines::new();
        self.interrupt = Interrupt::listen();
        let outcome = loop {
            let round = self.round(&mut deadlines);
            if let Some(by) = self.interrupt.take() {
                break self.interrupted(by);
            }
            match round {
                Ok(Round::Done(outcome)) => break outcome,
                Ok(Round::Waited) => {}
                Ok(round @ (Round::Stopped | Round::Settled)) => {
                    self.wait.is_over();
                    self.stops += 1;
                    self.place.forget_who_was_late();
                    if matches!(round, Round::Stopped) {
                        deadlines.stopped();
                        // Whoever was looked for so long was found. What is there now may be gone in a moment.
                        self.least = Thorough::IfNobodyFound;
                    } else {
                        deadlines.settled();
                    }
                }
                Err(error) => break failed(&error),
            }
        };
        deadlines.tell_manager(None, "");
        outcome
    }

    fn round(&mut self, deadlines: &mut Deadlines) -> Result<Round, ActError> {
        self.looked = Instant::now();
        let (look, verdict) = self.judged(deadlines.is_waiting());
        // However long it was looked.
        let is_in_the_dark =
            enough(&verdict, self.rules) == Some(Thorough::ToTheEnd) && misses_somebody(&look, &verdict);
        let verdict = Rc::new(if is_in_the_dark { unseen(verdict) } else { verdict });
        self.listen_for_the_units_own(&look);
        // What was seen may not be the whole then.
        if self.interrupt.has_come() {
            return Ok(Round::Waited);
        }
        deadlines.know(&look, &self.place.roots.run);
        let is_not_over = if is_in_the_dark {
            self.until_nobody_hangs(&look, deadlines)?
        } else {
            self.aftermath(&verdict, &look, deadlines)? || self.has_to_look_further(&verdict, &look)
        };
        if is_not_over {
            return Ok(Round::Waited);
        }
        self.tell(&look, &verdict);
        if self.interrupt.has_come() {
            return Ok(Round::Waited);
        }
        let done = match &*verdict {
            Verdict::Free | Verdict::Pass(_) if !self.stopped.is_nothing() => {
                Outcome::Freed { stopped: self.stopped.clone(), took: self.began.elapsed() }
            }
            Verdict::Free => Outcome::Free,
            Verdict::Pass(_) => Outcome::Passed,
            Verdict::Refuse(findings) => self.refused(findings, &look),
            Verdict::Wait(_) if self.args.dry_run => Outcome::WouldWait,
            Verdict::Clear(_) if self.args.dry_run => Outcome::WouldStop,
            Verdict::Clear(_) if self.stops == MAX_STOPS => {
                self.still_held(&format!("{MAX_STOPS} attempts to stop what holds it"))
            }
            Verdict::Wait(findings) => return self.wait(findings, deadlines, &look.pins),
            Verdict::Clear(findings) => {
                return match unit_to_stop(findings) {
                    None => self.stop(findings, deadlines, &look),
                    Some(unit) => self.stop_unit(unit, findings, deadlines, &look),
                };
            }
        };
        Ok(Round::Done(done))
    }

    /// What is in the way, judged. Nothing counts of a quick look but that it refuses, and that only while no unit was seen
    /// on its way down: whether all that is refused is of such units is for a look at all; and while nothing is waited for,
    /// as each round would take both looks. A look that would lead to a
    /// signal is taken again, at every process there is, and once more where sockets are in the way that wait for nobody. So is
    /// one that has found a manager in the way: the service to which it has passed its socket has to go as well.
    fn judged(&mut self, is_waiting: bool) -> (Look, Verdict) {
        let (place, rules) = (self.place, self.rules);
        let judge = |look: &Look| judge(&look.scene, rules);
        let closings = self.wait.closings();
        let wanted = Wanted { unit: &self.args.unit, rules, interrupt: &self.interrupt, closings };
        let (mut thorough, mut others) = (self.least, false);
        if thorough == Thorough::IfNobodyFound && !is_waiting && self.stopped.is_nothing() && self.going.is_empty() {
            match place.quick_look(&wanted) {
                Ok(quick) => {
                    let verdict = judge(&quick);
                    match enough(&verdict, rules) {
                        Some(enough) => thorough = enough,
                        None if matches!(verdict, Verdict::Refuse(_)) => return (quick, verdict),
                        None => {}
                    }
                }
                Err(instead) => thorough = instead,
            }
        }
        loop {
            if thorough == Thorough::ToTheEnd {
                place.forget_who_was_late();
            }
            let began = Instant::now();
            let look = place.look(&wanted, thorough, others);
            let took = began.elapsed();
            if thorough == Thorough::ToTheEnd && took >= LONG && self.told.insert(TO_THE_END.to_owned()) {
                self.report.warn(&format!("{TO_THE_END} has taken {:.1} s", took.as_secs_f64()));
            }
            let verdict = judge(&look);
            let Some(enough) = enough(&verdict, rules).filter(|_| !self.interrupt.has_come()) else {
                return (look, verdict);
            };
            if thorough >= enough {
                if others || !matches!(verdict, Verdict::Clear(_)) || !place.has_others(&wanted, &look.scene) {
                    return (look, verdict);
                }
                others = true;
            }
            thorough = thorough.max(enough);
        }
    }

    /// Whether somebody has a socket who was not found for want of time: nothing is concluded from that but beside somebody else, for
    /// whom it is refused. Then all are looked at, until each socket has somebody, and it is said, as that may take longer than the
    /// start may.
    fn has_to_look_further(&mut self, verdict: &Verdict, look: &Look) -> bool {
        let has_nobody = |finding: &Finding| {
            // What PID 1 may have for somebody, of whom it does not tell, is busy; the others are connections.
            let is_connection = matches!(finding.relation, Relation::Unchecked(seen) if seen != Probe::Busy);
            let is_known = matches!(finding.relation, Relation::TimeWait | Relation::OwnSocketUnit(_));
            finding.socket.is_some() && finding.holder.is_none() && !is_connection && !is_known
        };
        let is_refused = |finding: &Finding| finding.action == Action::Refuse && !has_nobody(finding);
        let findings = verdict.findings();
        let is_in_doubt = findings.iter().any(has_nobody) && !findings.iter().any(is_refused);
        if !is_in_doubt || !look.has_passed_over() || self.least >= Thorough::UntilAllAreFound {
            return false;
        }
        let what =
            "who has the port was not found in time: looking at all processes until it is, which takes what it takes";
        // Where those who were found like that were not all, the others are not to be found one after the other.
        self.least = if self.has_looked_long { Thorough::ToTheEnd } else { Thorough::UntilAllAreFound };
        if !std::mem::replace(&mut self.has_looked_long, true) {
            self.report.warn(what);
        }
        true
    }

    /// The signals by which the manager ends this command, if it is one in front of the unit's start.
    fn listen_for_the_units_own(&mut self, look: &Look) {
        let signals = [look.facts.kill_signal, look.facts.restart_kill_signal];
        for signal in signals.into_iter().flatten().filter(|_| look.scene.guarded.phase == Phase::Within) {
            self.interrupt.listen_for(signal);
        }
    }

    /// Whether nobody hangs any more, where it would be refused for those alone: then it is looked anew. Waits for that, and says
    /// for whom.
    fn until_nobody_hangs(&mut self, look: &Look, deadlines: &mut Deadlines) -> Result<bool, ActError> {
        if look.has_passed_over() {
            return Ok(false);
        }
        let (left, extend) = deadlines.hang_left(WHO_HANGS, word::lost());
        if left.is_zero() {
            return Ok(false);
        }
        self.tell_of_blind_spots(look, false);
        deadlines.tell_manager(extend, "waiting for a process that hangs");
        let began = Instant::now();
        while word::has_left_any() && began.elapsed() < left && !self.interrupt.has_come() {
            self.interrupt.wait_for(&[], BETWEEN_TWO_GLANCES).map_err(ActError::Wait)?;
        }
        deadlines.hung_for(began.elapsed());
        self.place.forget_who_was_late();
        // Whoever ends us is told of first.
        Ok(!word::has_left_any() || self.interrupt.has_come())
    }

    /// Whether all that is refused may be gone in a moment: what is of units that went down under our eyes, what no process
    /// has, and what has changed during each of several looks. Waits for that.
    ///
    /// Whoever ends has no open files any more before its sockets are closed (`exit_files()` and `exit_task_work()`, Linux
    /// `do_exit()`, `kernel/exit.c`), and those of its `io_uring` are closed in the kernel's own time. Where not every process
    /// may be looked at, such a socket looks like one of those; that is worth a moment after a stop alone, or where it is only
    /// because somebody was late.
    ///
    /// Nor can it be read of one that is still on its way out what proves whose it is: its memory goes first (`exit_mm()`), which
    /// takes longer the more it has.
    fn aftermath(&mut self, verdict: &Verdict, look: &Look, deadlines: &mut Deadlines) -> Result<bool, ActError> {
        // Of those of the manager that has the guarded unit: another's can have any name.
        let unit_of = |finding: &Finding, state| {
            let is_anothers = finding.relation.is_of_another_manager(look.scene.guarded.user);
            finding.relation.unit().filter(|_| !is_anothers && finding.unit_state == state).cloned()
        };
        // It has said more in this start, and may do so again in a moment.
        let was_told = look.scene.guarded.knows_triggers && look.scene.is_manager_silent();
        self.going.extend(verdict.findings().iter().filter_map(|finding| unit_of(finding, ActiveState::Stopping)));
        // Of one that was on its way down it may not be told for a moment where it is now.
        let was_going =
            |finding: &Finding, state| unit_of(finding, state).is_some_and(|unit| self.going.contains(&unit));
        let (Verdict::Refuse(findings) | Verdict::Pass(findings)) = verdict else { return Ok(false) };
        // What the policy ignores is in the way of the service's own bind all the same.
        let is_left = |finding: &Finding| {
            finding.action == Action::Pass
                && !self.stopped.is_nothing()
                && matches!(finding.relation, Relation::KernelHeld | Relation::Hidden)
        };
        let is_in_the_way = |finding: &&Finding| finding.action == Action::Refuse || is_left(finding);
        let refused: Vec<&Finding> = findings.iter().filter(is_in_the_way).collect();
        if refused.is_empty() {
            return Ok(false);
        }
        let is_asked = |pid| self.asked.processes.contains(&pid);
        // For whom there was no time, they are looked at next, and that is a look anew.
        let are_late = look.hides_only_for_want_of_time() && !look.has_passed_over();
        let all_could_be_seen = are_late && !look.late().any(is_asked);
        let may_be_gone = |finding: &&Finding| {
            finding.relation == Relation::KernelHeld
                || (finding.relation == Relation::Hidden && (!self.stopped.is_nothing() || all_could_be_seen))
                || (finding.relation == Relation::Client && finding.holder.is_none() && !self.stopped.is_nothing())
                || was_going(finding, ActiveState::Down)
                || was_going(finding, ActiveState::Unknown)
                || (was_told && finding.obstacle == Some(Obstacle::Untold))
        };
        if !look.scene.blind_spots.contains(&BlindSpot::Unsteady) && !refused.iter().all(may_be_gone) {
            return Ok(false);
        }
        // What else that unit has goes with it.
        let is_stopping = findings.iter().any(|finding| finding.unit_state == ActiveState::Stopping);
        let is_going = is_stopping || findings.iter().any(|finding| was_going(finding, ActiveState::Unknown));
        let ending = if look.ending { WAIT_FOR_STOPPING } else { AFTERMATH };
        let going = if is_going { self.rules.wait.unwrap_or(WAIT_FOR_STOPPING) } else { AFTERMATH };
        // What was waited for has no more time where it is not told how it is now.
        let going = if is_stopping || !deadlines.is_waiting() { going } else { going.min(deadlines.wait_left()) };
        let span = ending.max(going);
        let (left, extend) = deadlines.aftermath_left(span, is_going);
        if left.is_zero() {
            return Ok(false);
        }
        deadlines.tell_manager(extend, "waiting for a port that is about to be free");
        self.waited(refused.into_iter(), &look.pins).for_a_moment(left)?;
        self.place.forget_who_was_late();
        Ok(true)
    }

    fn waited<'a>(&'a self, findings: impl Iterator<Item = &'a Finding>, pins: &'a Pins) -> Waited<'a> {
        Waited::of(findings, pins, self.rules, &self.interrupt)
    }

    fn tell(&mut self, look: &Look, verdict: &Rc<Verdict>) {
        for fallback in &look.fallbacks {
            if self.told.insert(fallback.clone()) {
                self.report.warn(fallback);
            }
        }
        self.report.findings(verdict.findings());
        let unchecked = |finding: &Finding| matches!(finding.relation, Relation::Unchecked(_));
        let hindered = matches!(**verdict, Verdict::Refuse(_) | Verdict::Wait(_));
        self.tell_of_blind_spots(look, hindered || verdict.findings().iter().any(unchecked));
        self.verdict = Rc::clone(verdict);
    }

    /// What could not be seen matters only to somebody who is not let through, or was for want of an answer; that systemd
    /// has not answered, or a process, or that not all processes were looked at, also to somebody who wonders where a second
    /// or two have gone.
    fn tell_of_blind_spots(&mut self, look: &Look, matter: bool) {
        let matter = matter || self.args.verbose;
        let takes_time = |spot: &BlindSpot| {
            matches!(spot, BlindSpot::Manager(_) | BlindSpot::Late(_) | BlindSpot::PassedOver { .. })
        };
        for spot in look.scene.blind_spots.iter().filter(|spot| matter || takes_time(spot)) {
            if self.told.insert(spot.uncounted().to_string()) {
                self.report.blind_spot(spot);
            }
        }
    }

    fn refused(&self, findings: &[Finding], look: &Look) -> Outcome {
        let after = self.after();
        let unseen = look.late().find(|pid| self.asked.processes.contains(pid));
        let mut refused =
            findings.iter().filter(|finding| finding.action == Action::Refuse).map(|finding| &finding.relation);
        // What is the unit's own is refused only for those who could not be looked at.
        let is_unchecked = |relation: &Relation| {
            matches!(relation, Relation::Unchecked(_) | Relation::OwnSocketUnit(_) | Relation::OwnFdStore)
        };
        if refused.clone().all(is_unchecked) {
            self.unchecked()
        } else if refused.all(|relation| matches!(relation, Relation::Hidden | Relation::Unchecked(_))) {
            if let Some(pid) = unseen {
                let why = format!("pid {pid} was signalled, and cannot be looked at any more in time");
                let hindrance = self.place.hindrance_of(pid).map(|hindrance| (pid, hindrance));
                return Outcome::StillHeld { took: self.began.elapsed(), why, hindrance };
            }
            let why =
                if look.hides_only_for_want_of_time() { "cannot be looked at in time" } else { "may not be seen" };
            Outcome::NotPermitted(format!("held, and who holds it {why}{after}"))
        } else {
            self.refused_for(None)
        }
    }

    fn unchecked(&self) -> Outcome {
        Outcome::NotPermitted(format!("could not be checked, which on-blind refuses{}", self.after()))
    }

    /// What was stopped before.
    fn after(&self) -> String {
        if self.stopped.is_nothing() { String::new() } else { format!(", after {}", self.stopped) }
    }

    fn refused_for(&self, why: Option<String>) -> Outcome {
        Outcome::Refused { stopped: self.stopped.clone(), signalled: self.asked.processes.clone(), why }
    }

    fn stop(&mut self, findings: &[Finding], deadlines: &mut Deadlines, look: &Look) -> Result<Round, ActError> {
        let Some((ladder, budget)) = deadlines.ladder(&self.rules.stop, look) else {
            return Ok(Round::Done(self.does_not_end(findings, Action::Stop, "it does not end".to_owned())));
        };
        let targets = targets(findings, &look.pins);
        deadlines.tell_manager(budget.extend, &format!("stopping {} processes that hold a port", targets.len()));
        let (place, report) = (self.place, &self.report);
        let closings = wait::closings(findings.iter());
        let eyes = Eyes { closings: closings.as_ref(), interrupt: &self.interrupt };
        let mut again = place.again(&self.interrupt);
        let tell = &mut |step: &Step<'_>| report.step(step, &|process| place.hindrance(process));
        let count = act::stop(&targets, &eyes, &mut again, &ladder, &budget, &mut self.asked.processes, tell)?;
        self.stopped.processes += count.ended;
        if look.facts.active == ActiveState::Unknown {
            // The manager may tell the unit's own times by now, and those begin anew then.
            deadlines.stop_begins_anew(count.alive > 0);
        } else if count.alive > 0 {
            // The whole ladder was climbed. One more look tells whether it was enough.
            deadlines.stop_is_over();
        }
        if count.alive == 0 && count.ended == 0 {
            // All of them were gone or changed: whatever goes on there, it is not to be watched in a tight loop.
            self.waited(findings.iter(), &look.pins).settle()?;
            return Ok(Round::Settled);
        }
        Ok(Round::Stopped)
    }

    /// Has the manager stop one unit, before any process is signalled: if it will not, nothing was touched. Then all is
    /// looked at again, as that may have taken its time.
    fn stop_unit(
        &mut self,
        unit: &UnitName,
        findings: &[Finding],
        deadlines: &mut Deadlines,
        look: &Look,
    ) -> Result<Round, ActError> {
        if self.stopped.units.contains(unit) {
            return Ok(Round::Done(self.still_held(&format!("{unit} was stopped, and has come back"))));
        }
        let place = self.place;
        let of_unit = findings.iter().filter(|finding| finding.action == Action::StopUnit);
        let of_unit: Vec<&Finding> = of_unit.filter(|finding| finding.relation.unit() == Some(unit)).collect();
        let mut again = place.again(&self.interrupt);
        if !of_unit.iter().any(|finding| still_holds(finding, &look.pins, &mut again)) {
            self.waited(of_unit.into_iter(), &look.pins).settle()?;
            return Ok(Round::Settled);
        }
        let budget = deadlines.budget_for_unit(look);
        deadlines.tell_manager(budget.extend, &format!("waiting for {unit} to stop"));
        self.report.step(&Step::StopUnit { unit }, &|_| None);
        let begin = Instant::now();
        let has_bus = look.has_bus;
        let patience = budget.patience + budget.grace;
        let result = units::stop(unit, place.scope, &place.roots.run, has_bus, patience, &self.interrupt);
        if result != Err(StopError::NotAsked) && !self.asked.units.contains(unit) {
            self.asked.units.push(unit.clone());
        }
        Ok(match result {
            // Which is for the next round to say.
            Err(StopError::NotAsked) => Round::Waited,
            // It may be on its way down, be down, or be up anew: then it is another thing to stop, or none.
            Err(error @ StopError::Unclear(_)) if self.unclear.insert(unit.clone()) => {
                self.report.warn(&format!("{unit}: {error}; looking again"));
                self.going.insert(unit.clone());
                self.waited(of_unit.into_iter(), &look.pins).settle()?;
                Round::Stopped
            }
            Ok(()) => {
                self.report.step(&Step::UnitStopped { unit, after: begin.elapsed() }, &|_| None);
                self.stopped.units.push(unit.clone());
                self.going.insert(unit.clone());
                Round::Stopped
            }
            Err(error @ (StopError::Late | StopError::Failed(_) | StopError::Unclear(_))) => {
                Round::Done(self.does_not_end(findings, Action::StopUnit, format!("{unit}: {error}")))
            }
            Err(error @ StopError::Refused(_)) => {
                let why = Some(format!("{unit}: {error}"));
                Round::Done(self.refused_for(why))
            }
        })
    }

    fn wait(&mut self, findings: &[Finding], deadlines: &mut Deadlines, pins: &Pins) -> Result<Round, ActError> {
        let waited_for = findings.iter().filter(|finding| finding.action == Action::Wait);
        let waited = Waited::of(waited_for, pins, self.rules, &self.interrupt);
        let is_first = !deadlines.is_waiting();
        let extend = deadlines.wait_for(waited.patience());
        deadlines.tell_manager(extend, "waiting for a port that is held");
        let has_changed = self.wait.until_changed(&waited, self.looked, is_first, deadlines)?;
        word::nothing_was_lost();
        self.place.forget_who_was_late();
        // What has changed since is looked for anew.
        self.least = self.least.min(Thorough::UntilAllAreFound);
        Ok(if has_changed { Round::Waited } else { Round::Done(self.still_held("the wait is over")) })
    }

    fn interrupted(&self, by: Interruption) -> Outcome {
        Outcome::Interrupted {
            signal: by.signal,
            sender: by.sender,
            took: self.began.elapsed(),
            asked: self.asked.clone(),
        }
    }

    fn still_held(&self, why: &str) -> Outcome {
        Outcome::StillHeld { took: self.began.elapsed(), why: why.to_owned(), hindrance: None }
    }

    /// Nothing has helped with those about whom this was to be done.
    fn does_not_end(&self, findings: &[Finding], action: Action, why: String) -> Outcome {
        let stopped = findings.iter().filter(|finding| finding.action == action);
        let mut hindered = stopped.filter_map(|finding| {
            let holder = finding.holder.as_ref()?;
            Some((holder.pid, self.place.hindrance(holder)?))
        });
        Outcome::StillHeld { took: self.began.elapsed(), why, hindrance: hindered.next() }
    }
}

fn failed(error: &ActError) -> Outcome {
    match error {
        ActError::NotPermitted(_) => Outcome::NotPermitted(format!("held, and {error}")),
        ActError::NoPidfd(_) | ActError::Wait(_) | ActError::Signal(_) => Outcome::Internal(error.to_string()),
    }
}

/// How thorough the look has to be that leads to this; `None`: any is. Every process has to be looked at where something may be
/// stopped, or a service manager has a socket; and nobody passed over where what is stopped is up and no leftover, or a start that
/// could not be checked is refused.
fn enough(verdict: &Verdict, rules: &Rules) -> Option<Thorough> {
    let has_manager = verdict.findings().iter().any(is_managers);
    // Who lets anybody pass need not know whom.
    let is_strict = rules.on_blind == BlindRule::Refuse && rules.on_foreign != ForeignRule::Ignore;
    match verdict {
        Verdict::Clear(findings) if findings.iter().any(is_up) => Some(Thorough::ToTheEnd),
        Verdict::Clear(_) => Some(Thorough::Always),
        Verdict::Pass(_) if has_manager && is_strict => Some(Thorough::ToTheEnd),
        Verdict::Free | Verdict::Pass(_) | Verdict::Refuse(_) | Verdict::Wait(_) => {
            has_manager.then_some(Thorough::Always)
        }
    }
}

/// Whether somebody was not looked at who might be in the way, however long it was looked. One who hangs counts where a pass is to
/// be sure alone: he could keep any unit from being replaced.
fn misses_somebody(look: &Look, verdict: &Verdict) -> bool {
    let would_pass = matches!(verdict, Verdict::Pass(_));
    look.has_passed_over() || (would_pass && look.late().next().is_some())
}

/// What is up is not touched, and with it nothing is stopped of what was to be; nor does a start pass beside a manager's socket.
fn unseen(verdict: Verdict) -> Verdict {
    let (mut findings, is_refused): (_, fn(&Finding) -> bool) = match verdict {
        Verdict::Clear(findings) => (findings, is_up),
        Verdict::Pass(findings) => (findings, is_managers),
        Verdict::Free | Verdict::Wait(_) | Verdict::Refuse(_) => return verdict,
    };
    for finding in &mut findings {
        if is_refused(finding) {
            (finding.action, finding.obstacle) = (Action::Refuse, Some(Obstacle::Unseen));
        } else if finding.action == Action::Stop {
            finding.action = Action::Spare;
        }
    }
    Verdict::Refuse(findings)
}

/// Also where the manager cannot be looked into, and is told by the birth of the socket.
fn is_managers(finding: &Finding) -> bool {
    let is_told_by_birth = matches!(finding.relation, Relation::OwnSocketUnit(_));
    is_told_by_birth || finding.holder.as_ref().is_some_and(|holder| holder.is_manager())
}

/// It is to be stopped, and no leftover.
fn is_up(finding: &Finding) -> bool {
    match finding.action {
        Action::StopUnit => true,
        Action::Stop => finding.relation == Relation::Lookalike,
        Action::Pass | Action::Wait | Action::Refuse | Action::Spare => false,
    }
}

/// The next unit to stop.
fn unit_to_stop(findings: &[Finding]) -> Option<&UnitName> {
    findings.iter().filter(|finding| finding.action == Action::StopUnit).find_map(|finding| finding.relation.unit())
}

/// Whether the holder is there as it was judged: in its cgroup, and with the socket.
fn still_holds(finding: &Finding, pins: &Pins, again: &mut Again<'_>) -> bool {
    // Without one, the manager was told by the socket's birth.
    let (Some(holder), Some(socket)) = (&finding.holder, &finding.socket) else { return true };
    act::still_holds(holder, pins.of(holder.pid), &[socket.inode], again)
}

/// Each process once, with all of its sockets that are in the way.
fn targets<'a>(findings: &'a [Finding], pins: &'a Pins) -> Vec<Target<'a>> {
    let mut all: Vec<Target<'_>> = Vec::new();
    for finding in findings.iter().filter(|finding| finding.action == Action::Stop) {
        let (Some(process), Some(socket)) = (&finding.holder, &finding.socket) else { continue };
        match all.iter_mut().find(|target| target.process.pid == process.pid) {
            Some(target) => target.inodes.push(socket.inode),
            None => all.push(Target {
                process,
                pidfd: pins.of(process.pid),
                inodes: vec![socket.inode],
                by_argv: finding.relation == Relation::Lookalike,
            }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn rules(defaults: &str) -> Rules {
        let text = format!("[defaults]\n{defaults}\n[unit.\"app.service\"]\nports = [\"8080/tcp\"]\n");
        let policy = policy::Policy::parse(&text, Path::new("portguard.toml")).unwrap();
        policy.rules_for(&"app.service".parse().unwrap(), &|_| None, &[]).unwrap()
    }

    /// As it is where systemd makes the listeners of socket units in their own cgroups (`socket_address_listen_in_cgroup()`, v257
    /// `src/core/socket.c`, where BPF is there), and portguard may not look into PID 1. No machine of the lab has BPF.
    #[test]
    fn a_manager_is_one_also_where_only_the_birth_of_its_socket_tells() {
        let finding = |relation| Finding {
            endpoint: rules("").endpoints[0],
            socket: None,
            holder: None,
            birthplace: None,
            relation,
            action: Action::Pass,
            obstacle: None,
            unit_state: ActiveState::Unknown,
        };
        let own = Verdict::Pass(vec![finding(Relation::OwnSocketUnit("app.socket".parse().unwrap()))]);
        let (strict, lax) = ("on-blind = \"refuse\"", "on-blind = \"refuse\"\non-foreign = \"ignore\"");
        for (defaults, expected) in [("", Thorough::Always), (strict, Thorough::ToTheEnd), (lax, Thorough::Always)] {
            assert_eq!(enough(&own, &rules(defaults)), Some(expected), "{defaults}");
        }
        let refused = |verdict: &Verdict| verdict.findings().iter().all(|finding| finding.action == Action::Refuse);
        assert!(refused(&unseen(own)));
        let others = Verdict::Pass(vec![finding(Relation::KernelHeld)]);
        assert_eq!(enough(&others, &rules(lax)), None);
        assert!(!refused(&unseen(others)));
    }
}
