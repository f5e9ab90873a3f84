//! Waits for what is in the way to go by itself: until a holder has ended, a socket is gone, or an endpoint is free. What that
//! changes is for the next look to say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::act::{self, ActError};
use crate::deadlines::Deadlines;
use crate::interrupt::Interrupt;
use crate::model::{Endpoint, Finding, ForeignRule, Pid, Probe, Protocol, Relation, Rules, Socket};
use crate::observe::pin::Pins;
use crate::observe::sock_diag::{Awaited, Closings};
use crate::probe::{probe, probe_beside};

/// How long what changes under the eyes gets to come to rest.
const SETTLE: Duration = Duration::from_millis(20);

/// How long `on-foreign = "wait"` waits where the policy has no `wait`.
const WAIT: Duration = Duration::from_secs(30);

/// How long a holder gets that is on its way down already.
pub(crate) const WAIT_FOR_STOPPING: Duration = Duration::from_secs(10);

/// A little more than `TCP_FIN_TIMEOUT` in `FIN_WAIT2` and `TCP_TIMEWAIT_LEN` after it (60 s each, Linux `include/net/tcp.h`),
/// and what their timers are late: 4 s at most, each.
const WAIT_FOR_TIME_WAIT: Duration = Duration::from_secs(130);

/// How often all is looked at anew where nothing tells of the end of what is waited for.
const LOOK_ANEW: Duration = Duration::from_secs(1);

/// So many addresses are asked again in each turn of a wait.
const ASKED_OFTEN: usize = 16;

/// What is waited for, as a look has seen it.
pub(crate) struct Waited<'a> {
    findings: Vec<&'a Finding>,
    /// The holders that could be pinned, each once.
    holders: Vec<BorrowedFd<'a>>,
    rules: &'a Rules,
    interrupt: &'a Interrupt,
}

impl<'a> Waited<'a> {
    pub(crate) fn of(
        findings: impl Iterator<Item = &'a Finding>,
        pins: &'a Pins,
        rules: &'a Rules,
        interrupt: &'a Interrupt,
    ) -> Self {
        let findings: Vec<&Finding> = findings.collect();
        // One has many sockets, and poll(2) takes as many as files may be open.
        let each: BTreeSet<Pid> = findings.iter().filter_map(|finding| Some(finding.holder.as_ref()?.pid)).collect();
        let holders = each.into_iter().filter_map(|pid| pins.of(pid).ok()).collect();
        Self { findings, holders, rules, interrupt }
    }

