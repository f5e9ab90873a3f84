//! Which container or virtual machine a process is part of, or holds a port for.
//!
//! The rules are pure functions of paths, names and arguments. Only [`Docker`] asks somebody: Docker's daemon, for a
//! name, on its own socket and for half a second at most. Nothing here gets anybody stopped: a container is refused.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::cgroup::unit_cgroup;
use super::proc::Facts;
use crate::interrupt::Interrupt;
use crate::model::{CgroupPath, Container, Engine, Owner, Port, Protocol};
use crate::pipe::read_until;

/// How long Docker may take, all questions of a run together.
const PATIENCE: Duration = Duration::from_millis(500);

/// Digits of a whole id (SHA-256).
const ID_DIGITS: usize = 64;

/// Which container a process is of, before anybody was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// One that its cgroup or its arguments name.
    Known(Container),
    /// Docker's, with this whole id.
    DockerId(String),
    /// Podman's, with this whole id.
    PodmanId(String),
    /// Docker's own proxy or daemon holds a port for one, which has this address where the arguments tell.
    DockerPort {
        /// `-container-ip`.
        address: Option<String>,
        /// Whether the process can hold the port for nobody else.
        certain: bool,
    },
}

/// What the process itself and its cgroup tell. `owner`: whose that is.
///
/// A name proves nothing by itself: anybody can give it to a copy of a program, or to a cgroup in a tree of their own. So
/// a cgroup counts where the engines put theirs, which is not below a unit; and a helper where it is in none of those, as the
/// root of a container can have any name, and where root runs it in a service of the system's, or a user in one of their own.
#[must_use]
pub fn trace(facts: &Facts, owner: &Owner) -> Option<Trace> {
    if let Some(inside) = facts.cgroup.as_ref().and_then(in_cgroup) {
        return Some(inside);
    }
    let program = facts.exe.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    let argument = |name: &str| {
        let mut arguments = facts.argv.iter().skip_while(|argument| *argument != name);
        arguments.nth(1).filter(|value| is_name(value)).cloned()
    };
    match program.map(|name| name.trim_end_matches(" (deleted)")).filter(|_| is_managers(facts.uid, owner)) {
        Some("docker-proxy" | "rootlesskit-docker-proxy") => {
            Some(Trace::DockerPort { address: argument("-container-ip"), certain: true })
        }
        Some("dockerd") => Some(Trace::DockerPort { address: None, certain: false }),
        Some("rootlessport") => Some(Trace::Known(Container { engine: Engine::Podman, name: None })),
        Some(_) | None => None,
    }
}

/// Whether this is the user whose manager the unit is of.
fn is_managers(uid: u32, owner: &Owner) -> bool {
    match owner {
        Owner::Unit(_) => uid == 0,
        Owner::UserUnit { uid: owner, .. } => uid == *owner,
        Owner::Session(_) | Owner::Init | Owner::Nobody | Owner::Unknown => false,
    }
}

/// What the path of a cgroup tells, down to its unit: the names that each engine gives to the cgroups of its containers.
fn in_cgroup(path: &CgroupPath) -> Option<Trace> {
    let unit_end = unit_cgroup(path).map_or(path.0.len(), |unit| unit.0.len());
    let (engines, below) = path.0.split_at(unit_end);
    // The halves of a machine are part of its scope.
    let half = below.trim_start_matches('/').split('/').next().filter(|part| is_half_of_a_machine(part));
    let mut above = "";
    engines.split('/').chain(half).find_map(|part| {
        let found = in_part(above, part, path);
        above = part;
        found
    })
}

/// systemd-nspawn makes both of these in the cgroup of each of its machines.
fn is_half_of_a_machine(part: &str) -> bool {
    matches!(part, "payload" | "supervisor")
}

