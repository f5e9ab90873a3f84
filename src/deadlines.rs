//! By when all of one run has to be over: its waits, its stops, and what systemd gives the start.
//!
//! It has the clock, and the word to the manager that asks for more time. What is done in that time is others' to say.

use std::path::Path;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use crate::act::{Budget, Ladder};
use crate::model::StopRules;
use crate::observe::Look;
use crate::sys;

/// How long a word to the manager may take: a full socket blocks.
const NOTIFY_PATIENCE: Duration = Duration::from_millis(100);

/// A unit that has no bound for its stop is waited for so long, where the start has no bound either.
const LONGEST_STOP: Duration = Duration::from_hours(1);

/// By when all has to be over. What the manager has not told yet is not known.
#[derive(Debug)]
pub(crate) struct Deadlines {
    began: Instant,
    /// Since when nothing is stopped by signals: it is waited, or a unit is stopped.
    idle_since: Option<Instant>,
    /// When the first wait after the last stop began.
    waiting_since: Option<Instant>,
    /// When waiting has to be over; set when it begins.
    wait_until: Instant,
    may_notify: bool,
    /// When the start has to be over, but for a word to the manager.
    give_up_at: Option<Instant>,
    /// Since when it is waited for what may be gone in a moment; set when the first after a stop or a wait is seen.
    aftermath: Option<Instant>,
    /// The same, while a unit is on its way down that has some of it.
    going: Option<Instant>,
    /// How long it was waited for those who hang.
    hung: Duration,
    /// When stopping has to be over; set when it begins.
    stop_by: Option<Instant>,
    /// Whether a stop was in vain whose time is none of the unit's own.
    was_in_vain: bool,
}