    /// How long that is worth it: as long as the one of them that gets the most time.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.findings.iter().map(|finding| patience_with(finding, self.rules)).max()
    }

    /// Gives what changes under the eyes a moment to come to rest, or less if a holder ends.
    pub(crate) fn settle(&self) -> Result<(), ActError> {
        act::wait_for_one(&self.holders, None, self.interrupt, SETTLE).map(drop)
    }

    /// Waits until one of them is gone, but no longer than that, and than until all is to be looked at anew.
    pub(crate) fn for_a_moment(&self, moment: Duration) -> Result<(), ActError> {
        let closings = closings(self.findings.iter().copied());
        if !self.is_any_free() {
            act::wait_for_one(&self.holders, closings.as_ref(), self.interrupt, moment.min(LOOK_ANEW))?;
        }
        Ok(())
    }

    /// Whether one of those that were in the way by then is free. To be asked after it is listened for, and before it is
    /// waited: it may have gone in between.
    fn is_any_free(&self) -> bool {
        self.endpoints().iter().any(|endpoint| probe(endpoint, self.rules.reuse_address) == Probe::Free)
    }

    /// Whether a bind does not tell that they are gone.
    fn is_any_denied(&self) -> bool {
        self.endpoints().iter().any(|endpoint| probe(endpoint, self.rules.reuse_address) == Probe::Denied)
    }

    fn endpoints(&self) -> BTreeSet<Endpoint> {
        self.findings.iter().map(|finding| finding.endpoint).collect()
    }

    /// Of what waits for nobody, whether it is in the way of whoever binds to its own address: beside what is to be stopped after
    /// it, the endpoint does not get free. Of each address one, and of the first few.
    fn beside(&self) -> Vec<(&'a Socket, Probe)> {
        let others = self.findings.iter().filter_map(|finding| finding.socket.as_ref());
        let each: BTreeMap<_, _> =
            others.filter(|socket| is_asked(socket)).map(|socket| ((socket.local, &socket.device), socket)).collect();
        each.into_values().take(ASKED_OFTEN).map(|socket| (socket, self.probe_beside(socket))).collect()
    }

    fn probe_beside(&self, socket: &Socket) -> Probe {
        probe_beside(socket, self.rules.reuse_address)
    }

    /// What is to be heard of; not what is in nobody's way, as to be told so is an end that is heard as well.
    fn awaited(&self, beside: &[(&Socket, Probe)]) -> Awaited {
        let free: BTreeSet<Place> = places(beside, Probe::Free).collect();
        let is_free = |socket: &Socket| is_asked(socket) && free.contains(&place_of(socket));
        awaited(self.findings.iter().copied().filter(|finding| !finding.socket.as_ref().is_some_and(is_free)))
    }

    /// Whether one of the sockets does not wait for anybody.
    fn is_beside_others(&self) -> bool {
        self.findings.iter().any(|finding| finding.socket.as_ref().is_some_and(|socket| !socket.state.waits()))
    }

    /// How long, from the look on, something is in `TIME_WAIT`, whose end nobody tells; the longest, as all of it is in the way.
    /// What is on its way there has no such time yet, and its end is told.
    fn time_wait(&self) -> Option<Duration> {
        self.findings.iter().filter_map(|finding| finding.socket.as_ref()?.left).max()
    }
}

/// What a wait keeps from one look to the next.
#[derive(Default)]
pub(crate) struct Wait {
    /// What the kernel tells of the ends of what is waited for. The next look begins to hear anew.
    closings: Option<Closings>,
    /// Whether its time was over, after which all is looked at once more.
    had_its_time: bool,
    /// What waits for nobody, and was in the way of a bind to its own address.
    busy: BTreeSet<Place>,
    /// Whether that look was taken though nothing told that something has changed.
    had_its_last_look: bool,
}

impl Wait {
    /// What has come of it by now.
    pub(crate) fn closings(&self) -> Option<&Closings> {
        self.closings.as_ref()
    }

    /// Something was stopped: the next wait is another one.
    pub(crate) fn is_over(&mut self) {
        (self.had_its_time, self.had_its_last_look) = (false, false);
        self.busy.clear();
    }