fn in_part(above: &str, part: &str, path: &CgroupPath) -> Option<Trace> {
    let known = |engine, name: String| Some(Trace::Known(Container { engine, name: Some(name) }));
    let bare = part.strip_suffix(".scope").unwrap_or(part);
    let id = |prefix: &str| bare.strip_prefix(prefix).filter(|id| is_id(id)).map(str::to_owned);
    if let Some(id) = id("docker-").or_else(|| Some(part.to_owned()).filter(|part| above == "docker" && is_id(part))) {
        return Some(Trace::DockerId(id));
    }
    if let Some(id) = ["libpod-", "libpod-payload-", "libpod-conmon-"].into_iter().find_map(id) {
        return Some(Trace::PodmanId(id));
    }
    if let Some(id) = id("nerdctl-") {
        return known(Engine::Nerdctl, short_id(&id));
    }
    if let Some(id) = ["cri-containerd-", "crio-", "crio-conmon-"].into_iter().find_map(id) {
        return known(Engine::Cri, shortened(&id, Container::CRI_ID_DIGITS));
    }
    if is_id(part) && path.0.split('/').any(|part| part.starts_with("kubepods")) {
        return known(Engine::Cri, shortened(part, Container::CRI_ID_DIGITS));
    }
    // Since v260 or so its scope has no prefix (measured: machine-web\x2d1.scope on 257, web-1.scope on 262, and on all
    // where machined does not know it).
    let in_machine = is_half_of_a_machine(part) && path.0.starts_with("/machine.slice/");
    let unprefixed = above.strip_suffix(".scope").filter(|_| in_machine);
    let machine = part.strip_prefix("machine-").and_then(|name| name.strip_suffix(".scope")).or(unprefixed);
    let nspawn = part.strip_prefix("systemd-nspawn@").and_then(|name| name.strip_suffix(".service"));
    if let Some(name) = machine.or(nspawn).filter(|name| !name.is_empty()) {
        let name = Some(unescape(name)).filter(|name| is_name(name));
        return Some(Trace::Known(Container { engine: Engine::Machined, name }));
    }
    let lxc = ["lxc.payload.", "lxc.monitor."].into_iter().find_map(|prefix| part.strip_prefix(prefix));
    lxc.filter(|name| is_name(name)).and_then(|name| known(Engine::Lxc, name.to_owned()))
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What Docker, Podman and LXC take as a name, an id or an address; nothing in it means anything to a shell.
fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-:".contains(&byte);
    text.len() <= 255 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.bytes().all(is_part)
}

/// An id as Docker and Podman print it.
#[must_use]
pub fn short_id(id: &str) -> String {
    shortened(id, Container::ID_DIGITS)
}

fn shortened(id: &str, digits: usize) -> String {
    id.chars().take(digits).collect()
}

/// `\x2d` and its like, as `systemd-escape` makes them of a machine's name (`unit_name_unescape()`, systemd v257
/// `src/basic/unit-name.c`); what is none of them stays as it is.
fn unescape(name: &str) -> String {
    let mut plain = String::new();
    let mut rest = name;
    while let Some(at) = rest.find(r"\x") {
        plain.push_str(&rest[..at]);
        let digits = rest.get(at + 2..at + 4);
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(u8::is_ascii_graphic);
        match byte {
            Some(byte) => plain.push(char::from(byte)),
            None => plain.push_str(&rest[at..at + 2]),
        }
        rest = &rest[if byte.is_some() { at + 4 } else { at + 2 }..];
    }
    plain + rest
}

/// The name that a process has in its arguments for the container of this id, as conmon does. `owner`: whose the container is.
/// Only the user of that one's manager is believed, and nobody in any container, where root can be just that.
#[must_use]
pub fn name_by_conmon(facts: &Facts, owner: &Owner, id: &str) -> Option<String> {
    let is_payload = |part: &str| {
        let id = part.strip_prefix("libpod-").map(|name| name.strip_prefix("payload-").unwrap_or(name));
        id.is_some_and(|id| is_id(id.strip_suffix(".scope").unwrap_or(id)))
    };
    let outside = facts.cgroup.as_ref().is_some_and(|cgroup| !cgroup.0.split('/').any(is_payload));
    // Where no manager knows the cgroup, root has made it.
    let believed = is_managers(facts.uid, owner) || (*owner == Owner::Nobody && facts.uid == 0);
    if !outside || !believed {
        return None;
    }
    let value = |name: &str| facts.argv.iter().skip_while(|argument| *argument != name).nth(1);
    value("-c").filter(|of| *of == id)?;
    value("-n").filter(|name| is_name(name)).cloned()
}

