//! What portguard costs, whole processes against `true` and against ss, fuser, lsof and killport: `make bench`.
//!
//! The load is made in a network, PID and mount namespace of its own, which the kernel takes down with the bench,
//! however that ends. Only the cgroup outlives a bench that was killed; the next one removes it. The exit status is 1
//! where a bound is not kept.

#[path = "../../tests/lab/cgroups.rs"]
mod cgroups;
mod header;
#[path = "../../tests/lab/image.rs"]
mod image;
mod load;
#[path = "../../tests/lab/machine.rs"]
#[expect(dead_code, reason = "the bench needs less of a machine than the scenarios do")]
mod machine;
mod race;
mod starts;
mod table;
#[path = "../../tests/budget/trace.rs"]
#[expect(dead_code, reason = "the bench counts calls, and lists none")]
mod trace;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use crate::header::tool;
use crate::load::{Cgroup, Holder, Load};
use crate::race::{Contender, Pool, Times, Tries, race, tries};
use crate::table::{Bound, Row, Table, attempts};
use crate::trace::Trace;

/// The port that is held.
const PORT: u16 = 8080;

/// Rounds of what takes a tenth of a second, and of what takes seconds. Of all that is measured again and again there are
/// [`table::fewer`] where times are only told.
const FEW: usize = 15;
const FEW_AND_SLOW: usize = 5;
/// Tries of each side in one turn of what the load has to change for.
const TRIES: usize = 40;

/// So many system calls may a start cost whose ports are free; `tests/budget` holds each layout to those that it has.
const CALLS: Bound = Bound::AtMost(60.0);

/// Units that the policy speaks of besides.
const OTHERS: u16 = 200;

/// Tenants of the full host, and of the small one.
const FULL: u16 = 1000;
const SMALL: u16 = 100;

/// Workers of a server that have its listener.
const SHARERS: u16 = 299;

/// A unit in whose cgroup nobody is.
const OTHER_UNIT: &str = "bench.service";

/// A holder that may not be touched.
const HELD: i32 = 69;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut words = arguments.iter().map(String::as_str);
    let done = match words.next() {
        None => outside(),
        Some("--inside") => inside(&arguments[1..]),
        Some("--peak-rss") => match race::print_peak_rss(&arguments[1..]) {
            Ok(status) => return status,
            Err(why) => Err(why),
        },
        Some(part @ ("--load" | "--tenant" | "--server" | "--holder" | "--udp" | "--other" | "--client")) => {
            play(part, &numbers(words))
        }
        Some(other) => Err(format!("what is {other}?")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The whole bench: on a full host, then on a real systemd.
fn outside() -> Result<(), String> {
    let on_full_host = in_namespaces();
    let mut table = Table::default();
    let on_systemd = starts::measure(&mut table).and_then(|()| table.verdict());
    match (on_full_host, on_systemd) {
        (Err(full_host), Err(on_systemd)) => Err(format!("{full_host}; and on systemd, {on_systemd}")),
        (full_host, on_systemd) => full_host.and(on_systemd),
    }
}

fn numbers<'a>(words: impl Iterator<Item = &'a str>) -> Vec<u16> {
    words.filter_map(|word| word.parse().ok()).collect()
}

/// A part of the load.
fn play(part: &str, numbers: &[u16]) -> Result<(), String> {
    let small = |number: u16| u8::try_from(number).map_err(|error| error.to_string());
    match (part, numbers) {
        ("--load", &[tenants]) => return load::keep(tenants),
        ("--tenant", &[number, server]) => load::tenant(number, small(server)?),
        ("--server", &[server]) => load::serve(small(server)?),
        ("--holder", &[number]) => load::hold(number, 0),
        ("--holder", &[number, others]) => load::hold(number, others),
        ("--udp", &[number]) => load::receive(number),
        ("--other", &[]) => load::share(),
        ("--client", &[number]) => load::connect(number),
        _ => return Err(format!("{part} {numbers:?}")),
    }
    .map_err(|error| error.to_string())
}

/// Runs this program again where nobody else is, and where all that it makes ends with it.
fn in_namespaces() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("namespaces and cgroups need root".to_owned());
    }
    let cgroup = Cgroup::create()?;
    let ours = env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--net"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .args([ours.into_os_string(), "--inside".into(), guard(), cgroup.unit.clone().into()])
        .arg(&cgroup.dir)
        .stderr(Stdio::piped())
        .spawn()
        .and_then(Child::wait_with_output)
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    // Once more at the end, where whoever reads the last lines alone finds it.
    if output.status.success() { Ok(()) } else { Err(format!("on the full host, {}", said.trim_end())) }
}