    /// Waits until something has changed of what a look has seen that began at `looked`; `false` once there is no time left.
    /// `is_first`: nothing was waited for before.
    pub(crate) fn until_changed(
        &mut self,
        waited: &Waited<'_>,
        looked: Instant,
        is_first: bool,
        deadlines: &Deadlines,
    ) -> Result<bool, ActError> {
        // Whoever opens and closes sockets of that port all the time must not have us look all the time.
        let took = looked.elapsed();
        let rest = if is_first { SETTLE.saturating_sub(took) } else { took.clamp(SETTLE, LOOK_ANEW) };
        let holders: &[_] = if is_first { &waited.holders } else { &[] };
        act::wait_for_one(holders, None, waited.interrupt, rest.min(deadlines.wait_left().max(SETTLE)))?;
        let beside = waited.beside();
        let were_busy = std::mem::replace(&mut self.busy, places(&beside, Probe::Busy).collect());
        let begins_to_listen = self.listen_for(waited.awaited(&beside));
        // What has gone since the look and before the first word of the kernel, nobody would tell; nor what is not listened for
        // any more, as it was in the way until then.
        let has_gone = || places(&beside, Probe::Free).any(|place| were_busy.contains(&place));
        let is_over = deadlines.wait_left().is_zero();
        if begins_to_listen || (!(is_over && self.had_its_time) && has_gone()) {
            self.had_its_time = is_over;
            return Ok(true);
        }
        let is_beside_others = waited.is_beside_others();
        let closings = self.closings.as_ref();
        let time_wait = waited.time_wait();
        let busy: Vec<&Socket> =
            beside.iter().filter(|(_, seen)| *seen == Probe::Busy).map(|(socket, _)| *socket).collect();
        let is_denied = waited.is_any_denied();
        loop {
            let left = deadlines.wait_left();
            // Once more when the time is over: it may have gone just now.
            let is_last = std::mem::replace(&mut self.had_its_time, left.is_zero()) && left.is_zero();
            let has_changed =
                || waited.is_any_free() || !busy.iter().all(|socket| waited.probe_beside(socket) == Probe::Busy);
            if !is_last && has_changed() {
                return Ok(true);
            }
            if left.is_zero() {
                // Each look has the start's own time told anew, a little longer.
                return Ok(is_denied && !std::mem::replace(&mut self.had_its_last_look, true));
            }
            // A look alone tells then.
            if is_denied && time_wait.is_some_and(|time| looked.elapsed() >= time.max(act::LOOK_AGAIN)) {
                return Ok(true);
            }
            let Some(untold) = untold(closings.is_some(), is_beside_others, time_wait, looked.elapsed()) else {
                return Ok(true);
            };
            if act::wait_for_one(&waited.holders, closings, waited.interrupt, left.min(untold))? {
                return Ok(true);
            }
        }
    }

    /// Hears of the end of these, and keeps what it has not heard yet; whether it begins to hear just now.
    fn listen_for(&mut self, awaited: Awaited) -> bool {
        if let Some(closings) = &mut self.closings {
            closings.awaited = awaited;
            return false;
        }
        self.closings = Closings::of(awaited);
        self.closings.is_some()
    }
}

/// How long a holder is waited for.
fn patience_with(finding: &Finding, rules: &Rules) -> Duration {
    let fallback = match (&finding.relation, rules.on_foreign) {
        (Relation::TimeWait, _) => WAIT_FOR_TIME_WAIT,
        (_, ForeignRule::Wait) => WAIT,
        (_, ForeignRule::Refuse | ForeignRule::Ignore) => WAIT_FOR_STOPPING,
    };
    rules.wait.unwrap_or(fallback)
}

/// How long a wait can go on without a look, so long after the last one; `None` where the whole has to be judged anew. A timer
/// tells of a `TIME_WAIT`, but may be late by an eighth of it (Linux `kernel/time/timer.c`), and nobody that a peer's RST has
/// ended it before its time. `beside_others`: a bind does not tell the end of all that is waited for.
fn untold(is_told: bool, beside_others: bool, time_wait: Option<Duration>, since: Duration) -> Option<Duration> {
    let anew = if is_told || !beside_others { act::LOOK_AFTER } else { LOOK_ANEW };
    let left = anew.checked_sub(since).filter(|left| !left.is_zero())?;
    let turn = time_wait
        .filter(|_| is_told)
        .map_or(act::unlooked(is_told), |time| time.saturating_sub(since).clamp(act::LOOK_AGAIN, act::LOOK_AFTER));
    Some(turn.min(left))
}

/// The kernel's word of the sockets of these findings that are gone, from now on.
pub(crate) fn closings<'a>(findings: impl Iterator<Item = &'a Finding>) -> Option<Closings> {
    Closings::of(awaited(findings))
}

/// What the kernel tells the end of: not that of a `TIME_WAIT`.
fn awaited<'a>(findings: impl Iterator<Item = &'a Finding>) -> Awaited {
    let mut awaited = Awaited::default();
    for finding in findings {
        let Some(socket) = &finding.socket else {
            awaited.endpoints.insert(finding.endpoint);
            continue;
        };
        if socket.left.is_some() {
            continue;
        }
        awaited.sockets.insert((socket.protocol, socket.local));
        if socket.peer.is_some() {
            // A connection that is reset has no peer by then, nor an address where its listener had none (`tcp_disconnect()`,
            // Linux 6.18 `net/ipv4/tcp.c`).
            let nowhere =
                if socket.local.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            awaited.sockets.insert((socket.protocol, SocketAddr::new(nowhere, socket.local.port())));
        }
        awaited.connections.extend(socket.peer.map(|peer| (socket.local, peer)));
    }
    awaited
}