/// Docker's daemon, which is asked each question once.
#[derive(Clone, Debug)]
pub struct Docker {
    socket: PathBuf,
    /// No hash table: that would ask for randomness at every start.
    answers: RefCell<BTreeMap<Question, Option<String>>>,
    /// How much of [`PATIENCE`] is left.
    left: RefCell<Duration>,
}

/// Which container is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    /// The one with this id.
    Id(String),
    /// The one that publishes this port of the host; with this address, where several do.
    Published {
        /// TCP or UDP.
        protocol: Protocol,
        /// The port.
        port: Port,
        /// The container's own address.
        address: Option<String>,
    },
}

impl Docker {
    /// `run` is `/run`, or `$XDG_RUNTIME_DIR` for a daemon without root. `DOCKER_HOST` is the unit's to set, and has no
    /// say.
    #[must_use]
    pub fn new(run: &Path) -> Self {
        Self { socket: run.join("docker.sock"), answers: RefCell::default(), left: RefCell::new(PATIENCE) }
    }

    /// The name of the container with this id; else the id as Docker prints it.
    #[must_use]
    pub fn name_of(&self, id: &str, interrupt: &Interrupt) -> String {
        self.name(&Question::Id(id.to_owned()), interrupt).unwrap_or_else(|| short_id(id))
    }

    /// The name of the container that publishes this port; `None` where there is none, or Docker does not say.
    #[must_use]
    pub fn name_by_port(
        &self,
        protocol: Protocol,
        port: Port,
        address: Option<String>,
        interrupt: &Interrupt,
    ) -> Option<String> {
        self.name(&Question::Published { protocol, port, address }, interrupt)
    }

    fn name(&self, question: &Question, interrupt: &Interrupt) -> Option<String> {
        if let Some(known) = self.answers.borrow().get(question) {
            return known.clone();
        }
        let begin = Instant::now();
        let left = *self.left.borrow();
        let name = ask(&self.socket, question, begin + left, interrupt).and_then(|reply| name_in(&reply, question));
        *self.left.borrow_mut() = left.saturating_sub(begin.elapsed());
        self.answers.borrow_mut().insert(question.clone(), name.clone());
        name
    }
}

/// One request of Docker's Engine API (`GET /containers/json`, any version of it), by HTTP/1.0, so that the reply ends
/// with the connection and is in no chunks.
fn ask(path: &Path, question: &Question, deadline: Instant, interrupt: &Interrupt) -> Option<String> {
    let filter = match question {
        Question::Id(id) => format!("%7B%22id%22%3A%5B%22{id}%22%5D%7D"),
        Question::Published { protocol, port, .. } => {
            format!("%7B%22publish%22%3A%5B%22{port}%2F{protocol}%22%5D%7D")
        }
    };
    // A connect that would have to wait for a hung daemon's queue fails instead.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).ok()?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path).ok()?).ok()?;
    let mut stream = UnixStream::from(socket);
    write!(stream, "GET /containers/json?filters={filter} HTTP/1.0\r\nHost: docker\r\n\r\n").ok()?;
    String::from_utf8(read_until(stream, deadline, interrupt).ok()?).ok()
}

