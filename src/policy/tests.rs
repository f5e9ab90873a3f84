//! What a whole policy says of a unit.

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;
use crate::model::{EndpointError, Signal};

const FILE: &str = "p.toml";

fn policy(layers: &[&str]) -> Policy {
    let texts: Vec<_> = layers
        .iter()
        .map(|text| load::Layer { file: Arc::from(Path::new(FILE)), text: (*text).to_owned(), owner: None })
        .collect();
    let (policy, problems) = Policy::merged(&texts, Vec::new());
    assert!(problems.is_empty(), "{problems:?}");
    policy
}

fn rules(layers: &[&str], unit: &str, extra: &[&str]) -> Result<Rules, PolicyError> {
    let extra: Vec<EndpointRange> = extra.iter().map(|text| text.parse().unwrap()).collect();
    let env = |name: &str| (name == "PORT").then(|| "9000".to_owned());
    policy(layers).rules_for(&unit.parse().unwrap(), &env, &extra)
}

fn endpoints(rules: &Rules) -> String {
    rules.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_no_policy_says_is_what_the_manual_says() {
    let expected = Rules {
        endpoints: Vec::new(),
        on_stale: StaleRule::Stop,
        on_foreign: ForeignRule::Refuse,
        on_lookalike: LookalikeRule::AsForeign,
        on_blind: BlindRule::Allow,
        replaces: Vec::new(),
        wait: None,
        reuse_address: true,
        stop: StopRules::default(),
    };
    assert_eq!(rules(&[], "a.service", &[]).unwrap(), expected);
}

/// Layers, a unit, ports of the command line, and the endpoints.
type PortsRow = (&'static str, &'static [&'static str], &'static str, &'static [&'static str], &'static str);

#[rustfmt::skip]
const PORTS: &[PortsRow] = &[
    ("no section",                        &[], "a.service", &[], ""),
    ("another unit's",                    &["[unit.'b.service']\nports=['80']"], "a.service", &[], ""),
    ("its own",                           &["[unit.'a.service']\nports=['80', '443-444', '53/udp']"], "a.service", &[],
                                          "80/tcp 443/tcp 444/tcp 53/udp"),
    ("the command line adds",             &["[unit.'a.service']\nports=['80']"], "a.service", &["81"], "80/tcp 81/tcp"),
    ("the command line alone",            &[], "a.service", &["81"], "81/tcp"),
    ("each once, where it first stood",   &["[unit.'a.service']\nports=['82', '80-83', '*:80']"], "a.service", &["83"],
                                          "82/tcp 80/tcp 81/tcp 83/tcp"),
    ("one address is not all of them",    &["[unit.'a.service']\nports=['80', '0.0.0.0:80', '80/udp']"], "a.service", &[],
                                          "80/tcp 0.0.0.0:80/tcp 80/udp"),
    ("the template's",                    &["[unit.'a@.service']\nports=['80%i', '${PORT}/udp']"], "a@1.service", &[], "801/tcp 9000/udp"),
    ("an instance's instead of the template's",
                                          &["[unit.'a@.service']\nports=['80%i']\n[unit.'a@1.service']\nports=['1']"], "a@1.service", &[], "1/tcp"),
    ("another instance keeps the template's",
                                          &["[unit.'a@.service']\nports=['80%i']\n[unit.'a@1.service']\nports=['1']"], "a@2.service", &[], "802/tcp"),
    ("an instance that says nothing of ports",
                                          &["[unit.'a@.service']\nports=['80%i']\n[unit.'a@1.service']\nwait=1"], "a@1.service", &[], "801/tcp"),
    ("an empty list is a list",           &["[unit.'a@.service']\nports=['80%i']\n[unit.'a@1.service']\nports=[]"], "a@1.service", &[], ""),
    ("a template of another type",        &["[unit.'a@.socket']\nports=['80']"], "a@1.service", &[], ""),
    ("a later layer replaces the list",   &["[unit.'a.service']\nports=['80', '81']", "[unit.'a.service']\nports=['82']"], "a.service", &[], "82/tcp"),
    ("a later layer that says nothing of ports",
                                          &["[unit.'a.service']\nports=['80']", "[unit.'a.service']\nwait=1"], "a.service", &[], "80/tcp"),
    ("an instance below, its template above",
                                          &["[unit.'a@1.service']\nports=['1']", "[unit.'a@.service']\nports=['2']"], "a@1.service", &[], "1/tcp"),
];

#[test]
fn the_ports_of_a_unit_are_those_of_its_section() {
    for (name, layers, unit, extra, expected) in PORTS {
        let rules = rules(layers, unit, extra).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(endpoints(&rules), *expected, "{name}");
    }
}

#[test]
fn settings_are_layered_key_by_key() {
    let layers = [
        "[defaults]\nwait=1\nstop-timeout=1\non-stale='refuse'\non-lookalike='stop'\non-blind='refuse'\nkill-signal=1\nreuse-address=false\n[unit.'a@1.service']\nwait=4\n",
        "[defaults]\nwait=2\nstop-timeout=2\non-foreign='wait'\nsend-sighup=true\n[unit.'a@.service']\nwait=3\nstop-timeout=3\non-stale='ignore'\n",
        "[unit.'a@1.service']\nfinal-kill-signal=3\nsend-sigkill=false\n",
    ];
    let expected = |wait, timeout, on_stale, final_kill_signal: Option<i32>| Rules {
        endpoints: Vec::new(),
        on_stale,
        on_foreign: ForeignRule::Wait,
        on_lookalike: LookalikeRule::Stop,
        on_blind: BlindRule::Refuse,
        replaces: Vec::new(),
        wait: Some(Duration::from_secs(wait)),
        reuse_address: false,
        stop: StopRules {
            timeout: Some(Duration::from_secs(timeout)),
            kill_signal: Some(Signal(1)),
            final_kill_signal: final_kill_signal.map(Signal),
            send_sighup: Some(true),
            send_sigkill: final_kill_signal.map(|_| false),
        },
    };
    assert_eq!(rules(&layers, "b.service", &[]).unwrap(), expected(2, 2, StaleRule::Refuse, None));
    assert_eq!(rules(&layers, "a@2.service", &[]).unwrap(), expected(3, 3, StaleRule::Ignore, None));
    assert_eq!(rules(&layers, "a@1.service", &[]).unwrap(), expected(4, 3, StaleRule::Ignore, Some(3)));
}

#[test]
fn a_unit_is_where_its_section_begins_in_the_last_file_that_has_one() {
    let policy = policy(&["\n[unit.'a.service']\n[unit.'b.service']", "[unit.'b.service']"]);
    let shown: Vec<_> = policy.units().map(|(unit, place)| (unit.as_str(), place.unwrap().to_string())).collect();
    assert_eq!(shown, [("a.service", "p.toml:2:7".to_owned()), ("b.service", "p.toml:1:7".to_owned())]);
}

#[test]
fn every_port_that_cannot_be_expanded_is_reported_at_its_place() {
    let text = "[unit.'a.service']\nports = ['80', '${NONE}',\n  '8%i', '${PORT}0']";
    let error = rules(&[text], "a.service", &[]).unwrap_err();
    let expected = "\
p.toml:2:16: ports: \"${NONE}\": ${NONE} is not set: set it with Environment= or EnvironmentFile= in the unit
p.toml:3:3: ports: \"8%i\": %i is the name of an instance, and a.service is none
p.toml:3:10: ports: \"${PORT}0\", where ${PORT} is \"9000\": endpoint \"90000\", column 1: ports end at 65535";
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.problems().len(), 3);
}

#[test]
fn a_unit_has_a_bounded_number_of_ports() {
    let full = "[unit.'a.service']\nports = ['1-1024', '1025-2048', '2049-3072',\n '3073-4096']";
    assert_eq!(rules(&[full], "a.service", &[]).unwrap().endpoints.len(), MAX_ENDPOINTS);
    let more = rules(&[full], "a.service", &["1"]).unwrap_err();
    assert_eq!(more.to_string(), "--port: a.service has more than 4096 ports: name those alone that it binds");
    let often = "[unit.'a.service']\nports = ['1-1024', '1-1024', '1-1024', '1-1024',\n '1-1024']";
    let more = rules(&[often], "a.service", &[]).unwrap_err();
    assert_eq!(more.to_string(), "p.toml:3:2: a.service has more than 4096 ports: name those alone that it binds");
}

#[test]
fn an_error_keeps_its_source() {
    let error = Policy::parse("[unit.'a.service']\nports=['x']", Path::new(FILE)).unwrap_err();
    assert!(error.source().unwrap().is::<EndpointError>());
    let error = rules(&["[unit.'a.service']\nports=['${PORT}0']"], "a.service", &[]).unwrap_err();
    assert!(error.source().unwrap().is::<EndpointError>());
    let error = Policy::load_file(Path::new("/nowhere/p.toml")).unwrap_err();
    assert!(error.source().unwrap().is::<std::io::Error>());
    assert_eq!(error.to_string(), "/nowhere/p.toml: cannot open: No such file or directory (os error 2)");
}

/// A folder of the policy with these files, `conf.d` among them.
fn layers(files: &[(&str, &str)]) -> (tempfile::TempDir, Roots) {
    let etc = tempfile::tempdir().unwrap();
    let folder = etc.path().join("portguard");
    fs::create_dir_all(folder.join("conf.d")).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    for folder in [folder.join("conf.d"), folder] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let roots = Roots { dirs: vec![etc.path().to_owned()] };
    (etc, roots)
}

#[test]
fn the_problems_of_all_files_are_reported_together() {
    let (etc, roots) = layers(&[
        ("portguard.toml", "zzzzz = 1\n"),
        ("conf.d/a.toml", "[unit.'a.service']\nports = ['80']\n"),
        ("conf.d/b.toml", "[unit.'a.service']\nports = ['x']\n"),
    ]);
    let folder = etc.path().join("portguard");
    let shown = sound(Policy::survey(&roots)).unwrap_err().to_string().replace(&folder.display().to_string(), "F");
    let expected = "\
F/portguard.toml:1:1: unknown key \"zzzzz\": known here: defaults, unit
F/conf.d/b.toml:2:10: ports: endpoint \"x\", column 1: \"x\" is no port number";
    assert_eq!(shown, expected);
}

#[test]
fn no_file_at_all_is_an_empty_policy() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(sound(Policy::survey(&Roots { dirs: vec![root.path().to_owned()] })).unwrap(), Policy::default());
    assert_eq!(Policy::load_file(Path::new("/dev/null")).unwrap(), Policy::default());
}