/// An address, and the device to which it is bound.
type Place = (SocketAddr, Option<String>);

fn place_of(socket: &Socket) -> Place {
    (socket.local, socket.device.clone())
}

fn places(beside: &[(&Socket, Probe)], wanted: Probe) -> impl Iterator<Item = Place> {
    beside.iter().filter(move |(_, seen)| *seen == wanted).map(|(socket, _)| place_of(socket))
}

/// Whether a bind to its own address tells when it is gone.
fn is_asked(socket: &Socket) -> bool {
    socket.protocol == Protocol::Tcp && !socket.state.waits()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::model::{Action, ActiveState, EndpointRange, SocketState};

    fn connection(local: SocketAddr, peer: SocketAddr) -> Finding {
        let range = format!("{}/tcp", local.port()).parse::<EndpointRange>().unwrap();
        Finding {
            endpoint: range.endpoints().next().unwrap(),
            socket: Some(Socket {
                peer: Some(peer),
                v6only: local.is_ipv6(),
                state: SocketState::Connected,
                ..Socket::listening(Protocol::Tcp, local)
            }),
            holder: None,
            birthplace: None,
            relation: Relation::Client,
            action: Action::Wait,
            obstacle: None,
            unit_state: ActiveState::Unknown,
        }
    }

    /// The kernel tells of each in another way.
    #[test]
    fn the_end_of_a_connection_is_heard_wherever_it_was_accepted_and_however_it_ends() {
        for (listens, calls) in [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "127.0.0.1")] {
            for is_reset in [false, true] {
                let listener = TcpListener::bind(listens).unwrap();
                let client = TcpStream::connect((calls, listener.local_addr().unwrap().port())).unwrap();
                let (served, peer) = listener.accept().unwrap();
                let closings = closings(std::iter::once(&connection(served.local_addr().unwrap(), peer))).unwrap();
                if is_reset {
                    nix::sys::socket::setsockopt(
                        &served,
                        nix::sys::socket::sockopt::Linger,
                        &nix::libc::linger { l_onoff: 1, l_linger: 0 },
                    )
                    .unwrap();
                } else {
                    drop(client);
                }
                drop(served);
                let heard = act::wait_for_one(&[], Some(&closings), &Interrupt::default(), Duration::from_secs(5));
                assert!(heard.unwrap(), "{listens}, reset: {is_reset}");
            }
        }
    }

    #[test]
    fn a_time_wait_is_looked_for_when_it_is_to_be_over_and_all_is_looked_at_anew_in_time() {
        let rows = [
            (false, false, None, 0, Some(250)),
            (false, false, Some(60_000), 0, Some(250)),
            (false, false, None, 4_900, Some(100)),
            (false, false, None, 5_000, None),
            (false, true, None, 900, Some(100)),
            (false, true, None, 1_000, None),
            (false, true, Some(60_000), 1_000, None),
            (true, true, None, 0, Some(5_000)),
            (true, true, None, 4_000, Some(1_000)),
            (true, true, None, 5_000, None),
            (true, true, Some(60_000), 0, Some(5_000)),
            (true, true, Some(3_000), 0, Some(3_000)),
            (true, true, Some(3_000), 2_900, Some(250)),
            (true, true, Some(3_000), 4_900, Some(100)),
        ];
        for (is_told, beside_others, time, since, expected) in rows {
            let found = untold(is_told, beside_others, time.map(Duration::from_millis), Duration::from_millis(since));
            assert_eq!(found, expected.map(Duration::from_millis), "{is_told} {beside_others} {time:?} {since}");
        }
    }
}
