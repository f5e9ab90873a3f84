//! Servers as Debian ships them, with their own forks, PID files and socket units.

use super::{assert_unharmed, finding, guard, policy};
use crate::machine::Machine;

pub(super) fn nginx_workers_of_a_killed_master_are_stopped(m: &Machine) {
    m.given("nginx");
    policy(m, "[unit.\"nginx.service\"]\nports = [\"80/tcp\"]\n");
    guard(m, "nginx.service");
    m.ok("systemctl start nginx.service");
    assert_unharmed(m, "80/tcp", m.main_pid("nginx.service"));
    finding(m, "nginx.service", &[("VERDICT", "free")]);
}
