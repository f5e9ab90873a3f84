//! `portguard enable` and `disable`: the drop-in that puts portguard in front of a unit's start, and the ports in the policy
//! where it has none. Each file begins with a line that says who wrote it; one that does not is never touched.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::process::umask;
use serde::Serialize;

use super::audit::guards;
use super::learn::{self, Stanza};
use super::{CommandError, known_units, show, systemctl};
use crate::cli;
use crate::interrupt::Interrupt;
use crate::manager::{Scope, Systemctl};
use crate::model::{BlindSpot, UnitName, UnitType};
use crate::observe::units::{self, Properties};
use crate::policy::{self, Policy, PolicyError};
use crate::report::document::{Document, Page, Tone};
use crate::report::shell;

/// The first line of what is written here. Whoever changes such a file takes it away, and it stays.
const MARK: &str =
    "# Written by portguard enable, which replaces it, as disable removes it, while this line is here.\n";

/// The name that `systemctl edit --drop-in=10-portguard` would give.
const DROP_IN: &str = "10-portguard.conf";

/// How long a manager may take to read all units anew.
const RELOAD: Duration = Duration::from_secs(90);

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Done {
    steps: Vec<Step>,
}

/// One thing that was done, or was not necessary.
#[derive(Debug, Serialize)]
struct Step {
    /// `wrote`, `removed`, `kept`, `reloaded`, `noted`.
    what: &'static str,
    /// The file.
    path: Option<String>,
    /// The unit.
    unit: Option<String>,
    /// In a sentence.
    message: String,
}

impl Done {
    fn note(&mut self, what: &'static str, path: Option<&Path>, unit: Option<&UnitName>, message: String) {
        let path = path.map(|path| path.display().to_string());
        self.steps.push(Step { what, path, unit: unit.map(ToString::to_string), message });
    }

    fn has_changed(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.what, "wrote" | "removed"))
    }
}

/// Where the files of this manager are.
struct Folders {
    scope: Scope,
    run: PathBuf,
    /// The folders of units, and of the policy: the first is written to, all are cleared.
    places: Vec<(PathBuf, Option<PathBuf>)>,
}

impl Folders {
    fn of(target: &cli::Target) -> Result<Self, CommandError> {
        let roots = crate::observe::Roots::of_host(target.common.user);
        if target.common.user {
            let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".config"));
            let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
            let config = config.or_else(home).ok_or_else(|| CommandError::cannot_create("HOME is not set"))?;
            own_folder(&config)?;
            let (lasting, runtime) = (config.join("systemd/user"), roots.run.join("systemd/user"));
            let places = if target.runtime { vec![runtime] } else { vec![lasting, runtime] };
            let places = places.into_iter().map(|units| (units, None)).collect();
            return Ok(Self { scope: Scope::User, run: roots.run, places });
        }
        let of = |root: &str| (Path::new(root).join("systemd/system"), Some(Path::new(root).join("portguard/conf.d")));
        let places = if target.runtime { vec![of("/run")] } else { vec![of("/etc"), of("/run")] };
        Ok(Self { scope: Scope::System, run: roots.run, places })
    }

    /// Where the drop-in of a unit is to be.
    fn drop_in(&self, unit: &UnitName) -> PathBuf {
        let folder = self.places.first().map_or(Path::new("/"), |(units, _)| units.as_path());
        folder.join(format!("{unit}.d")).join(DROP_IN)
    }
}

/// What is there of this path is the calling user's or root's, and so is each link in it: `su` and some of sudo's settings
/// keep `HOME`, in which root would write where another user says.
fn own_folder(path: &Path) -> Result<(), CommandError> {
    let owners = [0, rustix::process::geteuid().as_raw()];
    let is_others = |path: &&Path| fs::symlink_metadata(path).is_ok_and(|status| !owners.contains(&status.uid()));
    match path.ancestors().find(is_others) {
        Some(path) => {
            let path = path.display();
            Err(CommandError::cannot_create(format!("{path} is another user's: call it as the user whose unit it is")))
        }
        None => Ok(()),
    }
}

