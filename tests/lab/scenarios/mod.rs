//! What portguard promises, told on a real systemd: given, when, then.
//!
//! Every scenario must fail if portguard does nothing (`PORTGUARD_UNDER_TEST=true`), so each asks for something that
//! only portguard brings about: a start that succeeds over a leftover, or its own words in the journal.

mod addresses;
mod arguments;
mod attacks;
mod blind;
mod checks;
mod commands;
mod containers;
mod cookbook;
mod crowds;
mod escapes;
mod faults;
mod holders;
mod hostile;
mod journals;
mod kinds;
mod leftovers;
mod lookalikes;
mod names;
mod networks;
mod packages;
mod predecessors;
mod privileges;
mod refusals;
mod servers;
mod sockets;
mod software;
mod starts;
mod time;
mod twins;
mod users;
mod waits;

use std::fmt::Write as _;
use std::time::Duration;

use crate::machine::{Entry, Machine, Output};

/// One promise; it panics where the promise is broken.
pub(crate) type Scenario = fn(&Machine);

/// Rows of a name and a function, by the function's path.
macro_rules! scenarios {
    ($($module:ident::$name:ident,)*) => { &[$((stringify!($name), $module::$name)),*] };
}

/// Those that need no more than a bare image and a part of a processor, each of which runs on every release.
pub(crate) const ALL: &[(&str, Scenario)] = scenarios![
    starts::free_port_starts,
    starts::exits_at_once_and_is_still_found_by_journalctl_u,
    starts::killed_guard_hinders_nothing,
    leftovers::leftover_is_stopped_and_the_service_comes_up,
    leftovers::leftover_whose_port_another_user_of_the_unit_has_bound_is_stopped,
    leftovers::leftover_that_ignores_sigterm_is_killed,
    leftovers::leftover_that_reforks_on_sigterm_is_stopped,
    leftovers::leftover_that_reforks_without_end_is_given_up_and_the_last_one_named,
    leftovers::leftover_whose_socket_outlives_it_for_a_moment_is_waited_for,
    leftovers::udp_leftover_is_stopped,
    faults::stopped_bus_costs_nothing,
    faults::process_that_hangs_in_execve_holds_up_no_start,
    leftovers::escaped_process_is_stopped_by_its_ledger_entry,
    leftovers::dry_run_touches_nothing,
    sockets::own_socket_activation_passes,
    sockets::foreign_socket_unit_is_refused_and_named,
    containers::container_of_kubernetes_is_refused_and_named,
    refusals::foreign_live_unit_is_refused_named_and_unharmed,
    refusals::own_start_helper_is_refused_and_named,
    refusals::login_session_is_refused_and_named,
    attacks::live_main_process_is_never_left_over,
    attacks::daemon_that_was_taken_over_is_not_stopped,
    attacks::socket_of_another_user_gets_no_leftover_killed,
    attacks::socket_of_root_that_may_not_signal_gets_no_leftover_killed,
    attacks::socket_of_root_whose_cgroup_is_gone_gets_no_leftover_killed,
    attacks::socket_of_the_units_user_gets_no_process_of_roots_killed,
    attacks::socket_of_another_socket_unit_gets_no_leftover_killed,
    attacks::socket_of_unknown_birth_and_another_user_gets_no_unit_stopped,
    attacks::foreign_invocation_id_proves_nothing,
    attacks::daemon_of_a_service_without_a_main_process_is_not_stopped,
    attacks::environment_of_the_unit_has_no_say,
    attacks::environment_that_chooses_the_port_gets_nobody_stopped,
    attacks::names_of_others_forge_no_line,
    attacks::hostile_names_reach_neither_terminal_nor_shell,
    attacks::holder_that_systemd_restarts_is_not_fought,
    attacks::dry_run_judges_as_the_real_run_does,
    leftovers::leftover_that_drains_is_not_killed,
    leftovers::leftover_without_an_environment_is_told_by_its_age,
    users::user_socket_activation_passes,
    refusals::live_service_is_not_stopped_by_hand,
    faults::hung_bus_costs_a_second_not_a_start,
    faults::silent_manager_gets_nobody_killed,
    faults::manager_that_stays_silent_has_a_leftover_asked_twice_and_no_more,
    faults::hung_journal_holds_up_no_start,
    faults::stopped_journal_holds_up_no_start,
    faults::guard_that_gets_no_thread_and_no_process_stops_its_leftover,
    faults::hidden_processes_are_seen_with_the_plus_and_said_without,
    faults::manager_that_begins_anew_loses_no_answer,
    faults::manager_that_is_back_in_a_moment_is_asked_again,
    faults::manager_that_begins_anew_loses_no_job,
    faults::unit_that_came_up_anew_while_the_answer_was_lost_is_not_stopped,
    time::start_timeout_is_kept_without_a_word_to_systemd,
    time::start_timeout_is_extended_where_systemd_listens,
    time::wait_ends_when_the_holder_does,
    time::wait_that_is_over_is_75,
    packages::installed_as_the_readme_says_it_works,
    packages::installed_package_stops_the_leftover_and_journalctl_explains_it,
    packages::package_is_upgraded_removed_and_purged_without_a_trace,
    packages::changed_policy_outlives_an_upgrade_that_brings_another,
    packages::every_shipped_drop_in_is_right_and_guards,
    starts::template_instance_takes_its_port_from_its_name,
    starts::unit_without_ports_starts_with_a_warning,
    users::user_service_over_its_leftover_comes_up,
    users::without_the_plus_the_holder_is_still_named,
    addresses::advice_for_a_holder_of_ipv6_alone_works,
    crowds::predecessor_is_not_stopped_beside_a_foreign_socket_that_waits_for_nobody,
    crowds::predecessor_is_not_stopped_beside_what_is_left_of_a_foreign_connection,
    crowds::own_socket_unit_passes_beside_sockets_that_wait_for_nobody,
    crowds::own_socket_unit_does_not_hide_a_foreign_listener_at_another_address,
    kinds::client_of_another_unit_is_refused_and_the_advice_keeps_the_port_from_clients,
    kinds::client_of_a_login_session_is_refused_and_named,
    kinds::end_of_a_connection_is_seen_where_the_bind_is_denied,
    kinds::wait_is_over_before_the_start_where_the_bind_is_denied,
    networks::holder_on_the_host_is_not_in_the_way_of_a_private_network,
    networks::leftover_in_a_private_network_that_lives_on_is_stopped,
    networks::leftover_in_a_named_network_is_stopped,
    networks::unit_in_the_same_private_network_is_refused_and_named,
    waits::wait_for_one_connection_after_another_ends_in_its_time,
    waits::holder_on_its_way_down_is_waited_for_while_systemd_says_nothing,
    waits::socket_unit_that_stops_ends_the_wait_at_once,
    blind::port_that_could_not_be_checked_is_left_to_the_service,
    blind::port_that_could_not_be_checked_is_refused_if_the_policy_says_so,
    blind::own_socket_unit_passes_while_systemd_is_silent,
    blind::socket_of_an_unknown_unit_is_refused_if_the_policy_says_so,
    blind::own_socket_unit_beside_somebody_who_hangs_is_refused_if_the_policy_says_so,
    waits::unit_on_its_way_down_is_waited_for,
    waits::unit_that_does_not_get_down_is_given_up_after_ten_seconds,
    waits::two_guards_of_one_port_stop_the_leftover_of_its_own_unit_alone,
    predecessors::predecessor_is_stopped_by_systemd_and_stays_down,
    predecessors::predecessor_is_matched_by_a_pattern,
    predecessors::predecessor_that_takes_its_time_is_waited_for,
    predecessors::predecessor_that_the_unit_hangs_on_is_refused_in_its_own_words,
    predecessors::predecessor_on_which_another_hangs_is_refused_and_both_named,
    predecessors::leftover_of_a_predecessor_is_refused,
    predecessors::protected_unit_is_never_replaced,
    predecessors::predecessor_is_stopped_without_a_bus,
    predecessors::predecessor_that_comes_back_is_given_up,
    predecessors::dry_run_stops_no_predecessor,
    predecessors::predecessor_in_a_user_manager_is_stopped,
    sockets::own_socket_unit_of_another_name_passes,
    sockets::own_socket_unit_passes_beside_an_idle_unit,
    sockets::own_socket_unit_passes_while_other_units_start,
    sockets::worker_that_shares_the_own_listener_is_stopped,
    sockets::worker_that_hangs_in_execve_for_a_moment_and_shares_the_own_listener_is_stopped,
    sockets::several_socket_units_of_one_service_pass,
    sockets::service_whose_standard_input_is_the_listener_passes,
    sockets::fifo_of_a_socket_unit_gets_nothing_of_the_guard,
    sockets::instance_for_one_connection_passes,
    sockets::fd_store_of_a_run_without_a_guard_is_no_hindrance,
    sockets::own_fd_store_passes_and_is_taken_back,
    sockets::own_fd_store_outlives_a_stop_where_it_may,
    sockets::fd_store_of_another_unit_is_refused,
    sockets::running_socket_unit_of_another_is_refused,
    sockets::replaced_socket_unit_is_stopped_by_systemd,
    escapes::leftover_in_a_delegated_cgroup_is_stopped,
    escapes::leftover_is_told_from_a_control_cgroup,
    escapes::daemon_that_forked_twice_is_a_leftover,
    escapes::worker_moved_to_a_scope_is_proven_by_the_ledger,
    escapes::worker_moved_to_a_session_is_proven_by_the_ledger,
    escapes::worker_without_its_environment_is_not_proven,
    escapes::scope_that_the_service_has_made_is_another_unit,
    escapes::whoever_calls_portguard_is_never_signalled,
    lookalikes::lookalike_is_refused_with_a_hint,
    lookalikes::lookalike_is_stopped_if_the_policy_says_so,
    lookalikes::other_argument_user_or_terminal_keeps_from_being_stopped,
    twins::sibling_instance_is_refused_and_named,
    twins::twin_in_a_users_manager_is_refused_and_named,
    twins::twin_of_the_system_is_refused_and_named_to_a_user,
    twins::session_is_named_with_user_terminal_and_command,
    names::cgroup_of_a_user_is_no_socket_unit_of_the_system,
    names::socket_in_a_users_init_scope_is_in_no_fd_store,
    names::dependent_that_was_started_meanwhile_is_not_stopped,
    names::same_command_in_another_folder_is_no_lookalike,
    names::names_of_engines_do_not_aim_a_command_at_others,
    holders::frozen_holder_is_killed_when_its_time_is_over,
    holders::frozen_predecessor_is_stopped_by_systemd_or_said_to_be_frozen,
    holders::start_timeout_is_kept_without_a_notify_socket,
    holders::wait_is_over_before_systemd_gives_the_start_up,
    holders::wait_goes_on_where_systemd_gives_more_time,
    holders::start_that_is_called_off_while_a_leftover_is_stopped_ends_at_once,
    holders::start_that_is_called_off_while_it_waits_ends_at_once,
    holders::start_that_is_called_off_while_systemd_stops_a_predecessor_ends_at_once,
    holders::start_that_is_called_off_in_the_midst_of_a_look_signals_nobody,
    holders::start_that_is_called_off_by_another_signal_ends_at_once,
    holders::sigterm_of_somebody_else_does_not_let_the_service_start,
    hostile::predecessor_is_not_stopped_for_who_has_its_socket_behind_processes_that_hang,
    hostile::predecessor_is_not_stopped_for_who_has_its_socket_in_a_thread,
    hostile::socket_of_a_cgroup_that_is_gone_gets_no_unit_stopped,
    hostile::notify_socket_of_the_environment_has_no_say,
    hostile::runtime_folder_of_another_user_has_no_say,
    privileges::capabilities_are_those_of_the_table_and_no_fewer,
    privileges::guard_with_less_than_root_stops_the_leftover,
    privileges::without_the_plus_the_own_users_leftover_is_stopped,
    privileges::without_the_plus_a_socket_that_outlives_the_leftover_is_waited_for,
    commands::enable_touches_nothing_that_it_has_not_written,
    commands::units_of_a_user_are_learnt_and_enabled_without_root,
    commands::enable_is_done_whole_for_all_to_read_and_to_last,
    commands::enable_takes_back_what_it_wrote_and_says_what_is_bad,
    commands::learn_knows_what_is_shared_and_what_may_be_bound,
    commands::learn_leaves_out_what_is_to_outlive_a_stop,
    commands::guard_prints_how_it_ended_as_json,
    checks::check_reports_every_problem_at_once,
    checks::check_says_what_units_and_ports_make_of_the_policy,
    checks::audit_finds_what_hinders_a_start_one_day,
    checks::audit_is_right_about_restarts_that_never_end,
    checks::audit_names_what_a_stop_has_left,
    checks::suggest_names_ports_that_nobody_claims,
    checks::checks_of_a_user_ask_the_users_manager,
    faults::run_that_is_read_only_or_full_holds_up_no_start,
    faults::denied_netlink_leaves_the_tables_of_proc,
    faults::kernel_without_pidfds_gets_nobody_signalled,
    faults::missing_cgroups_leave_what_processes_say,
    refusals::passed_socket_does_not_get_its_receiver_killed,
    crowds::leftover_is_not_stopped_beside_another_socket_of_its_own_unit,
    kinds::holder_that_no_table_shows_is_refused,
    holders::holder_that_hangs_in_execve_when_it_is_stopped_is_given_up,
    holders::holder_that_moves_to_another_cgroup_is_looked_at_again_before_it_is_killed,
];

