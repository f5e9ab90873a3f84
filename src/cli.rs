//! What can be typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::model::{EndpointRange, UnitName, UnitNameError, UnitType, printable};

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Request {
    /// To guard the start of a unit: options alone.
    Guard(Cli),
    /// One of the commands for people: a word comes first.
    Command(Command),
}

/// The command line of the guard.
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[derive(Clone, Debug, Parser)]
#[command(
    name = "portguard",
    version,
    about = "Frees a systemd unit's ports of its own left-over processes before it starts, or says who is in the way",
    after_help = "Put it in front of a service, with the plus:\n\n    \
        ExecStartPre=+/usr/bin/portguard --unit %n\n\n\
        For people: portguard help lists who and its kin.\n\n\
        Exit status: 0 free or freed, 64 usage, 69 held by something it may not touch, 70 internal error,\n\
        75 still held at the deadline, 77 not permitted to see or signal, 78 policy error."
)]
pub struct Cli {
    /// The unit that is about to start: a .service or a .socket, %n in a unit file
    #[arg(long, value_name = "NAME", value_parser = guardable)]
    pub unit: UnitName,

    /// One more port that it binds, besides those of the policy
    #[arg(
        long = "port",
        value_name = "ENDPOINT",
        help = "One more port that it binds, besides those of the policy: 8080, 8080/tcp, 127.0.0.1:9090/tcp, [::1]:53/udp, \
            8000-8010/tcp"
    )]
    pub ports: Vec<EndpointRange>,

    /// Read this policy alone, instead of /etc/portguard/portguard.toml and its kin
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// The unit is one of the calling user's own service manager
    #[arg(long)]
    pub user: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Say more of what was seen
    #[arg(short, long)]
    pub verbose: bool,

    /// Print how it ended as JSON as well, on standard output: portguard.schema.json
    #[arg(long)]
    pub json: bool,
}

/// The command line of the commands.
#[derive(Debug, Parser)]
#[command(
    name = "portguard",
    about = "Who holds a port, whose that is, and what to type next",
    after_help = "Without a command it guards the start of a unit: portguard --help"
)]
struct Commands {
    #[command(subcommand)]
    command: Command,
}

/// What people type.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Who holds an endpoint, whose that is, and what to type to free it
    Who(Who),
    /// The part of a policy for what a unit listens on as it runs now
    Learn(Learn),
    /// Put portguard in front of a unit's start: writes a drop-in, and its ports into the policy where it has none
    Enable(Target),
    /// Take away what enable has written
    Disable(Target),
    /// All that is wrong with the policy, and with what it says of units and ports
    Check(Check),
    /// What keeps the units of this system from getting their ports one day
    Audit(Audit),
    /// Ports that nobody claims
    Suggest(Suggest),
}

/// `portguard learn`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit status: 0 ports of each unit were learnt, 1 not of all, 64 usage, 66 no such unit, 77 not able to look."
)]
pub struct Learn {
    /// The units
    #[arg(value_name = "UNIT", required = true, value_parser = |text: &str| guardable(&as_typed(text)))]
    pub units: Vec<UnitName>,

    /// Options of all commands.
    #[command(flatten)]
    pub common: Common,
}

/// `portguard enable` and `portguard disable`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit status: 0 done, or done before, 1 nothing to do it with, 64 usage, 66 no such unit, 73 a file cannot be \
                  written or is not ours, 77 systemd does not answer, 78 policy error."
)]
pub struct Target {
    /// The units, or templates
    #[arg(value_name = "UNIT", required = true, value_parser = |text: &str| guardable_or_template(&as_typed(text)))]
    pub units: Vec<UnitName>,

    /// Until the next boot: in /run
    #[arg(long)]
    pub runtime: bool,

    /// Options of all commands.
    #[command(flatten)]
    pub common: Common,
}

/// What all commands know.
#[derive(Clone, Copy, Debug, Args)]
pub struct Common {
    /// Ask the calling user's own manager
    #[arg(long)]
    pub user: bool,

    /// Print JSON: portguard.schema.json
    #[arg(long)]
    pub json: bool,
}