/// Whether the policy that its start reads gives ports to this unit. A drop-in that lasts needs ports that do.
fn has_ports(unit: &UnitName, runtime: bool) -> Result<bool, PolicyError> {
    let mut roots = policy::Roots::default();
    let at_start = Policy::load_for(unit, &roots)?;
    if runtime {
        return Ok(at_start.has_ports(unit));
    }
    roots.dirs.retain(|root| root != Path::new("/run"));
    Ok(Policy::load_for(unit, &roots)?.has_ports(unit))
}

/// Exit status 0: each unit is guarded now.
pub(super) fn enable(target: &cli::Target) -> Result<u8, CommandError> {
    let folders = Folders::of(target)?;
    let units = units_of(target, &folders)?;
    let program = installed_program(folders.scope)?;
    let mut unknown: Vec<UnitName> = Vec::new();
    for unit in &units {
        if !has_ports(unit, target.runtime).map_err(|error| CommandError::policy(&error))? {
            unknown.push(unit.clone());
        }
    }
    let learnable: Vec<UnitName> = unknown.iter().filter(|unit| !unit.is_template()).cloned().collect();
    let (learnt, blind) =
        if learnable.is_empty() { Default::default() } else { learn::learn(&learnable, target.common.user)? };
    if let Some(crowd) = blind.iter().find(|spot| **spot == BlindSpot::Crowd) {
        let crowd =
            format!("{crowd}, and one of them may be a unit's: write its ports into the policy; nothing was changed");
        return Err(CommandError::blind(crowd));
    }
    let mut files = Vec::new();
    let mut done = Done::default();
    for unit in &units {
        let stanza = learnt.iter().find(|stanza| stanza.is_of(unit) && stanza.has_ports());
        let drop_in = folders.drop_in(unit);
        if stanza.is_some() || !unknown.contains(unit) {
            files.extend(files_of(unit, stanza, &program, &folders, drop_in));
        } else if folders.scope == Scope::User && is_ours(&drop_in) {
            // Its ports are in there.
            done.note("kept", Some(&drop_in), Some(unit), format!("{} is there already", drop_in.display()));
        } else {
            return Err(no_ports(unit, learnt.iter().any(|stanza| stanza.is_of(unit) && !stanza.is_empty())));
        }
    }
    if let Some(other) = files.iter().find_map(|file| in_another_layer(&file.path)) {
        return Err(CommandError::cannot_create(format!(
            "{} is there already, and of two with one name only one is read: write the ports into it; nothing was changed",
            other.display()
        )));
    }
    write_all(&files, &mut done)?;
    finish(&folders, &units, done, target.common.json, true)
}

/// The drop-in of the same name in another layer, that would hide this one, or be hidden with all that it says.
fn in_another_layer(path: &Path) -> Option<PathBuf> {
    let name = path.file_name().filter(|name| Path::new(name).extension().is_some_and(|suffix| suffix == "toml"))?;
    let mut layers = policy::DEFAULT_ROOTS.iter().map(|root| Path::new(root).join("portguard/conf.d").join(name));
    layers.find(|other| other != path && fs::symlink_metadata(other).is_ok() && !is_ours(other))
}

/// Either all are written, or none is; what could not be taken back is in the error.
fn write_all(files: &[File], done: &mut Done) -> Result<(), CommandError> {
    let mut before = Vec::new();
    for file in files {
        before.push(file.old()?);
    }
    for (index, file) in files.iter().enumerate() {
        let Err(mut error) = file.write(done) else { continue };
        let left = files[..=index].iter().zip(before).filter(|(file, before)| !file.undo(before.as_deref()));
        let left: Vec<String> = left.map(|(file, _)| file.path.display().to_string()).collect();
        error.message +=
            if left.is_empty() { "; nothing was changed" } else { "; portguard disable removes what is left: " };
        error.message += &left.join(", ");
        return Err(error);
    }
    Ok(())
}