/// Those of what is the kernel's and portguard's own matter, and the same whichever systemd it is: which addresses collide, what
/// has a socket, how a process ends, what may be a policy. They run on one old release and the newest.
pub(crate) const OF_THE_KERNEL: &[(&str, Scenario)] = scenarios![
    leftovers::holder_that_is_on_its_way_out_is_waited_for,
    leftovers::every_process_that_holds_the_port_goes,
    leftovers::leader_thread_dead_still_found,
    faults::more_processes_hang_in_execve_than_there_is_time_for,
    refusals::broken_policy_is_78_and_touches_nothing,
    refusals::untrusted_policy_is_78_and_touches_nothing,
    attacks::programs_that_carry_others_are_not_signalled_in_the_own_cgroup,
    attacks::umask_of_one_service_does_not_hinder_another,
    arguments::refuses_bad_arguments_with_64,
    addresses::endpoint_is_disturbed_by_what_its_bind_collides_with,
    addresses::listener_at_another_address_hinders_a_wildcard_alone,
    addresses::ipv4_holder_gets_no_advice_for_ipv4_alone,
    addresses::v4_mapped_holder_is_one_of_ipv4,
    addresses::listener_of_one_device_is_named_with_it,
    addresses::mptcp_leftover_is_stopped,
    addresses::foreign_mptcp_listener_is_refused_and_named,
    addresses::udp_listener_at_another_address_hinders_a_wildcard_alone,
    addresses::host_without_ipv6_has_its_leftovers_stopped,
    crowds::leftover_is_not_stopped_beside_a_foreign_listener_at_another_address,
    crowds::leftover_is_not_stopped_beside_a_foreign_socket_that_waits_for_nobody,
    crowds::leftover_is_not_stopped_beside_a_foreign_socket_that_has_a_peer_by_udp,
    crowds::leftover_is_stopped_beside_a_foreign_socket_that_is_in_nobodys_way,
    crowds::foreign_listener_is_refused_and_a_leftover_at_another_address_is_left_alone,
    crowds::foreign_listeners_of_both_families_are_both_named,
    crowds::leftover_that_shares_its_port_with_a_foreign_process_is_left_alone,
    crowds::leftover_of_one_port_is_left_alone_beside_a_foreign_holder_of_another,
    kinds::leftover_that_shares_its_port_is_stopped,
    kinds::foreign_unit_that_shares_its_port_is_refused_and_named,
    kinds::time_wait_counts_only_where_the_policy_says_so,
    kinds::time_wait_that_its_peer_ends_is_not_waited_for_any_more,
    kinds::end_of_a_connection_that_no_process_has_is_waited_for,
    kinds::socket_in_a_message_that_nobody_reads_is_refused,
    kinds::socket_in_an_io_uring_is_refused,
    waits::wait_for_more_sockets_than_files_may_be_open_is_woken,
    waits::wait_beside_what_is_free_and_comes_and_goes_takes_no_processor,
    waits::holder_that_closes_its_socket_ends_the_wait_at_once,
    holders::holder_in_uninterruptible_sleep_is_given_up_and_said_to_be,
    holders::holder_whose_memory_is_locked_is_refused_in_time,
    holders::stopped_holder_is_let_go_on_to_end,
    holders::traced_holder_is_killed_when_its_time_is_over,
    holders::killed_holder_that_its_tracer_keeps_is_given_up_and_the_tracer_named,
    holders::holder_that_executes_another_program_is_looked_at_again_before_it_is_killed,
    holders::holder_that_hangs_in_execve_for_a_moment_is_stopped,
    holders::holder_that_appears_while_another_is_stopped_is_refused,
    hostile::ancestor_that_hangs_in_execve_holds_up_nothing,
    hostile::file_with_a_path_that_is_too_long_hides_no_holder,
    hostile::what_is_no_file_of_roots_alone_is_no_policy,
    hostile::ledger_of_others_proves_nothing_and_holds_up_nothing,
    checks::drop_in_of_another_unit_is_not_read,
];