fn guard() -> OsString {
    env::var_os("PORTGUARD_UNDER_TEST").unwrap_or_else(|| env!("CARGO_BIN_EXE_portguard").into())
}

fn inside(arguments: &[String]) -> Result<(), String> {
    header::before_all_others();
    let [guard, unit, cgroup] = arguments else { return Err(format!("--inside {arguments:?}")) };
    let host = Host { guard: guard.into(), unit: unit.clone(), cgroup: cgroup.into() };
    host.furnish()?;
    header::print_header(&host.guard);
    let mut table = Table::default();
    host.free_path(&mut table)?;
    host.full_host(&mut table)?;
    table.verdict()
}

/// The run of the unit of which the bench pretends to be a part.
const INVOCATION: &str = "0123456789abcdef0123456789abcdef";

/// Where it is measured.
struct Host {
    guard: PathBuf,
    /// The unit that a process in `cgroup` belongs to.
    unit: String,
    cgroup: PathBuf,
}

impl Host {
    /// A loopback that is up, and a /run of our own with a policy and a journal that reads. No bus is there, nor
    /// systemd: portguard asks for them and is refused at once.
    fn furnish(&self) -> Result<(), String> {
        run("ip", &["link", "set", "lo", "up"])?;
        run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
        let io = |error: std::io::Error| format!("/run: {error}");
        fs::create_dir_all("/run/systemd/journal").map_err(io)?;
        fs::create_dir("/run/portguard").map_err(io)?;
        // What systemd notes of each run, without which nothing enters the ledger.
        fs::create_dir("/run/systemd/units").map_err(io)?;
        std::os::unix::fs::symlink(INVOCATION, format!("/run/systemd/units/invocation:{}", self.unit)).map_err(io)?;
        fs::write("/run/portguard/portguard.toml", self.policy()).map_err(io)?;
        let journal = UnixDatagram::bind("/run/systemd/journal/socket").map_err(io)?;
        thread::spawn(move || while journal.recv(&mut [0; 4096]).is_ok() {});
        Ok(())
    }

    /// For the unit whose cgroup we have, and for one that is none of ours: as on a shell.
    fn policy(&self) -> String {
        [self.unit.as_str(), OTHER_UNIT].map(trace::policy).concat()
    }

    fn guard(&self, name: &'static str, unit: &str, arguments: &str) -> Contender {
        Contender::new(name, &self.guard, &format!("--unit|{unit}|{arguments}")).with("INVOCATION_ID", INVOCATION)
    }

    /// Every port is free: nearly every start. All of it runs in the cgroup of the unit.
    fn free_path(&self, table: &mut Table) -> Result<(), String> {
        table.section("Free path: 4 endpoints, all free");
        let idle = idle();
        let on_shell = self.guard("portguard, on a shell", OTHER_UNIT, "--policy|/run/portguard/portguard.toml");
        let in_unit = self.guard("portguard, in the unit's start", &self.unit, "");
        load::move_to(&self.cgroup)?;
        // Each alone with `true`: what runs after another of its kind finds more in the caches.
        compared(table, [&idle, &on_shell], Bound::AtMost(1.2))?;
        compared(table, [&idle, &in_unit], Bound::AtMost(1.2))?;
        // What each took when this was written, and a tenth more.
        cheap(table, "on a shell", &on_shell, CALLS, 297_000.0)?;
        cheap(table, "in the unit's start", &in_unit, CALLS, 206_000.0)?;

        table.section(&format!("The same, and a policy of {OTHERS} units more"));
        self.install()?;
        // As portguard enable writes them: their names are listed, and the unit's own alone is opened.
        let drop_ins = self.guard("portguard, a drop-in each", &self.unit, "");
        let one_file = self.guard("portguard, all in one file", OTHER_UNIT, "--policy|/run/all.toml");
        compared(table, [&idle, &drop_ins], Bound::AtMost(1.2))?;
        cheap(table, "a drop-in each", &drop_ins, CALLS, 287_000.0)?;
        // All of a file is read, and what is wrong anywhere in it is an error.
        compared(table, [&idle, &one_file], Bound::None)?;
        cheap(table, "all in one file", &one_file, CALLS, 8_100_000.0)?;

        load::move_to(&self.outside())?;
        table.add(&Row::count("instructions, /bin/true", instructions(&idle)?, Bound::None, ""));
        table.add(&Row::size("peak memory, /bin/true", idle.peak_rss()?, Bound::None));
        let size = fs::metadata(&self.guard).map_err(|error| error.to_string())?.len();
        table.add(&Row::count("size of the binary, bytes", size, Bound::AtMost(2.5 * 1024.0 * 1024.0), ""));
        Ok(())
    }