proptest! {
    #[test]
    fn an_endpoint_is_there_once(ports in prop::collection::vec((1u16..40, 0u16..9), 0..20)) {
        let written: Vec<_> = ports.iter().map(|(first, more)| format!("'{first}-{}'", first + more)).collect();
        let text = format!("[unit.'a.service']\nports=[{}]", written.join(","));
        let found = rules(&[&text], "a.service", &[]).unwrap().endpoints;
        let different: BTreeSet<_> = found.iter().collect();
        prop_assert_eq!(different.len(), found.len());
    }
}

#[test]
fn the_policy_in_the_readme_says_what_the_readme_says_of_it() {
    let readme = include_str!("../../README.md");
    let text = readme.split("```toml\n").nth(1).and_then(|block| block.split("```").next()).unwrap();
    let policy = Policy::parse(text, Path::new("README.md")).unwrap();
    let ports = |unit: &str| {
        let rules = policy.rules_for(&unit.parse().unwrap(), &|_| None, &[]).unwrap();
        rules.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ports("app.service"), "8080/tcp 127.0.0.1:9090/tcp");
    assert_eq!(ports("worker@81.service"), "8081/tcp");
}

#[test]
fn a_unit_has_what_its_own_table_or_that_of_its_template_says() {
    let policy =
        policy(&["[unit.'a@.service']\nports=['80']\n[unit.'b.service']\nports=[]\n[unit.'c.service']\nports=['81']"]);
    let of = |name: &str| {
        let unit = name.parse().unwrap();
        (policy.speaks_of(&unit), policy.has_ports(&unit))
    };
    assert_eq!(of("a@1.service"), (true, true));
    assert_eq!(of("b.service"), (true, false));
    assert_eq!(of("c.service"), (true, true));
    assert_eq!([of("a.service"), of("d@1.service")], [(false, false); 2]);
}