/// `portguard who`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit status: 0 somebody holds one of them, 1 nobody does, 64 usage, 77 not able to look, 78 policy error."
)]
pub struct Who {
    /// What is asked about; without any, the ports of `--unit`, else all listeners
    #[arg(
        value_name = "ENDPOINT",
        help = "What is asked about: 8080, 8080/tcp, 127.0.0.1:9090/tcp, [::1]:53/udp, 8000-8010/tcp; without any, the \
            ports of --unit, else all listeners"
    )]
    pub endpoints: Vec<EndpointRange>,

    /// Say how each holder stands to this unit, and what portguard would do
    #[arg(long, value_name = "NAME", value_parser = |text: &str| guardable(&as_typed(text)))]
    pub unit: Option<UnitName>,

    /// Print columns, as lsof does
    #[arg(short, long)]
    pub long: bool,

    /// Options of all commands.
    #[command(flatten)]
    pub common: Common,
}

/// `portguard check`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit status: 0 nothing found, 1 something found, 64 usage, 77 a file may not be read, 78 the policy makes no sense."
)]
pub struct Check {
    /// Check this policy alone, instead of /etc/portguard/portguard.toml and its kin
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,

    /// Options of all commands.
    #[command(flatten)]
    pub common: Common,
}

/// `portguard audit`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Exit status: 0 nothing found, 1 something found, 64 usage, 77 not able to look.")]
pub struct Audit {
    /// Options of all commands.
    #[command(flatten)]
    pub common: Common,
}

/// `portguard suggest`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Exit status: 0 as many as were asked for, 1 fewer, 64 usage, 77 not able to look.")]
pub struct Suggest {
    /// As near to this port as can be
    #[arg(long, value_name = "PORT", default_value = "8080", value_parser = positive)]
    pub near: u16,

    /// So many
    #[arg(long, value_name = "N", default_value = "5", value_parser = positive)]
    pub count: u16,

    /// Of UDP, and not of TCP
    #[arg(long)]
    pub udp: bool,

    /// Options of all commands.
    #[command(flatten)]
    pub common: Common,
}

fn positive(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "give a number from 1 to 65535".to_owned())
}

/// What somebody types for a unit's name, as systemctl(1) takes it: a service, where no type of unit is said
/// (`unit_name_mangle()`, systemd v257 `src/basic/unit-name.c`).
fn as_typed(text: &str) -> String {
    let has_a_type = text.rsplit_once('.').is_some_and(|(_, suffix)| UnitType::of_suffix(suffix).is_some());
    let is_a_name = !text.is_empty() && !text.contains('/');
    format!("{text}{}", if has_a_type || !is_a_name { "" } else { ".service" })
}

/// A unit that can have an `ExecStartPre=` and a port: systemd.service(5), systemd.socket(5).
fn guardable(text: &str) -> Result<UnitName, String> {
    let unit: UnitName = text.parse().and_then(UnitName::require_runnable).map_err(|error| error.to_string())?;
    guardable_or_template(unit.as_str())
}

fn guardable_or_template(text: &str) -> Result<UnitName, String> {
    let unit: UnitName = text.parse().map_err(|error: UnitNameError| error.to_string())?;
    match unit.unit_type() {
        UnitType::Service | UnitType::Socket => Ok(unit),
        UnitType::Target
        | UnitType::Device
        | UnitType::Mount
        | UnitType::Automount
        | UnitType::Swap
        | UnitType::Timer
        | UnitType::Path
        | UnitType::Slice
        | UnitType::Scope => Err(format!("\"{unit}\" binds no port: name a .service or a .socket")),
    }
}

/// The parser of the commands, for whoever wants to know what there is to type.
#[must_use]
pub fn commands() -> clap::Command {
    <Commands as clap::CommandFactory>::command()
}

/// What the arguments ask for, when it is not a run.
#[derive(Debug)]
pub enum Otherwise {
    /// `--help` or `--version`: the text for standard output.
    Show(String),
    /// They make no sense: the text for standard error.
    Usage(String),
}

