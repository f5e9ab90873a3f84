//! `portguard suggest`: ports that nobody claims, as near as can be to one that is wanted.

use std::path::Path;

use serde::Serialize;

use super::claims::{self, Claim, Ephemeral, Policies, Source, System};
use super::{CommandError, remark, show, unseen};
use crate::cli;
use crate::model::{Endpoint, Host, Port, Probe, Protocol, printable};
use crate::observe::Roots;
use crate::policy::{self, Policy};
use crate::probe::probe;
use crate::report::document::{Document, Page, Tone};

/// Below it only root can bind, unless the system says otherwise (`ip_unprivileged_port_start`).
const UNPRIVILEGED: u16 = 1024;

/// So many of the ports that are nearer are named.
const MAX_PASSED_OVER: usize = 8;

/// What was found.
#[derive(Debug, Serialize)]
struct Suggest {
    near: u16,
    /// `tcp` or `udp`.
    protocol: &'static str,
    /// The nearest first.
    free: Vec<u16>,
    /// The nearest that are not free.
    taken: Vec<Taken>,
    /// What could not be looked at, each in a sentence.
    unseen: Vec<String>,
}

/// A port that is somebody's.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
struct Taken {
    port: u16,
    /// Whose, each in words.
    by: Vec<String>,
}

/// Exit status 0: as many as were asked for; 1: fewer.
///
/// # Errors
/// The socket tables cannot be read.
pub(super) fn run(args: &cli::Suggest) -> Result<u8, CommandError> {
    let near = args.near;
    let protocol = if args.udp { Protocol::Udp } else { Protocol::Tcp };
    let roots = Roots::of_host(args.common.user);
    let (policy, problems) = Policy::survey(&policy::Roots::default());
    let system = System::look_for_claims(args.common.user, &policy);
    let policies = Policies::of(&policy, &system);
    let (sockets, blind) = claims::sockets(args.common.user)?;
    let ephemeral = Ephemeral::of_host(&roots.proc);

    let mut unseen = unseen(&blind, policies.unseen, if args.common.user { "who" } else { "suggest" });
    unseen.extend(problems.iter().map(|problem| format!("{}: {}", problem.place, problem.fault)));
    unseen.extend(system.silent.iter().map(|why| format!("systemd could not be asked: {why}")));
    if ephemeral.is_none() {
        unseen.push("which ports the kernel gives to clients could not be read".to_owned());
    }
    let all: Vec<Claim> = policies.claims.into_iter().chain(system.socket_claims(true)).chain(sockets).collect();
    let services = std::fs::read_to_string(roots.etc.join("services")).unwrap_or_default();
    let services = services_of(&services, protocol);
    let start = first_unprivileged(&roots.proc);
    let mut taken = Vec::new();
    let mut free = Vec::new();
    for port in nearest(near, if near < start { 1 } else { start }) {
        if free.len() >= usize::from(args.count) {
            break;
        }
        let by = whose(port, protocol, &all, &services, ephemeral.as_ref());
        let by = if by.is_empty() { hindrance(port, protocol) } else { by };
        if by.is_empty() {
            free.push(port);
        } else if taken.len() < MAX_PASSED_OVER {
            taken.push(Taken { port, by });
        }
    }
    let protocol = if args.udp { "udp" } else { "tcp" };
    let suggest = Suggest { near, protocol, free, taken, unseen };
    let status = u8::from(suggest.free.len() < usize::from(args.count));
    show(&suggest, args.common.json, status)
}

/// Those of services(5): what is there is where some other software is by default.
fn services_of(text: &str, protocol: Protocol) -> Vec<(u16, String)> {
    let wanted = protocol.to_string();
    let entry = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let (name, port) = (words.next()?, words.next()?);
        let (port, protocol) = port.split_once('/')?;
        Some((port.parse().ok()?, printable(name))).filter(|_| protocol == wanted)
    };
    text.lines().filter_map(entry).collect()
}

/// Why a port is not to be suggested. One of those that the kernel keeps from clients was asked for by somebody.
fn whose(
    port: u16,
    protocol: Protocol,
    claims: &[Claim],
    services: &[(u16, String)],
    ephemeral: Option<&Ephemeral>,
) -> Vec<String> {
    let mut whose: Vec<String> = Vec::new();
    let is_of = |claim: &&Claim| {
        let (first, last) = claim.range.ports();
        claim.range.protocol() == protocol && (first.get()..=last.get()).contains(&port)
    };
    for Claim { who, source, .. } in claims.iter().filter(is_of) {
        let what = match source {
            Source::Policy(_) => "by the policy",
            Source::SocketUnit => "by its unit file",
            Source::Socket => "has it now",
        };
        let shown = format!("{who} {what}");
        if !whose.contains(&shown) {
            whose.push(shown);
        }
    }
    if let Some((_, name)) = services.iter().find(|(number, _)| *number == port) {
        whose.push(format!("{name} by /etc/services"));
    }
    if let Some(ephemeral) = ephemeral {
        if ephemeral.is_reserved(port) {
            whose.push("reserved in ip_local_reserved_ports".to_owned());
        } else if ephemeral.has(port) {
            whose.push("clients by ip_local_port_range".to_owned());
        }
    }
    whose
}

