//! What needs a real systemd: how soon a start goes on once a leftover has gone, and how 200 of them do at once.

use std::time::Duration;

use crate::image::{Image, RELEASES};
use crate::machine::{Hierarchy, Machine};
use crate::race::{Times, Tries};
use crate::table::{Bound, Row, Table};

/// Instances of the service, each with a port of its own.
const UNITS: u16 = 200;

const ROUNDS: usize = 15;

/// Of what several processes do for each other, which a busy machine makes longer than anything else.
const TRIES: usize = 10;

/// All of them are started so often in each of the three ways.
const STARTS_OF_ALL: u16 = 3;

/// The instance is the end of the port's number.
const SERVICE: &str = "\
[Unit]
StartLimitIntervalSec=0
[Service]
Type=notify
KillMode=process
ExecStart=/usr/bin/python3 -ISE /opt/lab/stale.py 1%i
";

const POLICY: &str = "\
[unit.\"app@.service\"]
ports = [\"1%i/tcp\"]
";

/// bash reads its clock without another process.
const STAMPED: &str = "\
#!/bin/bash
/usr/bin/portguard --unit \"$1\"
status=$?
echo $EPOCHREALTIME >/run/guard-ended
exit $status
";

const ASKED: &str = "\
begin=$EPOCHREALTIME
/usr/bin/portguard --unit bench.service --policy /dev/null --port 10000 --dry-run 2>/run/asked
status=$?
echo $EPOCHREALTIME $begin
[ $status = 69 ] && grep -q 'systemctl stop app@0000.service' /run/asked
";

pub(crate) fn measure(table: &mut Table) -> Result<(), String> {
    let release = RELEASES.iter().find(|release| release.name == "bookworm").ok_or("no bookworm")?;
    let machine = Machine::boot(release, Image::Bare, Hierarchy::Unified)?;
    machine.write("/opt/lab/stale.py", include_str!("stale.py"));
    machine.write("/opt/lab/stamped", STAMPED);
    machine.ok("chmod 755 /opt/lab/stamped && mkdir /run/stale");
    machine.write("/etc/portguard/portguard.toml", POLICY);
    machine.unit("app@.service", SERVICE);
    clearing(table, &machine)?;
    with_a_bus(table, &machine)?;
    at_once(table, &machine)
}

/// From just before the stale process ends until portguard has: its own way out, the kernel's, and another look.
fn clearing(table: &mut Table, machine: &Machine) -> Result<(), String> {
    table.section(&format!("Clearing, on systemd {}", systemd(machine)));
    guard(machine, "/opt/lab/stamped");
    machine.ok("systemctl start app@0000.service");
    table.race(|| {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            machine.ok("rm -f /run/stale/10000 && systemctl restart app@0000.service");
            let stamps = machine.ok("cat /run/guard-ended /run/stale/10000");
            times.push(between(&stamps).ok_or_else(|| format!("no leftover was stopped: {stamps}"))?);
        }
        Ok(vec![Row::time("leftover's exit to portguard's", &Times::of(times), Some(Duration::from_millis(5)))])
    })?;
    forget(machine);
    Ok(())
}

/// What the full host has not: a bus, and a systemd that is asked whose the holder is.
fn with_a_bus(table: &mut Table, machine: &Machine) -> Result<(), String> {
    table.section("Port held by another unit, systemd answers");
    machine.ok("systemctl start app@0000.service");
    machine.write("/opt/lab/asked", ASKED);
    let script = format!("for i in $(seq {ROUNDS}); do bash /opt/lab/asked || exit 1; done");
    table.race(|| {
        let mut tries = Tries::default();
        for _ in 0..TRIES {
            let stamps = machine.ok(&script);
            let times: Option<Vec<Duration>> = stamps.lines().map(between).collect();
            tries.push(Times::of(times.ok_or(stamps)?));
        }
        Ok(vec![Row::time("portguard", &tries.quietest(), Some(Duration::from_millis(10)))])
    })?;
    forget(machine);
    Ok(())
}

