//! What needs a real systemd: how soon a start goes on once a leftover has gone, and how 200 of them do at once.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::image::{Image, RELEASES, dies_with_us};
use crate::load::InMachine;
use crate::machine::{Hierarchy, Machine};
use crate::race::{Contender, Times};
use crate::table::{Bound, Row, Table, fewer};
use crate::{FEW, FEW_AND_SLOW, FULL, HELD};

/// Instances of the service, each with a port of its own.
const UNITS: u16 = 200;

const ROUNDS: usize = 15;

/// All of them are started so often in each of the three ways.
const STARTS_OF_ALL: usize = 3;

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

/// The unit that runs on the full host: no tenant of the load has its port, 19000.
const HOLDER: &str = "app@9000.service";

/// It is asked who has that port.
const GUARD: &str = "/usr/bin/portguard --unit bench.service --policy /dev/null --port 19000 --dry-run";

pub(crate) fn measure(table: &mut Table) -> Result<(), String> {
    let release = RELEASES.iter().find(|release| release.name == "bookworm").ok_or("no bookworm")?;
    let machine = Machine::boot(release, Image::Bare, Hierarchy::Unified)?;
    machine.write("/opt/lab/stale.py", include_str!("stale.py"));
    machine.write("/opt/lab/stamped", STAMPED);
    machine.ok("chmod 755 /opt/lab/stamped && mkdir /run/stale");
    machine.write("/etc/portguard/portguard.toml", POLICY);
    machine.unit("app@.service", SERVICE);
    on_full_host(table, &machine)?;
    at_once(table, &machine)
}

/// What the full host of the bench's own namespaces has not: a bus, and a systemd that is asked whose the holder is.
fn on_full_host(table: &mut Table, machine: &Machine) -> Result<(), String> {
    let load = InMachine::start(beside(machine)?, FULL)?;
    asked(table, machine, &load.counted)?;
    clearing(table, machine, &load.counted)
}

/// This program among the machine's processes and in its network, but with the host's files. It ends with the machine.
fn beside(machine: &Machine) -> Result<Command, String> {
    let mut command = dies_with_us("nsenter");
    command.args(["-t", &machine.leader.to_string(), "-n", "-p"]);
    command.args(["unshare", "--mount", "--propagation", "private", "--mount-proc"]);
    command.arg(env::current_exe().map_err(|error| error.to_string())?);
    Ok(command)
}

/// Who has the port, where that is a unit: portguard tells by asking systemd.
fn asked(table: &mut Table, machine: &Machine, counted: &str) -> Result<(), String> {
    table
        .section(&format!("Full host with systemd {}: {counted}; 19000/tcp is held by another unit", systemd(machine)));
    machine.ok(&format!("systemctl start {HOLDER}"));
    machine.write("/opt/lab/asked.py", include_str!("asked.py"));
    let holder = machine.main_pid(HOLDER);
    let script = format!("python3 -ISE /opt/lab/asked.py {FEW_AND_SLOW} {holder} {GUARD}");
    print_versions(machine);
    let mut stamps = String::new();
    table.race(|| {
        stamps.extend((0..fewer(FEW / FEW_AND_SLOW)).map(|_| machine.ok(&script)));
        let of = |who: &str| {
            let times: Option<Vec<Duration>> =
                stamps.lines().filter_map(|line| line.strip_prefix(who)).map(between).collect();
            times.filter(|times| !times.is_empty()).map(Times::of).ok_or_else(|| format!("no times of {who}: {stamps}"))
        };
        let ours = of("portguard ")?;
        let mut rows = vec![Row::time("portguard", &ours, Some(Duration::from_millis(10)))];
        for (name, who) in [("ss -ltnp", "ss "), ("fuser -n tcp", "fuser "), ("lsof -iTCP", "lsof ")] {
            let theirs = of(who)?;
            rows.push(Row::time(name, &theirs, None));
            rows.push(Row::ratio(&format!("  {name} / portguard"), &theirs, &ours, Bound::AtLeast(100.0)));
        }
        Ok(rows)
    })?;
    // From the load's place into the machine's own files, where the bus is.
    let arguments = format!("--target|1|--mount|{}", GUARD.replace(' ', "|"));
    let guard = Contender::new("portguard", Path::new("nsenter"), &arguments).naming(holder, HELD);
    table.add(&Row::size("peak memory of portguard", guard.peak_rss_by(beside(machine)?)?, Bound::AtMost(8.0)));
    forget(machine);
    Ok(())
}