fn no_ports(unit: &UnitName, has_others: bool) -> CommandError {
    let why = if unit.is_template() {
        "a template listens on nothing".to_owned()
    } else if has_others {
        format!("portguard learn {} says why", shell(unit))
    } else {
        "it listens on nothing now: start it first".to_owned()
    };
    CommandError::nothing(format!(
        "no ports are known of {unit}, and none can be learnt: {why}, or write [unit.{:?}] with ports = [\"8080/tcp\"] in \
         /etc/portguard/portguard.toml; nothing was changed",
        unit.as_str()
    ))
}

/// A file that is to be.
struct File {
    unit: UnitName,
    path: PathBuf,
    text: String,
    /// What it is for.
    what: &'static str,
}

fn files_of(
    unit: &UnitName,
    learnt: Option<&Stanza>,
    program: &Path,
    folders: &Folders,
    drop_in: PathBuf,
) -> Vec<File> {
    let mut files = Vec::new();
    let mut command = match folders.scope {
        Scope::System => format!("+{} --unit %n", program.display()),
        Scope::User => format!("{} --user --unit %n", program.display()),
    };
    let policy_folder = folders.places.first().and_then(|(_, policy)| policy.as_ref());
    match (learnt, policy_folder) {
        (Some(stanza), Some(folder)) => {
            let (path, text) = (folder.join(policy::own_drop_in(unit)), format!("{MARK}{}", stanza.toml()));
            files.push(File { unit: unit.clone(), path, text, what: "its ports, as it listens now" });
        }
        // The policy is root's: the ports of a user's unit are in its command.
        (Some(stanza), None) => {
            for port in stanza.taken() {
                command = format!("{command} --port {port}");
            }
        }
        (None, _) => {}
    }
    let section = if unit.unit_type() == UnitType::Socket { "Socket" } else { "Service" };
    let text = format!("{MARK}[{section}]\nExecStartPre={command}\n");
    files.push(File { unit: unit.clone(), path: drop_in, text, what: "portguard runs before each start" });
    files
}

/// Exit status 0: none of the units has a drop-in of ours any more.
pub(super) fn disable(target: &cli::Target) -> Result<u8, CommandError> {
    let folders = Folders::of(target)?;
    // A unit that is not there any more can have a drop-in all the same.
    let units = units_of(target, &folders)
        .or_else(|error| if error.is_of_unit() { Ok(target.units.clone()) } else { Err(error) })?;
    let mut done = Done::default();
    // What is left does not keep the rest from being removed, and systemd from being told.
    let mut all = Ok(());
    for unit in &units {
        for (unit_folder, policy_folder) in &folders.places {
            let folder = unit_folder.join(format!("{unit}.d"));
            all = all.and(remove(&folder.join(DROP_IN), unit, &mut done));
            // Only if it is empty.
            let _ = fs::remove_dir(&folder);
            if let Some(policy) = policy_folder {
                all = all.and(remove(&policy.join(policy::own_drop_in(unit)), unit, &mut done));
            }
        }
        if !done.steps.iter().any(|step| step.unit.as_deref() == Some(unit.as_str())) {
            done.note("kept", None, Some(unit), format!("{unit} has no drop-in of portguard enable"));
        }
    }
    let status = finish(&folders, &units, done, target.common.json, false)?;
    all.map(|()| status)
}

/// The units by their own names. Those that do not exist are an error.
fn units_of(target: &cli::Target, folders: &Folders) -> Result<Vec<UnitName>, CommandError> {
    Ok(known_units(folders.scope, &folders.run, &target.units)?.into_iter().map(|(unit, _)| unit).collect())
}