#[test]
fn the_ports_of_a_unit_are_claimed_up_to_so_many_all_together() {
    let problems = |ports: &str| {
        let policy = policy(&[&format!("[unit.'a.service']\nports=[{ports}]")]);
        policy.claims_of(&"a.service".parse().unwrap(), &|_| None).problems.len()
    };
    let four = "'1-1024', '1025-2048', '2049-3072', '3073-4096'";
    assert_eq!([problems(four), problems(&format!("{four}, '5000'"))], [0, 1]);
}

#[test]
fn a_drop_in_that_is_for_one_unit_is_read_for_that_unit_alone() {
    let ports = |unit: &str, port: &str| format!("[unit.'{unit}']\nports = ['{port}']");
    let (_etc, roots) = layers(&[
        ("conf.d/50-all.toml", "[unit.'a.service']\nwait = 7\n[unit.'other.service']\nports = ['9']"),
        ("conf.d/only-a.service.toml", &ports("a.service", "1")),
        ("conf.d/only-b@.service.toml", &ports("b@.service", "2")),
        ("conf.d/only-b@x.service.toml", &ports("b@x.service", "3")),
        ("conf.d/only-broken.service.toml", "["),
        ("conf.d/only-a b.service.toml", ""),
        ("conf.d/only-a.socket.toml", "["),
        // For all, whatever unit it may be named after.
        ("conf.d/10-a.service.toml", "[unit.'a.service']\nwait = 6\n[unit.'c.service']\nwait = 5"),
        ("conf.d/zz.toml", "[defaults]\nwait = 8"),
    ]);
    for (unit, ports, wait) in [
        ("a.service", "1/tcp", 7),
        ("b@x.service", "3/tcp", 8),
        ("b@y.service", "2/tcp", 8),
        ("other.service", "9/tcp", 8),
        ("c.service", "", 5),
    ] {
        let name: UnitName = unit.parse().unwrap();
        let rules = Policy::load_for(&name, &roots).unwrap().rules_for(&name, &|_| None, &[]).unwrap();
        assert_eq!((endpoints(&rules).as_str(), rules.wait), (ports, Some(Duration::from_secs(wait))), "{unit}");
    }
    assert!(Policy::load_for(&"broken.service".parse().unwrap(), &roots).is_err());
    let all = sound(Policy::survey(&roots)).unwrap_err();
    assert_eq!(all.problems().len(), 3, "who reads all of it reads the broken ones as well: {all}");
    let unnamed = "is read for the unit of its name alone, but unit name \"a b.service\" has ' ' in column 2: ";
    assert!(all.to_string().contains(unnamed), "{all}");
}

