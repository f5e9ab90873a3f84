//! What portguard promises, told on a real systemd: given, when, then.
//!
//! Every scenario must fail if portguard does nothing (`PORTGUARD_UNDER_TEST=true`), so each asks for something that
//! only portguard brings about: a start that succeeds over a leftover, or its own words in the journal.

mod addresses;
mod arguments;
mod attacks;
mod containers;
mod faults;
mod kinds;
mod leftovers;
mod networks;
mod refusals;
mod sockets;
mod software;
mod starts;
mod time;
mod users;
mod waits;

use std::fmt::Write as _;
use std::time::Duration;

use crate::machine::{Entry, Machine};

/// One promise; it panics where the promise is broken.
pub(crate) type Scenario = fn(&Machine);

/// Those that need no more than a bare image, each of which runs on every release.
pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("free_port_starts", starts::free_port_starts),
    ("exits_at_once_and_is_still_found_by_journalctl_u", starts::exits_at_once_and_is_still_found_by_journalctl_u),
    ("killed_guard_hinders_nothing", starts::killed_guard_hinders_nothing),
    ("leftover_is_stopped_and_the_service_comes_up", leftovers::leftover_is_stopped_and_the_service_comes_up),
    ("leftover_that_ignores_sigterm_is_killed", leftovers::leftover_that_ignores_sigterm_is_killed),
    ("leftover_that_reforks_on_sigterm_is_stopped", leftovers::leftover_that_reforks_on_sigterm_is_stopped),
    ("every_process_that_holds_the_port_goes", leftovers::every_process_that_holds_the_port_goes),
    ("leader_thread_dead_still_found", leftovers::leader_thread_dead_still_found),
    ("udp_leftover_is_stopped", leftovers::udp_leftover_is_stopped),
    ("dbus_down_leftover_is_still_stopped", leftovers::dbus_down_leftover_is_still_stopped),
    ("escaped_process_is_stopped_by_its_ledger_entry", leftovers::escaped_process_is_stopped_by_its_ledger_entry),
    ("dry_run_touches_nothing", leftovers::dry_run_touches_nothing),
    ("own_socket_activation_passes", sockets::own_socket_activation_passes),
    ("foreign_socket_unit_is_refused_and_named", sockets::foreign_socket_unit_is_refused_and_named),
    ("container_of_kubernetes_is_refused_and_named", containers::container_of_kubernetes_is_refused_and_named),
    ("foreign_live_unit_is_refused_named_and_unharmed", refusals::foreign_live_unit_is_refused_named_and_unharmed),
    ("own_start_helper_is_refused_and_named", refusals::own_start_helper_is_refused_and_named),
    ("login_session_is_refused_and_named", refusals::login_session_is_refused_and_named),
    ("broken_policy_is_78_and_touches_nothing", refusals::broken_policy_is_78_and_touches_nothing),
    ("live_main_process_is_never_left_over", attacks::live_main_process_is_never_left_over),
    ("daemon_that_was_taken_over_is_not_stopped", attacks::daemon_that_was_taken_over_is_not_stopped),
    ("foreign_invocation_id_proves_nothing", attacks::foreign_invocation_id_proves_nothing),
    ("environment_of_the_unit_has_no_say", attacks::environment_of_the_unit_has_no_say),
    ("names_of_others_forge_no_line", attacks::names_of_others_forge_no_line),
    ("umask_of_one_service_does_not_hinder_another", attacks::umask_of_one_service_does_not_hinder_another),
    ("leftover_that_drains_is_not_killed", leftovers::leftover_that_drains_is_not_killed),
    (
        "leftover_without_an_environment_is_told_by_its_age",
        leftovers::leftover_without_an_environment_is_told_by_its_age,
    ),
    ("user_socket_activation_passes", users::user_socket_activation_passes),
    ("passed_socket_does_not_get_its_receiver_killed", refusals::passed_socket_does_not_get_its_receiver_killed),
    ("live_service_is_not_stopped_by_hand", refusals::live_service_is_not_stopped_by_hand),
    ("untrusted_policy_is_78_and_touches_nothing", refusals::untrusted_policy_is_78_and_touches_nothing),
    ("hung_bus_costs_a_second_not_a_start", faults::hung_bus_costs_a_second_not_a_start),
    ("silent_manager_gets_nobody_killed", faults::silent_manager_gets_nobody_killed),
    ("hung_journal_holds_up_no_start", faults::hung_journal_holds_up_no_start),
    ("run_that_is_read_only_or_full_holds_up_no_start", faults::run_that_is_read_only_or_full_holds_up_no_start),
    ("denied_netlink_leaves_the_tables_of_proc", faults::denied_netlink_leaves_the_tables_of_proc),
    ("start_timeout_is_kept_without_a_word_to_systemd", time::start_timeout_is_kept_without_a_word_to_systemd),
    ("start_timeout_is_extended_where_systemd_listens", time::start_timeout_is_extended_where_systemd_listens),
    ("wait_ends_when_the_holder_does", time::wait_ends_when_the_holder_does),
    ("wait_that_is_over_is_75", time::wait_that_is_over_is_75),
    ("installed_as_the_readme_says_it_works", starts::installed_as_the_readme_says_it_works),
    ("template_instance_takes_its_port_from_its_name", starts::template_instance_takes_its_port_from_its_name),
    ("unit_without_ports_starts_with_a_warning", starts::unit_without_ports_starts_with_a_warning),
    ("user_service_over_its_leftover_comes_up", users::user_service_over_its_leftover_comes_up),
    ("without_the_plus_the_holder_is_still_named", users::without_the_plus_the_holder_is_still_named),
    ("refuses_bad_arguments_with_64", arguments::refuses_bad_arguments_with_64),
    (
        "endpoint_is_disturbed_by_what_its_bind_collides_with",
        addresses::endpoint_is_disturbed_by_what_its_bind_collides_with,
    ),
    (
        "listener_at_another_address_hinders_a_wildcard_alone",
        addresses::listener_at_another_address_hinders_a_wildcard_alone,
    ),
    ("advice_for_a_holder_of_ipv6_alone_works", addresses::advice_for_a_holder_of_ipv6_alone_works),
    ("ipv4_holder_gets_no_advice_for_ipv4_alone", addresses::ipv4_holder_gets_no_advice_for_ipv4_alone),
    ("v4_mapped_holder_is_one_of_ipv4", addresses::v4_mapped_holder_is_one_of_ipv4),
    ("listener_of_one_device_is_named_with_it", addresses::listener_of_one_device_is_named_with_it),
    ("mptcp_leftover_is_stopped", addresses::mptcp_leftover_is_stopped),
    ("foreign_mptcp_listener_is_refused_and_named", addresses::foreign_mptcp_listener_is_refused_and_named),
    (
        "udp_listener_at_another_address_hinders_a_wildcard_alone",
        addresses::udp_listener_at_another_address_hinders_a_wildcard_alone,
    ),
    ("host_without_ipv6_has_its_leftovers_stopped", addresses::host_without_ipv6_has_its_leftovers_stopped),
    ("leftover_that_shares_its_port_is_stopped", kinds::leftover_that_shares_its_port_is_stopped),
    (
        "foreign_unit_that_shares_its_port_is_refused_and_named",
        kinds::foreign_unit_that_shares_its_port_is_refused_and_named,
    ),
    (
        "client_of_another_unit_is_refused_and_the_advice_keeps_the_port_from_clients",
        kinds::client_of_another_unit_is_refused_and_the_advice_keeps_the_port_from_clients,
    ),
    ("client_of_a_login_session_is_refused_and_named", kinds::client_of_a_login_session_is_refused_and_named),
    ("time_wait_counts_only_where_the_policy_says_so", kinds::time_wait_counts_only_where_the_policy_says_so),
    (
        "end_of_a_connection_that_no_process_has_is_waited_for",
        kinds::end_of_a_connection_that_no_process_has_is_waited_for,
    ),
    ("socket_in_a_message_that_nobody_reads_is_refused", kinds::socket_in_a_message_that_nobody_reads_is_refused),
    (
        "holder_on_the_host_is_not_in_the_way_of_a_private_network",
        networks::holder_on_the_host_is_not_in_the_way_of_a_private_network,
    ),
    (
        "leftover_in_a_private_network_that_lives_on_is_stopped",
        networks::leftover_in_a_private_network_that_lives_on_is_stopped,
    ),
    ("leftover_in_a_named_network_is_stopped", networks::leftover_in_a_named_network_is_stopped),
    (
        "unit_in_the_same_private_network_is_refused_and_named",
        networks::unit_in_the_same_private_network_is_refused_and_named,
    ),
    ("socket_unit_that_stops_ends_the_wait_at_once", waits::socket_unit_that_stops_ends_the_wait_at_once),
    ("holder_that_closes_its_socket_ends_the_wait_at_once", waits::holder_that_closes_its_socket_ends_the_wait_at_once),
    ("unit_on_its_way_down_is_waited_for", waits::unit_on_its_way_down_is_waited_for),
    (
        "unit_that_does_not_get_down_is_given_up_after_ten_seconds",
        waits::unit_that_does_not_get_down_is_given_up_after_ten_seconds,
    ),
    (
        "two_guards_of_one_port_stop_the_leftover_of_its_own_unit_alone",
        waits::two_guards_of_one_port_stop_the_leftover_of_its_own_unit_alone,
    ),
];