/// Has the manager read what was changed, and sees that it has.
fn finish(
    folders: &Folders,
    units: &[UnitName],
    mut done: Done,
    json: bool,
    enabled: bool,
) -> Result<u8, CommandError> {
    let deadline = Instant::now() + RELOAD;
    let runnable: Vec<UnitName> = units.iter().filter(|unit| !unit.is_template()).cloned().collect();
    let mut is_new = done.has_changed();
    let odd = loop {
        if is_new {
            Systemctl { scope: folders.scope, run: &folders.run, deadline }
                .ask(&["daemon-reload"], &Interrupt::default())
                .map_err(|why| {
                    CommandError::blind(format!("systemd could not be told: {why}; systemctl daemon-reload"))
                })?;
            done.note("reloaded", None, None, "systemd has read its units anew".to_owned());
        }
        let commands = ["ExecConditionEx", "ExecStartPreEx", "ExecStartPre"];
        let shown = units::show(folders.scope, &folders.run, &runnable, &commands).map_err(CommandError::blind)?;
        let is_odd = |(unit, shown): &(&UnitName, Properties)| guards(unit, shown).is_empty() == enabled;
        let odd: Vec<&UnitName> = runnable.iter().zip(shown).filter(is_odd).map(|(unit, _)| unit).collect();
        // What was written by a call that came no further, systemd has not read yet.
        if odd.is_empty() || is_new {
            break odd;
        }
        is_new = true;
    };
    for unit in &odd {
        let which = format!("{} cat {}", systemctl(folders.scope), shell(unit));
        let message = if enabled {
            format!("{unit} does not run portguard all the same: another drop-in hides this one, see {which}")
        } else {
            format!("{unit} still runs portguard, by another file: see {which}")
        };
        done.note("noted", None, Some(unit), message);
    }
    let status = u8::from(!odd.is_empty());
    show(&done, json, status)
}

/// The one that is installed, by which systemd will run it. What others can write is no program for root.
fn installed_program(scope: Scope) -> Result<PathBuf, CommandError> {
    let own =
        std::env::current_exe().map_err(|error| CommandError::cannot_create(format!("/proc/self/exe: {error}")))?;
    let is_installed = ["/usr/", "/opt/", "/nix/store/", "/gnu/store/"].iter().any(|root| own.starts_with(root));
    let text = own.to_str().filter(|text| !text.contains([' ', '%', '"', '\'', '\\', '$', ';']));
    let is_safe = || fs::metadata(&own).is_ok_and(|status| status.uid() == 0 && status.mode() & 0o022 == 0);
    if text.is_none() || (scope == Scope::System && !(is_installed && is_safe())) {
        let own = own.display();
        return Err(CommandError::cannot_create(format!(
            "{own} is no place from which systemd should run it: install it, to /usr/bin"
        )));
    }
    Ok(own)
}

impl File {
    fn failed(&self, error: &io::Error) -> CommandError {
        CommandError::cannot_create(format!("{}: {error}", self.path.display()))
    }

    /// What is there in its place. One of somebody else's is an error.
    fn old(&self) -> Result<Option<String>, CommandError> {
        let old = read(&self.path).map_err(|error| self.failed(&error))?;
        if old.as_ref().is_some_and(|old| *old != self.text && !old.starts_with(MARK)) {
            return Err(CommandError::cannot_create(not_ours(&self.path)));
        }
        Ok(old)
    }

    /// Writes it whole or not at all, unless somebody else has written one there.
    fn write(&self, done: &mut Done) -> Result<(), CommandError> {
        let Self { unit, path, text, what } = self;
        if self.old()?.as_deref() == Some(text) {
            done.note("kept", Some(path), Some(unit), format!("{} is there already: {what}", path.display()));
            return Ok(());
        }
        self.put(text).map_err(|error| self.failed(&error))?;
        done.note("wrote", Some(path), Some(unit), format!("{}: {what}", path.display()));
        Ok(())
    }