/// Those with crowds of processes, sockets, files or units, or with what takes a processor, each of which runs on every release as
/// well.
pub(crate) const WITH_A_CROWD: &[(&str, Scenario)] = scenarios![
    faults::busy_manager_holds_up_no_start,
    holders::five_hundred_holders_of_one_socket_go,
    holders::more_holders_than_files_may_be_open_go,
    holders::holder_that_changes_all_the_time_costs_nobody_else_anything,
    holders::two_hundred_starts_at_once_are_all_up,
    checks::check_and_suggest_ask_about_few_of_thousands_of_units,
];

/// Those with crowds that are such a matter, which run on the same two.
pub(crate) const WITH_A_CROWD_OF_THE_KERNEL: &[(&str, Scenario)] = scenarios![
    holders::five_hundred_foreign_holders_are_refused_in_a_few_lines,
    waits::wait_beside_sockets_that_are_in_the_way_now_and_then_ends_in_its_time,
    hostile::large_and_garbled_process_is_refused_in_time,
    hostile::crowd_of_holders_is_refused_in_time_and_in_few_lines,
    hostile::sockets_that_very_many_share_are_refused_in_time_and_with_little_memory,
    hostile::files_that_are_very_many_hold_up_no_start,
    hostile::who_has_a_leftovers_socket_behind_very_many_files_is_found_once_it_is_stopped,
    hostile::who_has_a_socket_units_socket_behind_very_many_files_is_found_where_the_policy_says_so,
    hostile::predecessor_is_not_stopped_for_who_has_its_socket_behind_very_many_files,
    hostile::sockets_that_are_very_many_are_refused_in_time_and_with_little_memory,
    hostile::very_many_sockets_at_other_addresses_hold_up_no_start,
    hostile::sockets_born_in_many_nested_cgroups_are_refused_in_time,
    hostile::sockets_born_side_by_side_below_many_threaded_cgroups_are_refused_in_time,
    hostile::socket_born_above_many_threaded_cgroups_is_refused_in_time,
    hostile::crowd_at_another_address_hides_no_leftover,
    hostile::crowd_of_sockets_that_wait_for_nobody_holds_up_no_start,
];