    /// The policy as the packages and `portguard enable` leave it, on a host on which many units are guarded.
    fn install(&self) -> Result<(), String> {
        let io = |error: std::io::Error| format!("/etc/portguard: {error}");
        // A copy, which nobody else sees.
        run("cp", &["-a", "/etc", "/run/etc"])?;
        run("mount", &["--bind", "/run/etc", "/etc"])?;
        let _ = fs::remove_dir_all("/etc/portguard");
        fs::create_dir_all("/etc/portguard/conf.d").map_err(io)?;
        fs::remove_file("/run/portguard/portguard.toml").map_err(io)?;
        fs::write("/etc/portguard/portguard.toml", include_str!("../../packaging/portguard.toml")).map_err(io)?;
        let own = format!("/etc/portguard/conf.d/only-{}.toml", self.unit);
        fs::write(own, trace::policy(&self.unit)).map_err(io)?;
        let mut all = self.policy();
        for number in 0..OTHERS {
            let unit = format!("other{number}.service");
            let text = trace::policy(&unit);
            fs::write(format!("/etc/portguard/conf.d/only-{unit}.toml"), &text).map_err(io)?;
            all += &text;
        }
        fs::write("/run/all.toml", all).map_err(io)
    }

    fn outside(&self) -> PathBuf {
        self.cgroup.parent().map_or_else(PathBuf::new, Path::to_owned)
    }

    /// One port is held by somebody else's process, and has to be named.
    fn full_host(&self, table: &mut Table) -> Result<(), String> {
        let holder = Holder::listen(PORT, &self.cgroup.join("birth"))?;
        let portguard = dry_run(&self.guard, &PORT.to_string(), &holder);
        let peers = peers(holder.pid());
        let everybody = [&portguard, &peers[0], &peers[1], &peers[2]];
        let mut load = Load::default();

        load.set(SMALL)?;
        table.section(&format!("Small host: {}", Load::counted()));
        let mut hosts = Hosts::new(SMALL, FULL);
        hosts.turn(&mut load, &portguard)?;
        let row = hosts.compared(&mut load, &portguard, "full host / small host")?;
        table.add(&Row::time("portguard", &hosts.small.quietest(), None));
        table.add(&Row::time("the same on the full host", &hosts.large.quietest(), None));
        table.add(&row);
        let calls = system_calls(&portguard)?;

        load.set(FULL)?;
        table.section(&format!("Full host: {}; {PORT}/tcp is held by one process", Load::counted()));
        Table::note("No systemd there, and no bus: portguard finds so at once.");
        let mut all = Pool::default();
        table.race(|| {
            let [ours, theirs @ ..] = all.with(race(everybody, FEW)?);
            let mut rows = vec![Row::time("portguard", ours, Some(Duration::from_millis(10)))];
            for (peer, times) in peers.iter().zip(theirs) {
                rows.push(Row::time(peer.name, times, None));
                rows.push(Row::far_ratio(&format!("  {} / portguard", peer.name), times, ours, 100.0));
            }
            Ok(rows)
        })?;
        if let Some(killport) = tool("killport") {
            let killport = Contender::new("killport", &killport, &format!("--dry-run|{PORT}"));
            // It names processes by their command lines.
            let killport = killport.saying("--holder", 0);
            let [ours, times] = race([&portguard, &killport], FEW)?;
            table.add(&Row::time(killport.name, &times, None));
            table.add(&Row::ratio("  killport / portguard", &times, &ours, Bound::None));
        }
        table.add(&Row::size("peak memory of portguard", portguard.peak_rss()?, Bound::AtMost(8.0)));
        no_more(table, "system calls, as on the small host", &calls, &system_calls(&portguard)?);
        self.other_holders(table, &load)?;
        self.moved_holders(table, &load)?;
        if is_growth_wanted()? {
            let birth = self.cgroup.join("udp");
            let away = Holder::bind_udp(PORT, &birth)?;
            self.move_away(&away, &birth)?;
            let elsewhere = dry_run(&self.guard, &format!("{PORT}/udp"), &away);
            grow(table, &mut load, &portguard, &elsewhere)?;
        }
        Ok(())
    }