impl Request {
    /// Reads the arguments of a process, its name first. The commands are no part of the guard's parser, which is made at each start.
    ///
    /// # Errors
    /// They ask for a text, or make no sense.
    pub fn of(arguments: &[OsString]) -> Result<Self, Otherwise> {
        if let Some(cli) = Cli::usual(arguments) {
            return Ok(Self::Guard(cli));
        }
        let is_command = arguments.get(1).is_some_and(|first| !first.as_encoded_bytes().starts_with(b"-"));
        let request = if is_command {
            Commands::try_parse_from(arguments).map(|all| Self::Command(all.command))
        } else {
            Cli::try_parse_from(arguments).map(Self::Guard)
        };
        request.map_err(|error| Otherwise::of(&error))
    }
}

impl Cli {
    /// What nearly every unit file has, `--unit NAME` and no more: to make the parser of all that could be there is two
    /// fifths of the instructions of a start whose ports are free. `None` is for the parser to read, or to say what is wrong.
    fn usual(arguments: &[OsString]) -> Option<Self> {
        let [_, option, name] = arguments else { return None };
        if option != "--unit" {
            return None;
        }
        // For the parser such a name is an option.
        let name = name.to_str().filter(|name| !name.starts_with('-'))?;
        let unit = guardable(name).ok()?;
        let (ports, policy) = (Vec::new(), None);
        Some(Self { unit, ports, policy, user: false, dry_run: false, verbose: false, json: false })
    }
}

impl Otherwise {
    /// What is wrong names the arguments, which can be of others.
    fn of(error: &clap::Error) -> Self {
        let text = error.to_string();
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            Self::Show(text)
        } else {
            Self::Usage(text.split('\n').map(printable).collect::<Vec<_>>().join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_start_and_bind_is_guarded() {
        for good in ["app.service", "app@1.service", "app.socket"] {
            assert!(guardable(good).is_ok(), "{good}");
        }
        for bad in ["app", "app@.service", "../app.service", "/etc/app.service", "app.timer", "", "a b.service"] {
            assert!(guardable(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_typed_for_a_unit_is_a_service_where_no_type_is_said() {
        for (typed, unit) in [
            ("app", "app.service"),
            ("app@1", "app@1.service"),
            ("my.app", "my.app.service"),
            ("app.socket", "app.socket"),
            ("app.timer", "app.timer"),
            ("", ""),
            ("../app", "../app"),
        ] {
            assert_eq!(as_typed(typed), unit);
        }
        for command in ["learn", "enable", "disable"] {
            assert!(Commands::try_parse_from(["portguard", command, "app"]).is_ok(), "{command}");
            assert!(Commands::try_parse_from(["portguard", command, "app.timer"]).is_err(), "{command}");
        }
        assert!(Commands::try_parse_from(["portguard", "who", "--unit", "app"]).is_ok());
    }

    #[test]
    fn the_usual_command_line_means_what_the_parser_makes_of_it() {
        let usual = |words: &[&str]| {
            let words: Vec<OsString> = ["portguard"].iter().chain(words).map(OsString::from).collect();
            Cli::usual(&words)
        };
        for unit in ["app.service", "app@1.service", "app.socket", r"a\x2db.service"] {
            let parsed = Cli::try_parse_from(["portguard", "--unit", unit]).unwrap();
            assert_eq!(format!("{:?}", usual(&["--unit", unit]).unwrap()), format!("{parsed:?}"));
        }
        // The parser's business, and its errors.
        for other in [
            &[][..],
            &["--unit"],
            &["app.service"],
            &["--unit=app.service"],
            &["--unit", "app"],
            &["--unit", "app@.service"],
            &["--unit", "--help"],
            &["--unit", "-x.service"],
            &["--user", "app.service"],
            &["--unit", "app.service", "--user"],
        ] {
            assert!(usual(other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_argument_is_said_in_characters_that_no_terminal_obeys() {
        let error = Commands::try_parse_from(["portguard", "who", "\u{202e}80"]).unwrap_err();
        let Otherwise::Usage(text) = Otherwise::of(&error) else { panic!("{error}") };
        assert!(text.contains("value '\\u{202e}80'") && text.lines().count() > 1, "{text}");
        assert!(!text.contains('\u{202e}'), "{text:?}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
        commands().debug_assert();
    }
}