    /// Replaces the whole of it, or nothing.
    fn put(&self, text: &str) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        // Whatever it was: nobody else may write there, and people, and the guards of users' units, are to read it.
        umask(Mode::from_raw_mode(0o022));
        fs::create_dir_all(folder)?;
        let temporary = folder.join(format!(".{DROP_IN}.{}", std::process::id()));
        let written = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        written().inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    /// Takes back what was written, and says whether all is as it was before.
    fn undo(&self, before: Option<&str>) -> bool {
        match before {
            Some(text) => drop(self.put(text)),
            None => drop(fs::remove_file(&self.path)),
        }
        if let Some(folder) = self.path.parent().filter(|_| self.path.ends_with(DROP_IN)) {
            // Only if it is empty.
            let _ = fs::remove_dir(folder);
        }
        read(&self.path).is_ok_and(|now| now.as_deref() == before)
    }
}

fn not_ours(path: &Path) -> String {
    format!("{} is not from portguard enable, or its folder is a link: it is left as it is", path.display())
}

fn is_ours(path: &Path) -> bool {
    read(path).is_ok_and(|text| text.is_some_and(|text| text.starts_with(MARK)))
}

fn remove(path: &Path, unit: &UnitName, done: &mut Done) -> Result<(), CommandError> {
    let failed = |error: io::Error| CommandError::cannot_create(format!("{}: {error}", path.display()));
    match read(path).map_err(failed)? {
        None => {}
        Some(old) if old.starts_with(MARK) => {
            fs::remove_file(path).map_err(failed)?;
            done.note("removed", Some(path), Some(unit), path.display().to_string());
        }
        Some(_) => {
            done.note("kept", Some(path), Some(unit), not_ours(path));
        }
    }
    Ok(())
}