    /// What is not as easy as a listener that is alone in its cgroup.
    fn other_holders(&self, table: &mut Table, load: &Load) -> Result<(), String> {
        let mut section = |title: &str, port: u16, holder: &Holder, bound: Option<f64>, ratio: f64| {
            table.section(title);
            let [portguard, fuser] =
                [dry_run(&self.guard, &port.to_string(), holder), fuser("tcp", port, holder.pid())];
            let mut all = Pool::default();
            table.race(|| {
                let [ours, theirs] = all.with(race([&portguard, &fuser], FEW)?);
                let bound = bound.map(Duration::from_secs_f64);
                let ratio = Row::far_ratio("  fuser / portguard", theirs, ours, ratio);
                Ok(vec![Row::time("portguard", ours, bound), Row::time(fuser.name, theirs, None), ratio])
            })
        };
        {
            let title = format!("The same, but {} processes share the listener", SHARERS + 1);
            let holder = Holder::share(PORT + 2, SHARERS, &self.cgroup.join("shared"))?;
            section(&title, PORT + 2, &holder, Some(0.01), 100.0)?;
        }
        {
            // Nothing tells which of them it is.
            let title = "The same, but the holder is the last of all processes of the host that are in one cgroup";
            let crowd = self.cgroup.join("crowd");
            load.move_to(&crowd)?;
            section(title, PORT + 3, &Holder::listen(PORT + 3, &crowd)?, None, 1.7)?;
            load.move_to(&self.outside())?;
        }
        // The kernel has no table of connections by their port alone.
        let holder = Holder::connect(PORT + 4, &self.cgroup.join("client"))?;
        section("The same, but a connection has the port", PORT + 4, &holder, None, 10.0)
    }

    /// The worst case: the holder has left the cgroup in which its socket was born, and is the last of all processes.
    fn moved_holders(&self, table: &mut Table, load: &Load) -> Result<(), String> {
        let birth = self.cgroup.join("left");
        let what = "the holder has left the cgroup in which its socket was born";
        {
            let holder = Holder::listen(PORT + 5, &birth)?;
            self.move_away(&holder, &birth)?;
            self.walk(table, &format!("The same, but {what}"), ("tcp", PORT + 5), &holder)?;
        }
        {
            let holder = Holder::bind_udp(PORT, &birth)?;
            self.move_away(&holder, &birth)?;
            let title = format!("The same with UDP, for which all are looked at: {what}");
            let portguard = self.walk(table, &title, ("udp", PORT), &holder)?;
            table.add(&files_looked_at(&counted_calls(&portguard)?));
        }
        load.move_to(&birth)?;
        let holder = Holder::listen(PORT + 6, &birth)?;
        holder.move_to(&self.cgroup.join("elsewhere"))?;
        self.walk(table, &format!("The same, but {what}, and all others are in there"), ("tcp", PORT + 6), &holder)?;
        load.move_to(&self.outside())
    }

    /// The cgroup in which its socket was born is no more then.
    fn move_away(&self, holder: &Holder, birth: &Path) -> Result<(), String> {
        holder.move_to(&self.cgroup.join("elsewhere"))?;
        fs::remove_dir(birth).map_err(|error| format!("{}: {error}", birth.display()))
    }