/// Those with real software, each of which runs on every release as well, in a machine of the stocked image.
pub(crate) const WITH_SOFTWARE: &[(&str, Scenario)] = scenarios![
    software::nginx_workers_of_a_killed_master_are_stopped,
    software::foreign_nginx_is_refused_and_what_to_type_frees_its_port,
    software::daemon_that_a_stop_left_behind_is_stopped,
    software::daemon_that_su_took_to_a_session_is_stopped,
    software::daemon_without_an_environment_in_a_session_is_refused,
    software::sshd_that_a_stop_left_behind_is_never_signalled,
    software::sshd_by_socket_activation_passes,
    software::ssh_socket_is_refused_and_what_to_type_frees_its_port,
    software::rpcbind_by_socket_activation_passes,
    containers::docker_published_port_is_refused_and_its_container_named,
    containers::docker_port_without_a_proxy_is_refused_and_its_container_named,
    containers::docker_container_in_the_hosts_network_is_refused_and_named,
    containers::hung_docker_costs_a_moment_and_the_name,
    containers::hung_docker_does_not_get_its_proxy_stopped,
    containers::podman_published_port_is_refused_and_its_container_named,
    containers::podman_container_in_the_hosts_network_is_refused_and_named,
    containers::podman_container_that_passes_for_its_monitor_is_named_all_the_same,
    containers::nspawn_machine_is_refused_and_named,
    containers::nspawn_machine_that_machined_does_not_know_is_refused_and_named,
    containers::nspawn_service_is_refused_and_its_machine_named,
    commands::who_names_nginx_its_unit_and_what_frees_the_port,
    commands::who_fits_a_terminal_and_columns_a_pipe,
    commands::who_names_containers_sessions_and_socket_units,
    commands::three_commands_guard_nginx,
    commands::enable_learns_says_what_it_does_and_disable_takes_it_away,
    servers::check_and_audit_name_the_servers_that_have_the_ports_of_others,
    servers::audit_names_the_workers_that_nginx_has_left,
    servers::suggest_passes_over_the_ports_of_servers,
    servers::audit_and_suggest_of_a_user_know_the_servers_of_the_system,
    cookbook::cookbook_node,
    cookbook::cookbook_gunicorn,
    cookbook::cookbook_uvicorn,
    cookbook::cookbook_java,
    cookbook::cookbook_nginx,
    cookbook::cookbook_compose,
    cookbook::cookbook_user,
    cookbook::cookbook_template,
    cookbook::cookbook_blue_green,
    journals::journal_views_show_the_refusals_of_a_host_and_of_a_fleet,
    // The machines of this image alone may have a time namespace.
    faults::clock_that_jumps_holds_up_no_start,
];

