//! `portguard check`: all that is wrong with the policy, and with what it says of units and ports.

use std::fmt::Write as _;

use super::claims::{self, Claim, Ephemeral, Policies, Source, System};
use super::remark::{self, Findings, Remark, Severity};
use super::{CommandError, show};
use crate::cli;
use crate::model::UnitName;
use crate::observe::Roots;
use crate::policy::{self, Fault, Policy, Problem};
use crate::report::shell;

/// Exit status 0: nothing was found; 1: something was; 77: a file of the policy could not be read; 78: the policy makes no
/// sense.
pub(super) fn run(args: &cli::Check) -> Result<u8, CommandError> {
    let (policy, problems) = match &args.policy {
        Some(file) => Policy::survey_file(file),
        None => Policy::survey(&policy::Roots::default()),
    };
    let system = System::look_for_claims(args.common.user, &policy);
    let policies = Policies::of(&policy, &system);
    let ephemeral = Ephemeral::of_host(&Roots::of_host(args.common.user).proc);
    let status = status(&problems, &policies.problems);

    let mut findings: Vec<Remark> = problems.iter().map(|problem| wrong("policy", &[], problem)).collect();
    findings.extend(unexpanded(&policies.problems));
    match &system.silent {
        Some(_) => {}
        None => findings.extend(policy.units().filter_map(|(unit, place)| not_there(unit, place, &system))),
    }
    let mut all = policies.claims.clone();
    all.extend(system.socket_claims(false));
    let clashes: Vec<_> = claims::clashes(&all, &system, &policies)
        .into_iter()
        .filter(|clash| [clash.one, clash.other].iter().any(|claim| claim.place().is_some()))
        .collect();
    let mut overlaps = claims::remarks_of(&clashes);
    for overlap in &mut overlaps {
        of_socket_unit(overlap, &clashes, &system);
    }
    findings.extend(overlaps);
    findings.extend(ephemeral.iter().flat_map(|ephemeral| of_clients(&policies.claims, ephemeral)));
    let findings = remark::in_order(findings);

    let mut unseen = policies.unseen;
    if let Some(why) = &system.silent {
        let what = "whether its units are there, what listens for them and what their templates stand for";
        unseen.push(format!("systemd could not be asked {what}: {why}"));
    }
    if ephemeral.is_none() {
        unseen.push("which ports the kernel gives to clients could not be read".to_owned());
    }
    let check = Findings { kind: "check", remarks: findings, guarded: None, unseen };
    let status = if status == 0 { u8::from(!check.remarks.is_empty()) } else { status };
    show(&check, args.common.json, status)
}

/// 78 where a guard would end so, 77 where all that is wrong is that the caller may not read it.
fn status(problems: &[Problem], unexpanded: &[(UnitName, Problem)]) -> u8 {
    let is_denied = |problem: &Problem| matches!(&problem.fault, Fault::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
    match problems.iter().chain(unexpanded.iter().map(|(_, problem)| problem)).map(is_denied).reduce(|a, b| a && b) {
        None => 0,
        Some(true) => 77,
        Some(false) => 78,
    }
}

fn wrong(kind: &'static str, units: &[&str], problem: &Problem) -> Remark {
    let (place, message) = (Some(&problem.place), problem.fault.to_string());
    Remark::new(Severity::Error, kind, units, message).at(place)
}

/// The same fault at the same place is that of all instances.
fn unexpanded(problems: &[(UnitName, Problem)]) -> Vec<Remark> {
    let mut remarks: Vec<Remark> = Vec::new();
    for (unit, problem) in problems {
        let remark = wrong("expansion", &[unit.as_str()], problem);
        match remarks.iter_mut().find(|one| one.place == remark.place && one.message == remark.message) {
            Some(same) => same.units.extend(remark.units),
            None => remarks.push(remark),
        }
    }
    remarks
}

/// A table of the policy for a unit that is not there, or that is not started by this name.
fn not_there(unit: &UnitName, place: Option<&policy::Place>, system: &System) -> Option<Remark> {
    let warn = |kind, message| Some(Remark::new(Severity::Warning, kind, &[unit.as_str()], message).at(place));
    if let Some(own) = system.aliases.iter().find(|(name, _)| name == unit).map(|(_, own)| own) {
        let message =
            format!("{unit} is another name of {own}, by which portguard is called: [unit.{:?}]", own.as_str());
        return warn("alias", message);
    }
    let state = match system.unit(unit) {
        Some(shown) => shown.get("LoadState").unwrap_or("not-found"),
        None if system.names.contains(unit) => "loaded",
        None => "not-found",
    };
    match state {
        "loaded" => None,
        "not-found" => {
            let hint = match nearest(unit, system) {
                Some(near) => format!("did you mean {near}?"),
                None => "is it to be installed yet, or one of a user's manager (--user)?".to_owned(),
            };
            warn("no-unit", format!("there is no unit {unit}: {hint}"))
        }
        "masked" => warn("no-unit", format!("{unit} is masked: it is never started")),
        other => {
            let message = format!("{unit} cannot be started: systemd says {other}");
            let next = format!("systemctl status {}", shell(unit));
            warn("no-unit", message).map(|remark| remark.with_next(next))
        }
    }
}

/// The unit that is there, of which this is most likely a slip of the pen.
fn nearest<'a>(unit: &UnitName, system: &'a System) -> Option<&'a UnitName> {
    let of = |distance| {
        let is_near = move |name: &&UnitName| strsim::osa_distance(name.as_str(), unit.as_str()) == distance;
        system.names.iter().filter(is_near).find(|name| name.is_template() || system.is_there(name))
    };
    of(1).or_else(|| of(2))
}