    /// What was run.
    fn walk(
        &self,
        table: &mut Table,
        title: &str,
        (protocol, port): (&str, u16),
        holder: &Holder,
    ) -> Result<Contender, String> {
        table.section(title);
        let portguard = dry_run(&self.guard, &format!("{port}/{protocol}"), holder);
        let fuser = fuser(protocol, port, holder.pid());
        // By UDP fuser has no table of 80,000 connections to read, and less to do by a third.
        let most = Bound::AtMost(if protocol == "udp" { 0.8 } else { 0.6 });
        let mut all = Pool::default();
        table.race(|| {
            let [ours, theirs] = all.with(race([&portguard, &fuser], FEW)?);
            let ratio = Row::ratio("  portguard / fuser", ours, theirs, most);
            Ok(vec![Row::time("portguard", ours, None), Row::time(fuser.name, theirs, None), ratio])
        })?;
        table.add(&Row::size("peak memory of portguard", portguard.peak_rss()?, Bound::AtMost(8.0)));
        Ok(portguard)
    }
}

/// `/bin/true`, and what the other costs beside it.
fn compared(table: &mut Table, contenders: [&Contender; 2], bound: Bound) -> Result<(), String> {
    let [mut nothing, mut ours] = [Tries::default(), Tries::default()];
    table.race(|| {
        let [more_of_nothing, more] = tries(contenders, TRIES)?;
        nothing.append(more_of_nothing);
        ours.append(more);
        let [idle, name] = contenders.map(|contender| contender.name);
        let ratio = Row::in_turn(&format!("  {name} / true"), &ours, &nothing, bound);
        Ok(vec![Row::time(idle, &nothing.all(), None), Row::time(name, &ours.all(), None), ratio])
    })
}

/// What no other process has a say in.
fn cheap(
    table: &mut Table,
    name: &str,
    contender: &Contender,
    most: Bound,
    instructions_most: f64,
) -> Result<(), String> {
    calls(table, name, &traced(contender)?, most);
    table.add(&Row::count("  instructions", instructions(contender)?, Bound::AtMost(instructions_most), ""));
    table.add(&Row::size("  peak memory", contender.peak_rss()?, Bound::AtMost(4.0)));
    Ok(())
}

/// Who has the port, and what would be done about it?
fn dry_run(guard: &Path, port: &str, holder: &Holder) -> Contender {
    let arguments = format!("--unit|{OTHER_UNIT}|--policy|/dev/null|--port|{port}|--dry-run");
    // A walk that was given up costs little.
    Contender::new("portguard", guard, &arguments)
        .naming(holder.pid(), HELD)
        .never_saying("could not be listed in time")
}

/// Those who are asked the same. Each ends with 0, and has to find the holder as well.
fn peers(holder: u32) -> [Contender; 3] {
    let peer = |name, program: &str, arguments: String| {
        Contender::new(name, &tool(program).unwrap_or_else(|| program.into()), &arguments).naming(holder, 0)
    };
    [
        peer("ss -ltnp", "ss", format!("-Hltnp|sport = :{PORT}")),
        fuser("tcp", PORT, holder),
        peer("lsof -iTCP", "lsof", format!("-nP|-iTCP:{PORT}|-sTCP:LISTEN")),
    ]
}

fn fuser(protocol: &str, port: u16, holder: u32) -> Contender {
    let program = tool("fuser").unwrap_or_else(|| "fuser".into());
    let name = if protocol == "udp" { "fuser -n udp" } else { "fuser -n tcp" };
    Contender::new(name, &program, &format!("-n|{protocol}|{port}")).naming(holder, 0)
}

/// Two loads of which each is there while the other is not: the kernel's tables are common to all network namespaces, so two
/// hosts at the same time would each be as slow as the larger.
struct Hosts {
    small: Side,
    large: Side,
}

/// Tenants, and what was measured with them: portguard, and `/bin/true` beside it.
struct Side {
    tenants: u16,
    tries: [Tries; 2],
}

impl Side {
    fn add(&mut self, contender: &Contender, count: usize) -> Result<(), String> {
        let more = tries([contender, &idle()], count)?;
        self.tries.iter_mut().zip(more).for_each(|(tries, more)| tries.append(more));
        Ok(())
    }

    fn quietest(&self) -> Times {
        self.tries[0].quietest()
    }
}

impl Hosts {
    fn new(small: u16, large: u16) -> Self {
        let [small, large] = [small, large].map(|tenants| Side { tenants, tries: Default::default() });
        Self { small, large }
    }