/// Those with real software, each of which runs on every release as well, in a machine of the stocked image.
pub(crate) const WITH_SOFTWARE: &[(&str, Scenario)] = &[
    ("nginx_workers_of_a_killed_master_are_stopped", software::nginx_workers_of_a_killed_master_are_stopped),
    (
        "foreign_nginx_is_refused_and_what_to_type_frees_its_port",
        software::foreign_nginx_is_refused_and_what_to_type_frees_its_port,
    ),
    ("daemon_that_a_stop_left_behind_is_stopped", software::daemon_that_a_stop_left_behind_is_stopped),
    ("daemon_that_su_took_to_a_session_is_stopped", software::daemon_that_su_took_to_a_session_is_stopped),
    (
        "daemon_without_an_environment_in_a_session_is_refused",
        software::daemon_without_an_environment_in_a_session_is_refused,
    ),
    ("sshd_that_a_stop_left_behind_is_never_signalled", software::sshd_that_a_stop_left_behind_is_never_signalled),
    ("sshd_by_socket_activation_passes", software::sshd_by_socket_activation_passes),
    (
        "ssh_socket_is_refused_and_what_to_type_frees_its_port",
        software::ssh_socket_is_refused_and_what_to_type_frees_its_port,
    ),
    ("rpcbind_by_socket_activation_passes", software::rpcbind_by_socket_activation_passes),
    (
        "docker_published_port_is_refused_and_its_container_named",
        containers::docker_published_port_is_refused_and_its_container_named,
    ),
    (
        "docker_port_without_a_proxy_is_refused_and_its_container_named",
        containers::docker_port_without_a_proxy_is_refused_and_its_container_named,
    ),
    (
        "docker_container_in_the_hosts_network_is_refused_and_named",
        containers::docker_container_in_the_hosts_network_is_refused_and_named,
    ),
    ("hung_docker_costs_a_moment_and_the_name", containers::hung_docker_costs_a_moment_and_the_name),
    ("hung_docker_does_not_get_its_proxy_stopped", containers::hung_docker_does_not_get_its_proxy_stopped),
    (
        "podman_published_port_is_refused_and_its_container_named",
        containers::podman_published_port_is_refused_and_its_container_named,
    ),
    (
        "podman_container_in_the_hosts_network_is_refused_and_named",
        containers::podman_container_in_the_hosts_network_is_refused_and_named,
    ),
    ("nspawn_machine_is_refused_and_named", containers::nspawn_machine_is_refused_and_named),
    ("nspawn_service_is_refused_and_its_machine_named", containers::nspawn_service_is_refused_and_its_machine_named),
];