/// Those of hosts with cgroup v1 beside v2, which run on the releases that boot there: systemd 247 and 252.
pub(crate) const ON_HYBRID_CGROUPS: &[(&str, Scenario)] = scenarios![faults::hybrid_cgroups_tell_whose_a_process_is,];

/// Those of hosts with cgroup v1 alone, on the same releases.
pub(crate) const ON_LEGACY_CGROUPS: &[(&str, Scenario)] = scenarios![faults::legacy_cgroups_tell_whose_a_process_is,];

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

/// Has web.service, which is none of the guarded service's business, take 8080/tcp.
fn web_has_the_port(machine: &Machine) -> u32 {
    machine.unit("web.service", "[Service]\nType=forking\nExecStart=/usr/bin/python3 /opt/lab/listener.py 8080\n");
    machine.ok("systemctl start web.service");
    machine.main_pid("web.service")
}

/// Takes the bus away. dbus.service may refuse to be stopped by hand, so it is killed; masked, nothing brings it back.
fn take_the_bus_away(machine: &Machine) {
    machine.ok("systemctl mask --runtime dbus.service dbus.socket && systemctl stop dbus.socket");
    machine.ok("systemctl kill -s KILL dbus.service");
    machine.wait_until("the bus is down", SOON, || !machine.sh("busctl --timeout=2 list").status.success());
}