    /// Both sides once more, equally often: the smaller before and after the larger.
    fn turn(&mut self, load: &mut Load, contender: &Contender) -> Result<(), String> {
        self.before(load, contender)?;
        load.set(self.large.tenants)?;
        self.after(load, contender)
    }

    fn before(&mut self, load: &mut Load, contender: &Contender) -> Result<(), String> {
        load.set(self.small.tenants)?;
        self.small.add(contender, TRIES / 2)
    }

    /// The larger load is there.
    fn after(&mut self, load: &mut Load, contender: &Contender) -> Result<(), String> {
        self.large.add(contender, TRIES)?;
        load.set(self.small.tenants)?;
        self.small.add(contender, TRIES / 2)
    }

    /// With as many turns more as it takes to keep the bound, within reason. All tries count.
    fn compared(&mut self, load: &mut Load, contender: &Contender, what: &str) -> Result<Row, String> {
        let mut turns = 1;
        loop {
            let row = Row::growth(&format!("  {what}"), &self.large.tries, &self.small.tries, Bound::AtMost(1.5));
            if row.is_kept() || turns == attempts() {
                return Ok(row);
            }
            row.note_again();
            self.turn(load, contender)?;
            turns += 1;
        }
    }
}

/// What is run beside it, to tell whether the machine was as quiet on both sides.
fn idle() -> Contender {
    Contender::new("/bin/true", Path::new("/bin/true"), "")
}

/// A word that says neither must not leave out what was wanted.
fn is_growth_wanted() -> Result<bool, String> {
    match env::var("GROWTH").unwrap_or_default().as_str() {
        "" => Ok(false),
        "1" => Ok(true),
        other => Err(format!("GROWTH={other}: 1, or nothing")),
    }
}

/// As far beyond the full host as the machine allows: with a holder that is where its socket was born, and with one that
/// is elsewhere, for which every process is looked at. One after the other: what walks through a million files leaves
/// nothing in the processor's caches.
fn grow(table: &mut Table, load: &mut Load, at_home: &Contender, elsewhere: &Contender) -> Result<(), String> {
    const MOST: u16 = 10;
    table.section("Growth");
    // A tenant is a process and 82 sockets: less than 800 KiB.
    let (needed, there) = (u64::from(MOST * FULL), header::available_mib());
    if there < needed {
        table.untold("ten full hosts", &format!("they need {needed} MiB of memory, and {there} are there"));
        return Ok(());
    }
    let mut hosts = Hosts::new(FULL, MOST * FULL);
    hosts.before(load, at_home)?;
    let [away] = race([elsewhere], FEW_AND_SLOW)?;
    let calls = [system_calls(at_home)?, counted_calls(elsewhere)?];
    table.add(&Row::time("full host, holder elsewhere", &away, None));
    table.add(&files_looked_at(&calls[1]));
    for times in [2, 4, MOST] {
        load.set(times * FULL)?;
        Table::note(&format!("{}; {} MiB of memory are left", Load::counted(), header::available_mib()));
        no_more(table, "system calls, holder in the socket's cgroup", &calls[0], &system_calls(at_home)?);
        let [now] = race([elsewhere], FEW_AND_SLOW)?;
        table.add(&Row::time("holder elsewhere", &now, None));
        table.add(&Row::ratio(&format!("  {times} x / full host"), &now, &away, Bound::None));
        let calls_now = counted_calls(elsewhere)?;
        table.add(&files_looked_at(&calls_now));
        Table::note(&growing(&calls[1], &calls_now));
    }
    for (what, contender) in [("in the socket's cgroup", at_home), ("elsewhere", elsewhere)] {
        table.add(&Row::size(&format!("peak memory, holder {what}"), contender.peak_rss()?, Bound::AtMost(8.0)));
    }
    hosts.after(load, at_home)?;
    let row = hosts.compared(load, at_home, "10 x / full host")?;
    table.add(&Row::time("full host, holder in the socket's cgroup", &hosts.small.quietest(), None));
    table.add(&Row::time("ten full hosts, holder in the socket's cgroup", &hosts.large.quietest(), None));
    table.add(&row);
    Ok(())
}