/// What a bind says that no table has shown.
fn hindrance(port: u16, protocol: Protocol) -> Vec<String> {
    let Some(port) = Port::new(port) else { return vec!["no port".to_owned()] };
    // As a server does that sets no SO_REUSEADDR: the port is to be good for any.
    match probe(&Endpoint { host: Host::Any, port, protocol }, false) {
        Probe::Free => Vec::new(),
        Probe::Busy => vec!["somebody that is in no table: a bind fails".to_owned()],
        Probe::Denied | Probe::NotLocal | Probe::Failed(_) => vec!["a bind is not permitted".to_owned()],
    }
}

/// All ports from `least` on, the nearest first, and of two the higher.
fn nearest(near: u16, least: u16) -> impl Iterator<Item = u16> {
    let around = move |distance: u16| {
        let lower = near.checked_sub(distance).filter(|_| distance > 0);
        [near.checked_add(distance), lower].into_iter().flatten()
    };
    (0..=u16::MAX).flat_map(around).filter(move |port| *port >= least)
}

fn first_unprivileged(proc: &Path) -> u16 {
    let text = std::fs::read_to_string(proc.join("sys/net/ipv4/ip_unprivileged_port_start")).unwrap_or_default();
    text.trim().parse().map_or(UNPRIVILEGED, |start: u16| start.max(UNPRIVILEGED))
}

impl Document for Suggest {
    const KIND: &'static str = "suggest";

    fn print(&self, page: &mut Page) {
        for port in &self.free {
            page.words("", &format!("{port}/{}", self.protocol), Some(Tone::Good));
        }
        if self.free.is_empty() {
            page.words("", &format!("no free port near {}/{}", self.near, self.protocol), Some(Tone::Bad));
        }
        for Taken { port, by } in &self.taken {
            page.words("  ", &format!("not {port}: {}", remark::listed(by)), Some(Tone::Faint));
        }
        remark::print_unseen(page, &self.unseen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first_and_of_two_the_higher() {
        let some = |near, least| nearest(near, least).take(5).collect::<Vec<_>>();
        assert_eq!(some(8080, 1024), [8080, 8081, 8079, 8082, 8078]);
        assert_eq!(some(1024, 1024), [1024, 1025, 1026, 1027, 1028]);
        assert_eq!(some(1, 1), [1, 2, 3, 4, 5]);
        assert_eq!(some(65535, 1024), [65535, 65534, 65533, 65532, 65531]);
        assert_eq!(nearest(8080, 1).count(), 65535);
    }

    #[test]
    fn whoever_claims_a_port_is_named() {
        let claim =
            |source, range: &str| Claim { unit: None, who: "a".to_owned(), source, range: range.parse().unwrap() };
        let claims = [
            claim(Source::SocketUnit, "8000-8001"),
            claim(Source::Socket, "127.0.0.1:8001"),
            claim(Source::Socket, "[::1]:8001"),
            claim(Source::Socket, "8002/udp"),
        ];
        let services = "# a\nhttp-alt\t8080/tcp webcache # 8081/tcp\nx 8080/udp\nbroken\ny y/tcp";
        let services = services_of(services, Protocol::Tcp);
        let ephemeral = Ephemeral::parse("9000 9010", "9003,9500").unwrap();
        let whose = |port| whose(port, Protocol::Tcp, &claims, &services, Some(&ephemeral)).join(", ");
        assert_eq!(whose(8000), "a by its unit file");
        assert_eq!(whose(8001), "a by its unit file, a has it now");
        assert_eq!(whose(8002), "");
        assert_eq!(whose(8080), "http-alt by /etc/services");
        assert_eq!(whose(8081), "");
        assert_eq!(whose(9000), "clients by ip_local_port_range");
        assert_eq!(whose(9003), "reserved in ip_local_reserved_ports");
        assert_eq!(whose(9500), "reserved in ip_local_reserved_ports");
        assert_eq!(whose(9011), "");
    }

    #[test]
    fn a_port_that_cannot_be_bound_is_not_free() {
        let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(hindrance(held.local_addr().unwrap().port(), Protocol::Udp).len(), 1);
    }
}