/// The later moment comes first.
fn between(stamps: &str) -> Option<Duration> {
    let mut moments = stamps.split_whitespace().map(str::parse::<f64>);
    let (end, begin) = (moments.next()?.ok()?, moments.next()?.ok()?);
    Duration::try_from_secs_f64(end - begin).ok()
}

/// Every unit at once, as at boot.
fn at_once(table: &mut Table, machine: &Machine) -> Result<(), String> {
    table.section(&format!("{UNITS} units started at once, on systemd {}", systemd(machine)));
    let [mut alone, mut guarded, mut over_leftovers] = [const { Vec::new() }; 3];
    let (mut recorded, mut leftovers, mut stopped) = (0, 0, 0);
    for _ in 0..STARTS_OF_ALL {
        alone.push(start_all(machine)?);
        forget(machine);
        guard(machine, "/usr/bin/portguard --unit");
        machine.ok("rm -rf /run/portguard/ledger");
        guarded.push(start_all(machine)?);
        recorded += machine.ok("ls /run/portguard/ledger | wc -l").trim().parse().unwrap_or(0);
        machine.ok("systemctl stop 'app@*.service'");
        leftovers += machine.ok("pgrep -fc 'stale[.]py'").trim().parse().unwrap_or(0);
        over_leftovers.push(start_all(machine)?);
        stopped += machine.ok("ls /run/stale | wc -l").trim().parse().unwrap_or(0);
        forget(machine);
    }
    let [alone, guarded, over_leftovers] = [alone, guarded, over_leftovers].map(Times::of);

    table.add(&Row::time("no guard, no leftovers: all up", &alone, None));
    table.add(&Row::time("guarded, all ports free: all up", &guarded, None));
    table.add(&Row::ratio("  / no guard, no leftovers", &guarded, &alone, Bound::None));
    table.add(&Row::time("guarded, each over a leftover: all up", &over_leftovers, None));
    table.add(&Row::ratio("  / no guard, no leftovers", &over_leftovers, &alone, Bound::None));
    let all = Bound::AtLeast(f64::from(UNITS) * f64::from(STARTS_OF_ALL));
    table.add(&Row::count("guarded starts in the ledger", recorded, all, ""));
    table.add(&Row::count("leftovers there before", leftovers, all, ""));
    table.add(&Row::count("leftovers stopped", stopped, all, ""));
    Ok(())
}

/// Starts all of them with one call, and fails where one does not come up.
fn start_all(machine: &Machine) -> Result<Duration, String> {
    machine.ok("rm -f /run/stale/*");
    let last = UNITS - 1;
    let script = format!(
        "bash -c 'begin=$EPOCHREALTIME; systemctl start $(seq -f app@%04.0f.service 0 {last}) || exit 1; \
         echo $EPOCHREALTIME $begin'"
    );
    let took = between(&machine.ok(&script)).ok_or("no time was taken")?;
    let up = machine.ok("systemctl list-units --no-legend --state=active 'app@*.service' | wc -l");
    if up.trim() == UNITS.to_string() { Ok(took) } else { Err(format!("{up} of {UNITS} units are up")) }
}

fn guard(machine: &Machine, command: &str) {
    let text = format!("[Service]\nExecStartPre=+{command} %n\n");
    machine.unit("app@.service.d/portguard.conf", &text);
}

/// Ends all of it, and takes the guard away.
fn forget(machine: &Machine) {
    machine.ok("systemctl kill --kill-who=all --signal=KILL 'app@*.service'");
    machine.wait_until("nobody is left", Duration::from_secs(20), || {
        !machine.sh("pgrep -f 'stale[.]py'").status.success()
    });
    machine.ok("systemctl reset-failed; rm -rf /etc/systemd/system/app@.service.d && systemctl daemon-reload");
}

fn systemd(machine: &Machine) -> String {
    machine.ok("systemctl --version").split_whitespace().nth(1).unwrap_or("?").to_owned()
}