/// A file of ours is small, and no link. One that is neither is somebody else's: its text is not ours then.
/// So is whatever is in a folder that is a link to one of another name, as to the drop-ins of another unit.
fn read(path: &Path) -> io::Result<Option<String>> {
    let folder = path.parent().filter(|_| path.ends_with(DROP_IN));
    if folder.is_some_and(|folder| fs::canonicalize(folder).is_ok_and(|real| real.file_name() != folder.file_name())) {
        return Ok(Some(String::new()));
    }
    match fs::symlink_metadata(path) {
        Ok(status) if !status.is_file() || status.len() > policy::MAX_FILE_BYTES => return Ok(Some(String::new())),
        Ok(_) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    fs::read(path).map(|bytes| Some(String::from_utf8_lossy(&bytes).into_owned()))
}

impl Document for Done {
    const KIND: &'static str = "enable";

    fn print(&self, page: &mut Page) {
        for step in &self.steps {
            let tone = (step.what == "noted").then_some(Tone::Bad);
            page.words(&format!("{} ", step.what), &step.message, tone);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn unit() -> UnitName {
        "app.service".parse().unwrap()
    }

    fn write(path: &Path, text: &str, done: &mut Done) -> Result<(), CommandError> {
        File { unit: unit(), path: path.to_owned(), text: text.to_owned(), what: "" }.write(done)
    }

    #[test]
    fn what_somebody_else_has_written_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.service.d").join(DROP_IN);
        let ours = format!("{MARK}[Service]\n");
        let mut done = Done::default();
        write(&path, &ours, &mut done).unwrap();
        write(&path, &ours, &mut done).unwrap();
        write(&path, &format!("{ours}ExecStartPre=true\n"), &mut done).unwrap();
        assert_eq!(done.steps.iter().map(|step| step.what).collect::<Vec<_>>(), ["wrote", "kept", "wrote"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);

        fs::write(&path, "[Service]\n").unwrap();
        assert!(write(&path, &ours, &mut done).is_err());
        remove(&path, &unit(), &mut done).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[Service]\n");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(write(&path, &ours, &mut done).is_err());
        assert!(fs::read_dir(path.parent().unwrap()).unwrap().count() == 1, "no temporary file is left");
    }

    #[test]
    fn the_drop_ins_of_another_unit_are_not_touched_by_a_link_to_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let theirs = at("other.service.d").join(DROP_IN);
        let mut done = Done::default();
        write(&theirs, MARK, &mut done).unwrap();
        std::os::unix::fs::symlink("other.service.d", at("app.service.d")).unwrap();
        let linked = at("app.service.d").join(DROP_IN);
        assert!(write(&linked, &format!("{MARK}[Service]\n"), &mut done).is_err());
        remove(&linked, &unit(), &mut done).unwrap();
        assert_eq!(fs::read_to_string(&theirs).unwrap(), MARK);

        // One of its own name is its own, wherever it is.
        fs::create_dir_all(at("elsewhere/web.service.d")).unwrap();
        std::os::unix::fs::symlink("elsewhere/web.service.d", at("web.service.d")).unwrap();
        write(&at("web.service.d").join(DROP_IN), MARK, &mut done).unwrap();
    }

    #[test]
    fn a_narrow_page_has_the_whole_of_what_was_done() {
        let mut done = Done::default();
        let message =
            "app.service does not run portguard all the same: another drop-in hides this one, see systemctl cat";
        done.note("noted", None, None, message.to_owned());
        let mut page = Page::plain(80);
        done.print(&mut page);
        let shown: Vec<&str> = page.text().split_whitespace().collect();
        assert_eq!(shown.join(" "), format!("noted {message}"));
        assert!(page.text().lines().all(|line| line.len() <= 80), "{}", page.text());
    }

    #[test]
    fn what_was_written_before_a_failure_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let file = |path: &str| File { unit: unit(), path: at(path), text: format!("{MARK}new\n"), what: "" };
        let old = format!("{MARK}old\n");
        fs::write(at("old.toml"), &old).unwrap();
        fs::write(at("app.service.d"), "no folder").unwrap();
        let files = [
            file("old.toml"),
            file("new.toml"),
            file(&format!("x.d/{DROP_IN}")),
            file(&format!("app.service.d/{DROP_IN}")),
        ];
        let error = write_all(&files, &mut Done::default()).unwrap_err();
        assert!(error.message.ends_with("; nothing was changed"), "{}", error.message);
        assert_eq!(fs::read_to_string(at("old.toml")).unwrap(), old);
        assert!(!at("new.toml").exists() && !at("x.d").exists());

        // What cannot be taken back is said.
        let stuck = file("stuck.toml");
        fs::create_dir(&stuck.path).unwrap();
        assert!(!stuck.undo(None));
    }

    #[test]
    fn a_folder_of_another_user_is_not_written_to() {
        assert!(own_folder(Path::new("/proc/self/nonexistent")).is_ok());
        let root_is_caller = rustix::process::geteuid().is_root();
        let folder = tempfile::tempdir().unwrap();
        if root_is_caller {
            std::os::unix::fs::chown(folder.path(), Some(1), None).unwrap();
        }
        assert_eq!(own_folder(&folder.path().join("a/b")).is_err(), root_is_caller);
        // Nor is one of ours, or of root's, where another user has made the link to it.
        let (target, link) = (tempfile::tempdir().unwrap(), folder.path().join(".config"));
        std::os::unix::fs::symlink(target.path(), &link).unwrap();
        if root_is_caller {
            std::os::unix::fs::lchown(&link, Some(1), None).unwrap();
        }
        assert_eq!(own_folder(&link).is_err(), root_is_caller);
        assert!(own_folder(&target.path().join("a")).is_ok());
    }

    #[test]
    fn what_is_ours_is_removed_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DROP_IN);
        let mut done = Done::default();
        write(&path, MARK, &mut done).unwrap();
        remove(&path, &unit(), &mut done).unwrap();
        remove(&path, &unit(), &mut done).unwrap();
        assert_eq!(done.steps.iter().map(|step| step.what).collect::<Vec<_>>(), ["wrote", "removed"]);
        assert!(!path.exists());
    }
}