/// From just before the stale process ends until portguard has: its own way out, the kernel's, and another look.
fn clearing(table: &mut Table, machine: &Machine, counted: &str) -> Result<(), String> {
    table.section(&format!("Clearing, on systemd {}: {counted}", systemd(machine)));
    guard(machine, "/opt/lab/stamped");
    machine.ok(&format!("systemctl start {HOLDER}"));
    let mut times = Vec::new();
    table.race(|| {
        for _ in 0..fewer(ROUNDS) {
            machine.ok(&format!("rm -f /run/stale/19000 && systemctl restart {HOLDER}"));
            let stamps = machine.ok("cat /run/guard-ended /run/stale/19000");
            times.push(between(&stamps).ok_or_else(|| format!("no leftover was stopped: {stamps}"))?);
        }
        Ok(vec![Row::time("leftover's exit to portguard's", &Times::of(times.clone()), Some(Duration::from_millis(5)))])
    })?;
    forget(machine);
    Ok(())
}

/// Against whom: the machine has its own.
fn print_versions(machine: &Machine) {
    for command in ["ss -V", "fuser -V", "lsof -v"] {
        let line = machine.ok(&format!("{command} 2>&1 | grep -m 1 [0-9]"));
        Table::note(&format!("in the machine, {}: {}", command.split(' ').next().unwrap_or_default(), line.trim()));
    }
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
    let mut counts = [const { Vec::new() }; 3];
    for _ in 0..fewer(STARTS_OF_ALL) {
        alone.push(start_all(machine)?);
        forget(machine);
        guard(machine, "/usr/bin/portguard --unit");
        machine.ok("rm -rf /run/portguard/ledger");
        guarded.push(start_all(machine)?);
        let recorded = counted(machine, "ls /run/portguard/ledger | wc -l");
        machine.ok("systemctl stop 'app@*.service'");
        let leftovers = counted(machine, "pgrep -fc 'stale[.]py'");
        over_leftovers.push(start_all(machine)?);
        let stopped = counted(machine, "ls /run/stale | wc -l");
        counts.iter_mut().zip([recorded, leftovers, stopped]).for_each(|(all, count)| all.push(count));
        forget(machine);
    }
    let times = counts[0].len();
    let [alone, guarded, over_leftovers] = [alone, guarded, over_leftovers].map(Times::of);

    table.add(&Row::time("no guard, no leftovers: all up", &alone, None));
    table.add(&Row::time("guarded, all ports free: all up", &guarded, None));
    table.add(&Row::ratio("  / no guard, no leftovers", &guarded, &alone, Bound::None));
    table.add(&Row::time("guarded, each over a leftover: all up", &over_leftovers, None));
    table.add(&Row::ratio("  / no guard, no leftovers", &over_leftovers, &alone, Bound::None));
    for (what, counts) in
        ["guarded starts in the ledger", "leftovers there before", "leftovers stopped"].iter().zip(counts)
    {
        let fewest = counts.into_iter().min().unwrap_or(0);
        let what = format!("{what}, the fewest of {times} times");
        table.add(&Row::count(&what, fewest, Bound::AtLeast(f64::from(UNITS)), ""));
    }
    Ok(())
}

/// What a script of the machine counts.
fn counted(machine: &Machine, script: &str) -> u64 {
    machine.ok(script).trim().parse().unwrap_or(0)
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