/// Starts or restarts app.service, and has PID 1 answer nobody for so long from the moment that its guard runs.
fn while_systemd_is_silent(machine: &Machine, verb: &str, silence: Duration) {
    machine.ok(&format!("systemctl {verb} --no-block {APP}"));
    let runs = || ["start-pre", "reload"].contains(&machine.show(APP, "SubState").as_str());
    machine.wait_until("the command that calls portguard runs", SOON, runs);
    machine.freeze_manager();
    std::thread::sleep(silence);
    machine.thaw_manager();
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

/// The start of a unit was refused: systemd says 69, portguard's last word is `refused`, and one holder, whose entry
/// this is, has all these fields.
fn refused(machine: &Machine, unit: &str, fields: &[(&str, &str)]) -> Entry {
    let refused = finding(machine, unit, &[fields, &[("ACTION", "refuse")]].concat());
    finding(machine, unit, &[("VERDICT", "refused"), ("EXIT_STATUS", "69")]);
    assert_names(&machine.journal(unit), &["status=69/UNAVAILABLE"]);
    refused
}

/// Types what a refusal says to type next, as it stands there, in a shell of root's.
fn type_next(machine: &Machine, refused: &Entry) -> Output {
    let next = field(refused, "PORTGUARD_NEXT");
    assert!(!next.is_empty(), "nothing to type next: {}", message(refused));
    assert_names(message(refused), &[next]);
    let typed = machine.sh(next);
    assert!(typed.status.success(), "`{next}`: {typed:?}");
    typed
}

/// What the refusal says to type next frees the port.
fn assert_next_frees(machine: &Machine, endpoint: &str, refused: &Entry) {
    type_next(machine, refused);
    let next = field(refused, "PORTGUARD_NEXT");
    machine.wait_until(&format!("`{next}` has freed {endpoint}"), SOON, || machine.holders(endpoint).is_empty());
}

/// What the refusal says to type next shows these.
fn assert_next_shows(machine: &Machine, refused: &Entry, parts: &[&str]) {
    assert_names(&type_next(machine, refused).stdout, parts);
}

/// No process was signalled on the way.
fn assert_nobody_signalled(machine: &Machine, unit: &str) {
    let signals: Vec<Entry> =
        machine.entries(unit).into_iter().filter(|entry| entry.contains_key("PORTGUARD_SIGNAL")).collect();
    assert!(signals.is_empty(), "{}", shown(&signals));
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