/// The service under guard in nearly every scenario.
const APP: &str = "app.service";

/// The drop-in that the whole project is about, as it is shipped.
const GUARD: &str = include_str!("../../../contrib/systemd/10-portguard.conf");

/// How long a signalled process may take to be gone and reaped.
const SOON: Duration = Duration::from_secs(10);

/// Puts portguard before a unit's start, as the README says: by a drop-in.
fn guard(machine: &Machine, unit: &str) {
    machine.unit(&format!("{unit}.d/10-portguard.conf"), GUARD);
}

fn policy(machine: &Machine, text: &str) {
    machine.write("/etc/portguard/portguard.toml", text);
}

/// The policy that says no more than which port app.service needs.
fn policy_for_app(machine: &Machine, endpoint: &str) {
    policy(machine, &format!("[unit.\"{APP}\"]\nports = [\"{endpoint}\"]\n"));
}

/// Writes app.service, which runs listeners/app.py with these arguments. systemd stops its main process only, and the
/// service is up when it has bound its port, not before.
fn app_service(machine: &Machine, arguments: &str) {
    let unit =
        format!("[Service]\nType=notify\nKillMode=process\nExecStart=/usr/bin/python3 /opt/lab/app.py {arguments}\n");
    machine.unit(APP, &unit);
}