/// The name of the container that the reply is about.
///
/// Docker's JSON has no blanks (Go's `encoding/json`), and within a string a quote has a backslash in front: so
/// `"Names":["/` with its quotes can be nothing but the key and the beginning of its list.
fn name_in(reply: &str, question: &Question) -> Option<String> {
    let (head, body) = reply.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200")?;
    let containers: Vec<&str> = body.trim_start().strip_prefix('[')?.split(r#"{"Id":""#).skip(1).collect();
    let is_it = |container: &&&str| match question {
        Question::Id(id) => container.starts_with(id.as_str()),
        Question::Published { address: Some(address), .. } => {
            containers.len() == 1 || container.contains(&format!(r#""IPAddress":"{address}""#))
        }
        Question::Published { address: None, .. } => true,
    };
    let (_, names) = containers.iter().find(is_it)?.split_once(r#""Names":["/"#)?;
    let (name, _) = names.split_once('"')?;
    is_name(name).then(|| name.to_owned())
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Invocation, Pid, StartTime};
    use crate::observe::cgroup::owner_of;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn facts(exe: &str, argv: &[&str], cgroup: &str) -> Facts {
        Facts {
            pid: Pid(7),
            start: StartTime(1),
            ppid: Pid(1),
            uid: 0,
            comm: String::new(),
            exe: Some(exe.into()),
            argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
            cgroup: Some(CgroupPath(cgroup.to_owned())),
            invocation: Invocation::Absent,
            terminal: None,
            program: None,
            folders: None,
            kernel_thread: false,
            ending: false,
        }
    }

    fn named(engine: Engine, name: &str) -> Trace {
        Trace::Known(Container { engine, name: Some(name.to_owned()) })
    }

    #[test]
    fn a_cgroup_names_its_container() {
        let docker = Some(Trace::DockerId(ID.to_owned()));
        let podman = Some(Trace::PodmanId(ID.to_owned()));
        for (path, expected) in [
            (format!("/system.slice/docker-{ID}.scope"), docker.clone()),
            (format!("/docker/{ID}"), docker.clone()),
            (format!("/docker/{ID}/init"), docker),
            (format!("/machine.slice/libpod-{ID}.scope/container"), podman.clone()),
            (format!("/machine.slice/libpod-conmon-{ID}.scope"), podman.clone()),
            (format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"), podman.clone()),
            (format!("/machine.slice/libpod-{ID}.scope"), podman),
            // Below a unit: that is the one to stop, and whoever it was delegated to gives the names there.
            (format!("/system.slice/web.service/libpod-payload-{ID}"), None),
            (format!("/system.slice/evil.service/docker-{ID}.scope"), None),
            (format!("/system.slice/evil.service/docker/{ID}"), None),
            (format!("/system.slice/nerdctl-{ID}.scope"), Some(named(Engine::Nerdctl, "0123456789ab"))),
            (
                format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
                Some(named(Engine::Cri, "0123456789abc")),
            ),
            (format!("/kubepods/besteffort/pod1/{ID}"), Some(named(Engine::Cri, "0123456789abc"))),
            (r"/machine.slice/machine-my\x2dbox.scope/payload".to_owned(), Some(named(Engine::Machined, "my-box"))),
            ("/machine.slice/web-1.scope/payload".to_owned(), Some(named(Engine::Machined, "web-1"))),
            ("/machine.slice/web-1.scope/supervisor".to_owned(), Some(named(Engine::Machined, "web-1"))),
            ("/machine.slice/web-1.scope".to_owned(), None),
            ("/system.slice/web-1.scope/payload".to_owned(), None),
            ("/machine.slice/systemd-nspawn@box.service/payload".to_owned(), Some(named(Engine::Machined, "box"))),
            ("/lxc.payload.web/system.slice/nginx.service".to_owned(), Some(named(Engine::Lxc, "web"))),
            ("/system.slice/docker-1234.scope".to_owned(), None),
            ("/system.slice/docker.service".to_owned(), None),
            ("/system.slice/app.service/docker".to_owned(), None),
            (format!("/{ID}"), None),
            ("/".to_owned(), None),
        ] {
            let facts = facts("/usr/sbin/nginx", &[], &path);
            assert_eq!(trace(&facts, &owner_of(facts.cgroup.as_ref().unwrap())), expected, "{path}");
        }
    }

    #[test]
    fn whoever_holds_a_port_for_a_container_is_told_by_its_program_and_arguments() {
        let proxy = ["docker-proxy", "-proto", "tcp", "-host-port", "8080", "-container-ip", "172.17.0.2"];
        let docker =
            |address: Option<&str>, certain| Some(Trace::DockerPort { address: address.map(str::to_owned), certain });
        let cgroup = "/system.slice/docker.service";
        for (exe, argv, expected) in [
            ("/usr/bin/docker-proxy", &proxy[..], docker(Some("172.17.0.2"), true)),
            ("/usr/bin/docker-proxy (deleted)", &[][..], docker(None, true)),
            ("/usr/sbin/dockerd", &["dockerd"][..], docker(None, false)),
            ("/usr/bin/docker-proxies", &proxy[..], None),
            ("/usr/bin/conmon", &["conmon", "-c", ID, "-n", "web"][..], None),
        ] {
            let facts = facts(exe, argv, cgroup);
            let owner = owner_of(facts.cgroup.as_ref().unwrap());
            assert_eq!(trace(&facts, &owner), expected, "{exe} {argv:?}");
            // A copy of it that anybody runs.
            let session = Owner::Session(crate::model::Session { id: "1".to_owned() });
            assert_eq!(trace(&Facts { uid: 1000, cgroup: None, ..facts.clone() }, &session), None);
            assert_eq!(trace(&Facts { uid: 1000, ..facts }, &owner), None);
        }
    }

    #[test]
    fn root_of_a_container_passes_for_no_helper() {
        let cgroup = format!("/system.slice/docker-{ID}.scope");
        let facts = facts("/usr/bin/docker-proxy", &["docker-proxy", "-container-ip", "172.17.0.2"], &cgroup);
        let owner = owner_of(facts.cgroup.as_ref().unwrap());
        assert_eq!(trace(&facts, &owner), Some(Trace::DockerId(ID.to_owned())));
    }

    #[test]
    fn conmon_knows_the_name_of_its_own_container_alone() {
        const ARGV: &[&str] = &["conmon", "-c", ID, "-n", "web"];
        let container = |path: &str| owner_of(&CgroupPath(path.to_owned()));
        let root = container(&format!("/machine.slice/libpod-{ID}.scope"));
        let user = container(&format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"));
        let monitor = format!("/machine.slice/libpod-conmon-{ID}.scope");
        let by = |argv, cgroup: &str, uid, owner: &Owner, id: &str| {
            name_by_conmon(&Facts { uid, ..facts("/usr/bin/conmon", argv, cgroup) }, owner, id)
        };
        let web = Some("web".to_owned());
        assert_eq!(by(ARGV, &monitor, 0, &root, ID), web);
        assert_eq!(by(ARGV, "/system.slice/backup.service", 0, &root, ID), web);
        assert_eq!(by(ARGV, "/libpod_parent/conmon", 0, &container(&format!("/libpod_parent/libpod-{ID}")), ID), web);
        assert_eq!(by(ARGV, "/user.slice/user-1000.slice/session-1.scope", 1000, &user, ID), web);

        assert_eq!(by(ARGV, &monitor, 0, &root, "another"), None);
        assert_eq!(by(&[], &monitor, 0, &root, ID), None);
        // Who is in the container, or in one that is in it.
        for inside in [
            format!("/machine.slice/libpod-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container/init"),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/system.slice/web.service/libpod-payload-{ID}"),
        ] {
            assert_eq!(by(ARGV, &inside, 0, &root, ID), None, "{inside}");
        }
        // Another user's parent of it, or root's of a user's own.
        assert_eq!(
            by(ARGV, "/libpod_parent/conmon", 1000, &container(&format!("/libpod_parent/libpod-{ID}")), ID),
            None
        );
        assert_eq!(by(ARGV, "/user.slice/user-1000.slice/session-1.scope", 0, &user, ID), None);
        assert_eq!(by(ARGV, &monitor, 1000, &root, ID), None);
        assert_eq!(by(ARGV, "/user.slice/user-1001.slice/session-2.scope", 1001, &user, ID), None);
    }

    fn published(address: Option<&str>) -> Question {
        Question::Published {
            protocol: Protocol::Tcp,
            port: Port::new(8080).unwrap(),
            address: address.map(str::to_owned),
        }
    }

    #[test]
    fn a_reply_names_the_container_that_was_asked_for() {
        let reply = |body: &str| format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}");
        let one = format!(r#"{{"Id":"{ID}","Names":["/web"],"Image":"x","Labels":{{"a":"\"Names\":[\"/evil\"]"}}}}"#);
        let other =
            r#"{"Id":"ffff","Names":["/other"],"NetworkSettings":{"Networks":{"bridge":{"IPAddress":"172.17.0.3"}}}}"#;
        let both = format!("[{one},{other}]");
        for (body, question, expected) in [
            (&format!("[{one}]"), published(None), Some("web")),
            (&format!("[{one}]"), published(Some("172.17.0.9")), Some("web")),
            (&both, published(Some("172.17.0.3")), Some("other")),
            (&both, published(Some("172.17.0.9")), None),
            (&both, Question::Id(ID.to_owned()), Some("web")),
            (&both, Question::Id("eeee".to_owned()), None),
            (&"[]".to_owned(), published(None), None),
            (&r#"[{"Id":"a","Names":["/x;reboot"]}]"#.to_owned(), published(None), None),
            (&r#"{"message":"no"}"#.to_owned(), published(None), None),
        ] {
            assert_eq!(name_in(&reply(body), &question).as_deref(), expected, "{question:?} {body}");
        }
        assert_eq!(name_in(&format!("HTTP/1.0 500 No\r\n\r\n[{one}]"), &published(None)), None);
    }

    #[test]
    fn a_daemon_that_hangs_costs_half_a_second_once() {
        let folder = tempfile::tempdir().unwrap();
        let _hung = UnixListener::bind(folder.path().join("docker.sock")).unwrap();
        let docker = Docker::new(folder.path());
        let begin = Instant::now();
        for digit in 0..10 {
            assert_eq!(docker.name(&Question::Id(digit.to_string()), &Interrupt::default()), None);
        }
        let took = begin.elapsed();
        assert!(took >= PATIENCE && took < PATIENCE * 4, "{took:?}");
    }

    #[test]
    fn without_a_daemon_a_container_has_its_short_id_and_a_port_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let docker = Docker::new(folder.path());
        assert_eq!(docker.name_of(ID, &Interrupt::default()), "0123456789ab");
        let port = Port::new(8080).unwrap();
        assert_eq!(docker.name_by_port(Protocol::Tcp, port, None, &Interrupt::default()), None);
        docker.answers.borrow_mut().insert(Question::Id(ID.to_owned()), Some("web".to_owned()));
        assert_eq!(docker.name_of(ID, &Interrupt::default()), "web");
    }

    #[test]
    fn the_name_of_a_machine_is_what_systemd_has_escaped() {
        for (escaped, name) in [
            (r"a\x2db\x2dc", "a-b-c"),
            (r"abcd\x2d", "abcd-"),
            (r"\x2d\x2dx", "--x"),
            (r"a\xzzb", r"a\xzzb"),
            (r"abc\x07\x2d", r"abc\x07-"),
            (r"a\x2", r"a\x2"),
            ("web", "web"),
        ] {
            assert_eq!(unescape(escaped), name);
        }
    }

    #[test]
    fn a_daemon_that_answers_is_asked_once() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("docker.sock")).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            // Whoever closes with something unread has the other hear of an error, and not of the answer.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            write!(client, "HTTP/1.0 200 OK\r\n\r\n[{{\"Id\":\"{ID}\",\"Names\":[\"/web\"]}}]").unwrap();
            String::from_utf8_lossy(&request).into_owned()
        });
        let docker = Docker::new(folder.path());
        // How long is for another test, on a machine that may be busy.
        docker.left.replace(PATIENCE * 40);
        let port = Port::new(8080).unwrap();
        for _ in 0..2 {
            let name = docker.name_by_port(Protocol::Tcp, port, None, &Interrupt::default());
            assert_eq!(name.as_deref(), Some("web"));
        }
        let request = daemon.join().unwrap();
        let line = "GET /containers/json?filters=%7B%22publish%22%3A%5B%228080%2Ftcp%22%5D%7D HTTP/1.0\r\n";
        assert!(request.starts_with(line), "{request}");
    }

    proptest! {
        #[test]
        fn no_reply_and_no_path_makes_it_panic(reply in any::<String>(), path in any::<String>()) {
            let _ = name_in(&reply, &published(None));
            let _ = name_in(&format!("HTTP/1.0 200 OK\r\n\r\n[{reply}"), &published(None));
            let _ = in_cgroup(&CgroupPath(path));
        }

        #[test]
        fn a_name_that_is_shown_means_nothing_to_a_shell(name in r"[ -~]{0,20}") {
            let reply = format!("HTTP/1.0 200 OK\r\n\r\n[{{\"Id\":\"1\",\"Names\":[\"/{name}\"]}}]");
            if let Some(shown) = name_in(&reply, &published(None)) {
                prop_assert!(!shown.contains(|c: char| " ;&|<>$`\\\"'(){}*?#!~\n".contains(c)), "{}", shown);
            }
        }
    }
}