#[test]
fn a_drop_in_for_one_unit_that_speaks_of_others_is_wrong() {
    let text = "[defaults]\nwait = 1\n[unit.'b@.service']\n[unit.'b@1.service']\n[unit.'b.service']\n";
    let told = |name: &str| {
        let (_etc, roots) = layers(&[(&format!("conf.d/only-{name}.toml"), text)]);
        let unit: UnitName = name.parse().unwrap();
        let error = Policy::load_for(&unit, &roots).unwrap_err();
        assert_eq!(error.to_string(), sound(Policy::survey(&roots)).unwrap_err().to_string());
        error
            .problems()
            .iter()
            .map(|Problem { place, fault }| {
                let Place::Text { line, column, .. } = place else { panic!("{place}") };
                format!("{line}:{column}: {fault}")
            })
            .collect::<Vec<_>>()
    };
    let alone = |name: &str| format!("only-{name}.toml is read for {name} alone: put");
    let keys =
        |name: &str| format!("1:2: {} these keys into [unit.\"{name}\"], or name the file otherwise", alone(name));
    let unit = |name: &str, place: &str, other: &str| {
        format!("{place}: {} what is for {other} into only-{other}.toml, or name the file otherwise", alone(name))
    };
    let (template, instance) = ("b@.service", "b@1.service");
    assert_eq!(told("b@.service"), [keys(template), unit(template, "5:7", "b.service")]);
    assert_eq!(
        told("b@1.service"),
        [keys(instance), unit(instance, "3:7", template), unit(instance, "5:7", "b.service")]
    );
}