/// An overlap with a socket unit has something else to look at: whether that is to trigger the service.
fn of_socket_unit(remark: &mut Remark, clashes: &[claims::Clash<'_>], system: &System) {
    let is_socket_unit = |claim: &Claim| claim.source == Source::SocketUnit;
    let of_this =
        |claim: &&Claim| claim.unit.as_ref().is_some_and(|unit| remark.units.iter().any(|name| name == unit.as_str()));
    let mut claims = clashes.iter().flat_map(|clash| [clash.one, clash.other]).filter(of_this);
    let Some(socket) = claims.find(|claim| is_socket_unit(claim)).and_then(|claim| claim.unit.clone()) else { return };
    let is_active = system.unit(&socket).is_some_and(|unit| unit.is("ActiveState", "active"));
    remark.kind = "socket-unit";
    if is_active {
        remark.severity = Severity::Error;
    }
    let services = remark.units.iter().filter(|unit| unit.as_str() != socket.as_str()).cloned().collect::<Vec<_>>();
    // Writing to a String cannot fail.
    let _ =
        write!(remark.message, "; if {socket} is to start {}, its Service= has to say so", remark::listed(&services));
    remark.next = Some(format!("systemctl cat {}", shell(&socket)));
}

/// The ports of the policy that a client could be given, and all of them in one line to type, since the list of the kernel
/// is set as a whole.
fn of_clients(claims: &[Claim], ephemeral: &Ephemeral) -> Vec<Remark> {
    let mut open: Vec<(&Claim, Vec<u16>)> =
        claims.iter().map(|claim| (claim, ephemeral.of_clients(claim.range))).collect();
    open.retain(|(_, ports)| !ports.is_empty());
    let ports: Vec<u16> = open.iter().flat_map(|(_, ports)| ports).copied().collect();
    let next = format!("sysctl -w net.ipv4.ip_local_reserved_ports={}", ephemeral.reserved_with(&ports));
    let Ephemeral { first, last, .. } = ephemeral;
    let remark = |(claim, _): (&Claim, Vec<u16>)| {
        let message = format!(
            "{} of {} is among {first}-{last}, which the kernel gives to clients: any connection may have it when the unit \
             starts; reserve it (and in /etc/sysctl.d, to last)",
            claim.range, claim.who
        );
        Remark::new(Severity::Warning, "ephemeral", &[&claim.who], message)
            .at(claim.place())
            .with_endpoint(claim.range)
            .with_next(next.clone())
    };
    open.into_iter().map(remark).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::commands::claims::tests::system;

    const POLICY: &str = r#"
[unit."app.service"]
ports = ["8080/tcp", "40000-40002/tcp"]

[unit."web.service"]
ports = ["127.0.0.1:8080/tcp"]

[unit."blue.service"]
ports = ["9000/tcp"]
replaces = ["green.service"]

[unit."green.service"]
ports = ["9000/tcp"]

[unit."one.service"]
ports = ["9100/tcp"]

[unit."other.service"]
ports = ["9100/tcp"]

[unit."worker@.service"]
ports = ["70%i/tcp", "${PORT}/udp"]

[unit."sock.service"]
ports = ["22/tcp"]

[unit."ap.service"]
ports = ["1/tcp"]

[unit."old-name.service"]
ports = ["2/tcp"]
"#;

    const UNITS: &str = "Id=app.service\nLoadState=loaded\n\n\
        Id=web.service\nLoadState=loaded\n\n\
        Id=blue.service\nLoadState=loaded\n\n\
        Id=green.service\nLoadState=loaded\n\n\
        Id=one.service\nLoadState=loaded\nConflicts=other.service\n\n\
        Id=other.service\nLoadState=loaded\nConflictedBy=one.service\n\n\
        Id=worker@01.service\nLoadState=loaded\nEnvironment=A=b PORT=5000\n\n\
        Id=worker@02.service\nLoadState=loaded\nEnvironment=PORT=5000\n\n\
        Id=worker@x.service\nLoadState=loaded\nEnvironment=PORT=x\n\n\
        Id=sock.service\nLoadState=loaded\n\n\
        Id=sock.socket\nLoadState=loaded\nTriggers=sock.service\nListen=[::]:22 (Stream)\nListen=/run/x (Stream)\n\n\
        Id=foreign.socket\nLoadState=loaded\nActiveState=active\nListen=0.0.0.0:40001 (Stream)\n\n\
        Id=off.socket\nLoadState=loaded\nUnitFileState=disabled\nListen=[::]:9000 (Stream)\n\n\
        Id=ap.service\nLoadState=not-found\n\n\
        Id=new-name.service\nLoadState=loaded";

    fn shown(remarks: &[Remark]) -> Vec<String> {
        let shown = |remark: &Remark| {
            let line = remark.place.as_ref().and_then(|place| Some((place.line?, place.column?)));
            format!("{line:?} {:?} {} [{}]: {}", remark.severity, remark.kind, remark.units.join(" "), remark.message)
        };
        remarks.iter().map(shown).collect()
    }

    #[test]
    fn all_is_found_at_once_and_what_is_meant_so_is_not() {
        let policy = Policy::parse(POLICY, Path::new("p")).unwrap();
        let mut system = system(UNITS);
        system.aliases.push(("old-name.service".parse().unwrap(), "new-name.service".parse().unwrap()));
        system.names.push("worker@.service".parse().unwrap());
        let policies = Policies::of(&policy, &system);
        assert_eq!(
            shown(&unexpanded(&policies.problems)),
            [
                "Some((22, 10)) Error expansion [worker@x.service]: ports: \"70%i/tcp\", where %i is \"x\": endpoint \
                 \"70x/tcp\", column 3: unexpected \"x\" after the port",
                "Some((22, 22)) Error expansion [worker@x.service]: ports: \"${PORT}/udp\", where ${PORT} is \"x\": \
                 endpoint \"x/udp\", column 1: \"x\" is no port number",
            ]
        );
        let not_there: Vec<Remark> =
            policy.units().filter_map(|(unit, place)| not_there(unit, place, &system)).collect();
        assert_eq!(
            shown(&not_there),
            [
                "Some((27, 7)) Warning no-unit [ap.service]: there is no unit ap.service: did you mean app.service?",
                "Some((30, 7)) Warning alias [old-name.service]: old-name.service is another name of new-name.service, by \
                 which portguard is called: [unit.\"new-name.service\"]",
            ]
        );
        let mut all = policies.claims.clone();
        all.extend(system.socket_claims(false));
        let clashes = claims::clashes(&all, &system, &policies);
        let mut overlaps = claims::remarks_of(&clashes);
        for overlap in &mut overlaps {
            of_socket_unit(overlap, &clashes, &system);
        }
        let found = shown(&overlaps);
        assert_eq!(found.len(), 3, "{found:#?}");
        for part in [
            "Error socket-unit [app.service foreign.socket]: ",
            "Warning overlap [app.service web.service]: ",
            "Warning overlap [worker@01.service worker@02.service]: 5000/udp is that of worker@01.service (p:22:22) and of \
             worker@02.service (p:22:22): only one can have it",
        ] {
            assert!(found.iter().any(|line| line.contains(part)), "{part}: {found:#?}");
        }
        let nexts: BTreeSet<_> = overlaps.iter().filter_map(|overlap| overlap.next.as_deref()).collect();
        let expected =
            ["portguard suggest --near 5000 --udp", "portguard suggest --near 8080", "systemctl cat foreign.socket"];
        assert_eq!(nexts, BTreeSet::from(expected));
    }

    #[test]
    fn what_clients_may_be_given_is_reserved_in_one_line() {
        let policy = Policy::parse(POLICY, Path::new("p")).unwrap();
        let policies = Policies::of(&policy, &system(UNITS));
        let ephemeral = Ephemeral::parse("32768\t60999\n", "8000,40000,50000-50010\n").unwrap();
        let remarks = of_clients(&policies.claims, &ephemeral);
        let next = "sysctl -w net.ipv4.ip_local_reserved_ports=8000,40000-40002,50000-50010";
        let found: Vec<_> = remarks.iter().map(|remark| (remark.endpoint.as_deref(), remark.next.as_deref())).collect();
        assert_eq!(found, [(Some("40000-40002/tcp"), Some(next))]);
        let all = Ephemeral::parse("32768\t60999\n", "40000-40002\n").unwrap();
        assert!(of_clients(&policies.claims, &all).is_empty());
    }

    #[test]
    fn without_systemd_the_policy_alone_is_checked() {
        let policy = Policy::parse(POLICY, Path::new("p")).unwrap();
        let mut system = system("");
        system.silent = Some("it sleeps".to_owned());
        let policies = Policies::of(&policy, &system);
        assert!(policies.problems.is_empty(), "{:?}", policies.problems);
        let clashes = claims::clashes(&policies.claims, &system, &policies);
        // one and other have Conflicts=, which nobody tells.
        assert_eq!(clashes.len(), 2);
    }

    #[test]
    fn the_status_is_that_of_the_worst() {
        let at = || policy::Place::CommandLine;
        let denied = || Problem {
            place: at(),
            fault: Fault::Io { doing: "open", source: std::io::ErrorKind::PermissionDenied.into() },
        };
        let wrong = || Problem { place: at(), fault: Fault::NotUtf8 };
        assert_eq!(status(&[], &[]), 0);
        assert_eq!(status(&[denied()], &[]), 77);
        assert_eq!(status(&[denied(), wrong()], &[]), 78);
        assert_eq!(status(&[], &[("a.service".parse().unwrap(), wrong())]), 78);
    }
}