/// Starts app.service, guarded, and returns its workers: the processes that a stop leaves behind.
fn started_guarded_app(machine: &Machine, arguments: &str) -> Vec<u32> {
    let endpoint = arguments.split(' ').next().unwrap_or(arguments);
    app_service(machine, arguments);
    policy_for_app(machine, endpoint);
    guard(machine, APP);
    machine.ok(&format!("systemctl start {APP}"));
    workers(machine)
}

fn workers(machine: &Machine) -> Vec<u32> {
    let main = machine.main_pid(APP);
    let workers: Vec<_> = machine.processes_of(APP).into_iter().filter(|&pid| pid != main).collect();
    assert!(!workers.is_empty(), "{APP} has no workers");
    workers
}

/// The old workers are gone, and the port is the new main process's.
fn assert_up_without(machine: &Machine, endpoint: &str, old: &[u32]) {
    assert_eq!(machine.show(APP, "ActiveState"), "active");
    for &pid in old {
        machine.wait_until(&format!("the leftover {pid} is gone"), SOON, || !machine.alive(pid));
    }
    let holders = machine.holders(endpoint);
    assert!(holders.contains(&machine.main_pid(APP)), "held by {holders:?}, not by the new main process");
    assert!(!holders.iter().any(|pid| old.contains(pid)), "held by {holders:?}, among them a leftover");
}

/// The port is still held by this process, which lives.
fn assert_unharmed(machine: &Machine, endpoint: &str, pid: u32) {
    assert!(machine.alive(pid), "{pid} is gone");
    let holders = machine.holders(endpoint);
    assert!(holders.contains(&pid), "{endpoint} is held by {holders:?}, no more by {pid}");
}

/// The entry of portguard in `journalctl -u` that has all these `PORTGUARD_` fields.
fn finding(machine: &Machine, unit: &str, fields: &[(&str, &str)]) -> Entry {
    let entries = machine.guard_entries(unit);
    let fits = |entry: &&Entry| fields.iter().all(|(name, value)| field(entry, &format!("PORTGUARD_{name}")) == *value);
    let found = entries.iter().find(fits).cloned();
    found.unwrap_or_else(|| panic!("no entry of portguard for {unit} has {fields:?}; it wrote:\n{}", shown(&entries)))
}

/// Types what an entry says to type next, as it stands there and in the line that people read.
fn type_next(machine: &Machine, entry: &Entry) {
    let next = field(entry, "PORTGUARD_NEXT");
    assert!(!next.is_empty(), "nothing to type next:\n{}", shown(std::slice::from_ref(entry)));
    assert_names(message(entry), &[next]);
    machine.ok(next);
}

/// A text field of an entry; empty if there is none, or no text.
fn field<'entry>(entry: &'entry Entry, name: &str) -> &'entry str {
    entry.get(name).and_then(|value| value.as_str()).unwrap_or_default()
}

fn message(entry: &Entry) -> &str {
    field(entry, "MESSAGE")
}

/// Asserts that a text names all of these.
fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not named in: {text}");
    }
}

fn shown(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let fields = entry.iter().filter(|(name, _)| name.starts_with("PORTGUARD_"));
        let fields: Vec<_> = fields.map(|(name, value)| format!("{name}={value}")).collect();
        writeln!(text, "  {}\n    {}", message(entry), fields.join(" ")).expect("a String takes everything");
    }
    if text.is_empty() { "  nothing".to_owned() } else { text }
}