/// How often each system call is made, by name, in the run of several that made the fewest: a thread more that is begun
/// as the machine is busy makes some, and nothing makes fewer.
fn system_calls(contender: &Contender) -> Result<BTreeMap<String, u64>, String> {
    let mut all = (0..FEW_AND_SLOW).map(|_| counted_calls(contender)).collect::<Result<Vec<_>, _>>()?;
    all.sort_by_key(|calls| calls.values().sum::<u64>());
    Ok(all.swap_remove(0))
}

/// How often each system call was made in one run, by name.
fn counted_calls(contender: &Contender) -> Result<BTreeMap<String, u64>, String> {
    let strace = tool("strace").ok_or("strace is not here")?;
    let file = "/run/calls";
    let output = contender.under(&strace, &["-f", "-c", "-o", file]).output().map_err(|error| error.to_string())?;
    contender.has_ended(output.status)?;
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // % time, seconds, usecs/call, calls, perhaps errors, syscall
    let row = |fields: Vec<&str>| Some(((*fields.last()?).to_owned(), fields.get(3)?.parse().ok()?));
    let mut calls: BTreeMap<String, u64> = rows.filter_map(row).collect();
    let total = calls.remove("total");
    // So that what cannot be read is no small number.
    if total != Some(calls.values().sum()) || total == Some(0) {
        return Err(format!("the calls that strace has counted are not those of its sum: {text}"));
    }
    Ok(calls)
}

/// By how much the system calls of one thing may differ from run to run.
const FEW_CALLS: u64 = 20;

/// All system calls, which a larger load must not make more, and those that grow.
fn no_more(table: &mut Table, what: &str, calls_before: &BTreeMap<String, u64>, calls_now: &BTreeMap<String, u64>) {
    let [before, now] = [calls_before, calls_now].map(|calls| calls.values().sum::<u64>());
    let most = u32::try_from(before + FEW_CALLS).map_or(Bound::AtMost(0.0), |most| Bound::AtMost(most.into()));
    table.add(&Row::count(what, now, most, ""));
    Table::note(&growing(calls_before, calls_now));
}

/// Who is not found within half a second is looked for anew, in another order, until somebody is, and the others are left out then:
/// none is looked at more than twice. That the holder was named is asked of each run.
fn files_looked_at(calls: &BTreeMap<String, u64>) -> Row {
    let looked_at = calls.get("readlinkat").copied().unwrap_or(0);
    let twice =
        u32::try_from(2 * Load::files()).map_or(Bound::AtMost(0.0), |files| Bound::AtMost((files + 1000).into()));
    Row::count("  files looked at", looked_at, twice, "")
}

/// Those that are made more often than before, by more than what differs from run to run.
fn growing(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> String {
    let was = |name: &String| before.get(name).copied().unwrap_or(0);
    let more = now.iter().filter(|&(name, &count)| count > was(name) + FEW_CALLS);
    let more: Vec<String> = more.map(|(name, count)| format!("{name} {} → {count}", was(name))).collect();
    let all = |calls: &BTreeMap<String, u64>| calls.values().sum::<u64>();
    let more = if more.is_empty() { "none".to_owned() } else { more.join(", ") };
    format!("system calls {} → {}; those that grow: {more}", all(before), all(now))
}

fn traced(contender: &Contender) -> Result<Trace, String> {
    let strace = tool("strace").ok_or("strace is not here")?;
    let file = "/run/trace";
    Trace::of(contender.under(&strace, &["-f", "-o", file]), Path::new(file))
}

fn calls(table: &mut Table, name: &str, trace: &Trace, most: Bound) {
    table.add(&Row::count(&format!("system calls, {name}"), trace.count() as u64, most, ""));
    Table::note(&trace.explained());
    table.holds("  no thread, netlink, bus or /proc; four binds", &trace.objections(usize::MAX));
}

/// Instructions in user mode, which no other process can change.
fn instructions(contender: &Contender) -> Result<u64, String> {
    let valgrind = tool("valgrind").ok_or("valgrind is not here")?;
    let output = contender
        .under(&valgrind, &["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .output()
        .map_err(|error| error.to_string())?;
    contender.has_ended(output.status)?;
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    count.ok_or_else(|| format!("callgrind counted nothing: {text}"))
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let status = Command::new(program).args(arguments).status().map_err(|error| format!("{program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {arguments:?}: {status}")) }
}