impl Deadlines {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            idle_since: None,
            waiting_since: None,
            wait_until: Instant::now(),
            may_notify: false,
            give_up_at: None,
            aftermath: None,
            going: None,
            hung: Duration::ZERO,
            stop_by: None,
            was_in_vain: false,
        }
    }

    /// `run`: where the manager's own socket is.
    pub(crate) fn know(&mut self, look: &Look, run: &Path) {
        // The unit's environment can name any other: root does not write there.
        let socket = std::env::var_os("NOTIFY_SOCKET");
        let is_managers = socket.is_some_and(|socket| Path::new(&socket) == run.join("systemd/notify"));
        self.may_notify = look.facts.helpers_may_notify && is_managers;
        // Of the whole, so that it is the same however late it is.
        let reserve = |left: Duration| Budget::GRACE.min((left + self.began.elapsed()) / 10);
        self.give_up_at = look.left.map(|left| Instant::now() + left.saturating_sub(reserve(left)));
    }

    /// Whether something was waited for after the last stop.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting_since.is_some()
    }

    /// What was stopped may have taken its time, which is no wait's; and its own processes get theirs to be gone.
    pub(crate) fn stopped(&mut self) {
        self.settled();
        (self.aftermath, self.going) = (None, None);
    }

    /// The same where nothing was there any more to stop, which gives nobody another moment: it can be so again and again.
    pub(crate) fn settled(&mut self) {
        self.go_on();
        self.waiting_since = None;
    }

    fn be_idle(&mut self) {
        self.idle_since.get_or_insert_with(Instant::now);
    }

    /// What was waited for since the last stop took none of its time.
    fn go_on(&mut self) {
        let idle = self.idle_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.stop_by = self.stop_by.map(|stop_by| stop_by + idle);
    }

    /// Waits that follow each other are one, which a stop before it does not use up. It must not outlive the start; for how
    /// much more time the manager has to be asked, where it listens.
    pub(crate) fn wait_for(&mut self, patience: Option<Duration>) -> Option<Duration> {
        self.be_idle();
        self.wait_until = *self.waiting_since.get_or_insert_with(Instant::now) + patience.unwrap_or_default();
        (self.aftermath, self.going) = (None, None);
        let give_up_at = self.give_up_at?;
        if self.may_notify {
            return self.extension(self.wait_left());
        }
        self.wait_until = self.wait_until.min(give_up_at);
        None
    }

    /// The time for which the manager has to be asked, for so long a wait from now on: where it has a bound, and listens.
    fn extension(&self, wait: Duration) -> Option<Duration> {
        self.give_up_at.filter(|_| self.may_notify).map(|_| wait + Budget::GRACE)
    }

    /// What is left of the wait.
    pub(crate) fn wait_left(&self) -> Duration {
        self.wait_until.saturating_duration_since(Instant::now())
    }

    /// What is left of so long for what may be gone in a moment; it begins with the first question after a stop or a wait. For
    /// what it must not outlive, and the time to ask for, see [`Self::wait_for`].
    ///
    /// `is_going`: its unit is there, and on its way down; once that is over, it is another moment.
    pub(crate) fn aftermath_left(&mut self, span: Duration, is_going: bool) -> (Duration, Option<Duration>) {
        let since = if is_going {
            self.aftermath = None;
            &mut self.going
        } else {
            &mut self.aftermath
        };
        let until = *since.get_or_insert_with(Instant::now) + span;
        self.left_until(until)
    }

    /// The same of so long for those who hang, in all of a run: the looks have `lost` some of it to them.
    pub(crate) fn hang_left(&mut self, span: Duration, lost: Duration) -> (Duration, Option<Duration>) {
        self.left_until(Instant::now() + span.saturating_sub(lost + self.hung))
    }

    /// It was waited for them.
    pub(crate) fn hung_for(&mut self, waited: Duration) {
        self.hung += waited;
    }

    fn left_until(&mut self, until: Instant) -> (Duration, Option<Duration>) {
        self.be_idle();
        let until = self.give_up_at.filter(|_| !self.may_notify).map_or(until, |give_up_at| until.min(give_up_at));
        let left = until.saturating_duration_since(Instant::now());
        (left, self.extension(left))
    }

    /// The next stop has all its time again. What was asked `in_vain` is asked like that no more than twice.
    pub(crate) fn stop_begins_anew(&mut self, in_vain: bool) {
        let is_over = in_vain && std::mem::replace(&mut self.was_in_vain, true);
        self.stop_by = is_over.then(Instant::now);
    }

    /// There is no time for another stop.
    pub(crate) fn stop_is_over(&mut self) {
        self.stop_by = Some(Instant::now());
    }

    /// The ladder, and the time that is left for it; `None` once it is used up.
    pub(crate) fn ladder(&mut self, rules: &StopRules, look: &Look) -> Option<(Ladder, Budget)> {
        let ladder = Ladder::new(rules, &look.facts);
        let budget = self.budget(ladder.patience, look)?;
        Some((ladder, budget))
    }

    /// The time for a unit to stop, which systemd itself bounds by that unit's `TimeoutStopSec=`: whatever the start has
    /// left, and where it can ask for more, no less than the default of that. It is no time of what is stopped by signals.
    pub(crate) fn budget_for_unit(&mut self, look: &Look) -> Budget {
        self.be_idle();
        let left = look.left.map_or(LONGEST_STOP, |left| left.saturating_sub(Budget::GRACE * 3));
        Budget::fit(left.max(Ladder::DEFAULT_PATIENCE), look.left, self.may_notify)
    }

    /// The time that is left for a stop that may take `patience`; `None` once it is used up.
    fn budget(&mut self, patience: Duration, look: &Look) -> Option<Budget> {
        let budget = Budget::fit(patience, look.left, self.may_notify);
        self.go_on();
        let now = Instant::now();
        let stop_by = *self.stop_by.get_or_insert(now + budget.patience + budget.grace);
        let left = stop_by.checked_duration_since(now).filter(|left| !left.is_zero())?;
        let patience = budget.patience.min(left.saturating_sub(budget.grace));
        Some(Budget { patience, ..budget })
    }

    /// Tells the manager what is going on, and asks it for time, if it listens to a command like this one: one that
    /// does not would log a warning about it.
    pub(crate) fn tell_manager(&self, extend: Option<Duration>, status: &str) {
        if !self.may_notify {
            return;
        }
        let mut message = vec![NotifyState::Status(status)];
        // That may be more than the 71 minutes of `NotifyState::ExtendTimeoutUsec`.
        let extend = extend.map(|extend| format!("EXTEND_TIMEOUT_USEC={}", extend.as_micros()));
        message.extend(extend.as_deref().map(NotifyState::Custom));
        // The manager can be busy, and its queue full.
        // Without an answer it is as if it had not been asked.
        sys::arm_alarm(NOTIFY_PATIENCE);
        let _ = sd_notify::notify(&message);
        sys::disarm_alarm();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{ActiveState, Guarded, Phase, Scene, UnitFacts};
    use crate::observe::pin::Pins;

    fn look(left: Option<Duration>) -> Look {
        let guarded = Guarded {
            unit: "app.service".parse().unwrap(),
            user: None,
            phase: Phase::Within,
            invocation: None,
            ended: None,
            known: Vec::new(),
            triggered_by: Vec::new(),
            knows_triggers: false,
            runs: Vec::new(),
            stored: None,
            keeps_files: false,
            program: None,
        };
        let scene = Scene { guarded, endpoints: Vec::new(), units: BTreeMap::new(), blind_spots: Vec::new() };
        let active = ActiveState::Up;
        let facts = UnitFacts { active, timeout_stop: Some(Duration::from_secs(10)), ..UnitFacts::default() };
        Look { scene, facts, pins: Pins::default(), left, has_bus: true, fallbacks: Vec::new(), ending: false }
    }

    #[test]
    fn what_is_waited_for_between_two_stops_takes_none_of_their_time() {
        let rules = StopRules::default();
        let ago = |since: Option<Instant>, seconds| since.and_then(|at| at.checked_sub(Duration::from_secs(seconds)));
        for waits in [
            |deadlines: &mut Deadlines| deadlines.wait_for(None),
            |deadlines: &mut Deadlines| deadlines.aftermath_left(Duration::from_mins(1), true).1,
            |deadlines: &mut Deadlines| deadlines.aftermath_left(Duration::from_mins(1), false).1,
            |deadlines: &mut Deadlines| deadlines.hang_left(Duration::from_mins(1), Duration::ZERO).1,
        ] {
            let mut deadlines = Deadlines::new();
            let _ = deadlines.ladder(&rules, &look(None));
            deadlines.stopped();
            // It had taken 4 s, and then came a wait of 30 s.
            deadlines.stop_by = ago(deadlines.stop_by, 34);
            let _ = waits(&mut deadlines);
            deadlines.idle_since = ago(deadlines.idle_since, 25);
            // One follows the other.
            let _ = deadlines.wait_for(None);
            deadlines.idle_since = ago(deadlines.idle_since, 5);
            let (_, second) = deadlines.ladder(&rules, &look(None)).expect("time for a second stop");
            assert!(
                second.patience > Duration::from_secs(5) && second.patience <= Duration::from_secs(6),
                "{second:?}"
            );
            // One that was over stays so.
            deadlines.stop_is_over();
            deadlines.stopped();
            let _ = waits(&mut deadlines);
            assert_eq!(deadlines.ladder(&rules, &look(None)), None);
        }
    }

    #[test]
    fn what_a_unit_takes_to_stop_and_what_was_waited_before_is_none_of_a_processs_time() {
        let ago = |since: Option<Instant>, seconds| since.and_then(|at| at.checked_sub(Duration::from_secs(seconds)));
        for waited_before in [false, true] {
            let mut deadlines = Deadlines::new();
            let _ = deadlines.ladder(&StopRules::default(), &look(None));
            deadlines.stopped();
            deadlines.stop_by = ago(deadlines.stop_by, 34);
            if waited_before {
                let _ = deadlines.wait_for(None);
                deadlines.idle_since = ago(deadlines.idle_since, 15);
            }
            let _ = deadlines.budget_for_unit(&look(None));
            deadlines.idle_since = ago(deadlines.idle_since, if waited_before { 15 } else { 30 });
            deadlines.stopped();
            let (_, second) = deadlines.ladder(&StopRules::default(), &look(None)).expect("time for a second stop");
            assert!(
                second.patience > Duration::from_secs(5) && second.patience <= Duration::from_secs(6),
                "{second:?}"
            );
        }
    }

    #[test]
    fn what_is_kept_of_the_starts_time_is_the_same_however_late_it_is() {
        let mut deadlines = Deadlines::new();
        deadlines.began = deadlines.began.checked_sub(Duration::from_secs(85)).unwrap();
        deadlines.know(&look(Some(Duration::from_secs(5))), Path::new("/run"));
        assert!(deadlines.give_up_at <= Some(Instant::now()), "{deadlines:?}");
        deadlines.know(&look(Some(Duration::from_secs(8))), Path::new("/run"));
        let left = deadlines.give_up_at.unwrap().saturating_duration_since(Instant::now());
        assert!(left > Duration::from_millis(2900) && left <= Duration::from_secs(3), "{left:?}");
    }

    #[test]
    fn all_rounds_of_stopping_share_one_deadline() {
        let mut deadlines = Deadlines::new();
        let (_, first) = deadlines.ladder(&StopRules::default(), &look(None)).unwrap();
        assert_eq!(first.patience, Duration::from_secs(10));
        deadlines.stop_by = deadlines.stop_by.and_then(|by| by.checked_sub(Duration::from_secs(4)));
        let (_, second) = deadlines.ladder(&StopRules::default(), &look(None)).unwrap();
        assert!(second.patience <= Duration::from_secs(6), "{second:?}");
        deadlines.stop_is_over();
        assert!(deadlines.ladder(&StopRules::default(), &look(None)).is_none());
    }

    #[test]
    fn a_stop_begins_anew_whenever_something_has_ended_and_once_where_nothing_has() {
        let mut deadlines = Deadlines::new();
        for (in_vain, goes_on) in [(false, true), (false, true), (true, true), (false, true), (true, false)] {
            deadlines.stop_begins_anew(in_vain);
            assert_eq!(deadlines.ladder(&StopRules::default(), &look(None)).is_some(), goes_on);
        }
    }

    #[test]
    fn waits_that_follow_each_other_are_one_until_something_is_stopped() {
        let wait = Some(Duration::from_secs(3));
        let mut deadlines = Deadlines::new();
        assert!(!deadlines.is_waiting());
        let _ = deadlines.wait_for(wait);
        assert!(deadlines.is_waiting());
        deadlines.waiting_since = deadlines.waiting_since.and_then(|since| since.checked_sub(Duration::from_secs(2)));
        let _ = deadlines.wait_for(wait);
        assert!(deadlines.wait_until <= Instant::now() + Duration::from_secs(1));
        deadlines.stopped();
        assert!(!deadlines.is_waiting());
        let _ = deadlines.wait_for(wait);
        assert!(deadlines.wait_until > Instant::now() + Duration::from_secs(2));
    }

    #[test]
    fn each_unit_that_is_stopped_has_its_own_time_for_what_it_leaves() {
        let mut deadlines = Deadlines::new();
        deadlines.aftermath = Some(Instant::now());
        deadlines.settled();
        assert!(deadlines.aftermath.is_some());
        deadlines.stopped();
        assert_eq!(deadlines.aftermath, None);
    }

    #[test]
    fn a_moment_is_one_however_often_it_is_asked_for_and_does_not_outlive_the_start() {
        let span = Duration::from_secs(10);
        let mut deadlines = Deadlines::new();
        assert!(deadlines.aftermath_left(span, false).0 > Duration::from_secs(9));
        deadlines.aftermath = deadlines.aftermath.and_then(|since| since.checked_sub(Duration::from_secs(8)));
        assert!(deadlines.aftermath_left(span, false).0 <= Duration::from_secs(2));
        assert_eq!(deadlines.aftermath_left(Duration::from_secs(1), false), (Duration::ZERO, None));
        deadlines.stopped();
        deadlines.know(&look(Some(Duration::from_secs(2))), Path::new("/run"));
        assert!(deadlines.aftermath_left(span, false).0 <= Duration::from_secs(2));
        // Where systemd listens, it is asked for that time.
        deadlines.may_notify = true;
        let (left, extend) = deadlines.aftermath_left(span, false);
        assert!(left > Duration::from_secs(9) && extend == Some(left + Budget::GRACE), "{left:?} {extend:?}");
    }

    #[test]
    fn what_comes_after_a_wait_has_its_own_moment() {
        let moment = Duration::from_secs(1);
        let mut deadlines = Deadlines::new();
        let _ = deadlines.aftermath_left(moment, false);
        deadlines.aftermath = deadlines.aftermath.and_then(|since| since.checked_sub(moment));
        assert_eq!(deadlines.aftermath_left(moment, false).0, Duration::ZERO);
        let _ = deadlines.wait_for(Some(moment));
        assert!(!deadlines.aftermath_left(moment, false).0.is_zero());
    }

    #[test]
    fn those_who_hang_have_so_long_in_all_with_what_the_looks_have_lost() {
        let seconds = Duration::from_secs;
        let mut deadlines = Deadlines::new();
        let left = deadlines.hang_left(seconds(20), seconds(5)).0;
        assert!(left > seconds(14) && left <= seconds(15), "{left:?}");
        deadlines.hung_for(seconds(6));
        deadlines.hung_for(seconds(1));
        // Neither a stop nor a wait gives it anew.
        deadlines.stopped();
        let _ = deadlines.wait_for(Some(seconds(1)));
        let left = deadlines.hang_left(seconds(20), seconds(7)).0;
        assert!(left > seconds(5) && left <= seconds(6), "{left:?}");
        assert_eq!(deadlines.hang_left(seconds(20), seconds(14)).0, Duration::ZERO);
        // It does not outlive the start, but where systemd listens, and is asked for that time.
        deadlines.know(&look(Some(seconds(2))), Path::new("/run"));
        assert!(deadlines.hang_left(seconds(20), Duration::ZERO).0 <= seconds(2));
        deadlines.may_notify = true;
        let (left, extend) = deadlines.hang_left(seconds(20), Duration::ZERO);
        assert!(left > seconds(12) && extend == Some(left + Budget::GRACE), "{left:?} {extend:?}");
    }

    #[test]
    fn what_a_unit_leaves_that_was_on_its_way_down_has_its_own_moment() {
        let (going, moment) = (Duration::from_secs(10), Duration::from_secs(1));
        let mut deadlines = Deadlines::new();
        let _ = deadlines.aftermath_left(going, true);
        deadlines.going = deadlines.going.and_then(|since| since.checked_sub(Duration::from_secs(5)));
        assert!(deadlines.aftermath_left(going, true).0 <= Duration::from_secs(5));
        assert!(deadlines.aftermath_left(moment, false).0 > moment / 2);
        deadlines.aftermath = deadlines.aftermath.and_then(|since| since.checked_sub(moment));
        let _ = deadlines.aftermath_left(going, true);
        assert!(deadlines.aftermath_left(moment, false).0 > moment / 2);
        deadlines.stopped();
        assert!(deadlines.aftermath_left(going, true).0 > Duration::from_secs(9));
    }

    #[test]
    fn a_wait_does_not_outlive_the_start() {
        let wait = Some(Duration::from_secs(100));
        let mut bounded = Deadlines::new();
        bounded.know(&look(Some(Duration::from_secs(20))), Path::new("/run"));
        let _ = bounded.wait_for(wait);
        assert!(bounded.wait_until <= Instant::now() + Duration::from_secs(18));
        let mut unbounded = Deadlines::new();
        unbounded.know(&look(None), Path::new("/run"));
        let _ = unbounded.wait_for(wait);
        assert!(unbounded.wait_until > Instant::now() + Duration::from_secs(90));
    }
}
