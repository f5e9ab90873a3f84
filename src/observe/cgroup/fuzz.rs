//! The rules that the path of a cgroup keeps, whoever named it: see [`crate::fuzzing`].

use super::*;

/// A path of `/proc/PID/cgroup`; and the same bytes as `mountinfo`, and as the path below a mount.
pub(crate) fn cgroup(bytes: &[u8]) {
    let path = CgroupPath(String::from_utf8_lossy(bytes).into_owned());
    of_its_unit(&path);
    of_a_mount(bytes, &path);
}

fn of_its_unit(path: &CgroupPath) {
    let (owner, cgroup) = (owner_of(path), unit_cgroup(path));
    match &owner {
        Owner::Unit(unit) | Owner::UserUnit { unit, .. } => {
            assert_eq!(unit.as_str().parse().as_ref(), Ok(unit));
            assert!(!unit.is_template() && unit.unit_type().suffix() != "slice", "{unit} has no processes");
        }
        Owner::Session(session) => assert!(session.id.bytes().all(|byte| byte.is_ascii_alphanumeric())),
        Owner::Init => assert!(path.0.trim_start_matches('/').starts_with("init.scope")),
        Owner::Nobody | Owner::Unknown => {}
    }
    let Some(cgroup) = cgroup else {
        return assert!(matches!(owner, Owner::Nobody | Owner::Unknown), "{owner:?} has no cgroup");
    };
    assert!(path.is_within(&cgroup), "{path} is not in {cgroup}");
    assert_eq!((owner_of(&cgroup), unit_cgroup(&cgroup)), (owner.clone(), Some(cgroup.clone())));
    // Whoever has the cgroup names what is below it, and that changes nothing.
    for below in ["init.scope", "b.service", "user@0.service", "session-1.scope"] {
        let deeper = CgroupPath(format!("{}/{below}", cgroup.0));
        let is_user_manager = matches!(&owner, Owner::Unit(unit) if unit.prefix() == "user");
        assert!(is_user_manager || owner_of(&deeper) == owner, "{deeper} is not of {owner:?}");
    }
    assert_eq!(owner_of(&CgroupPath(format!("{cgroup}/.."))), Owner::Unknown);
}

fn of_a_mount(mountinfo: &[u8], path: &CgroupPath) {
    let whole = Mount { dir: "/sys/fs/cgroup".into(), root: CgroupPath("/".to_owned()) };
    let part = Mount { root: CgroupPath("/a.slice".to_owned()), ..whole.clone() };
    for mount in [whole, part].into_iter().chain(parse_mountinfo(mountinfo)) {
        assert!(!mount.root.0.contains("/.."));
        let Some(dir) = mount.dir_of(path) else { continue };
        let below = dir.strip_prefix(&mount.dir).unwrap();
        assert!(below.components().all(|part| matches!(part, Component::Normal(_))), "{} leads out", dir.display());
        let plain = path.0.starts_with('/')
            && !path.0.contains("//")
            && !path.0.contains("/./")
            && !path.0.ends_with(['/', '.']);
        let plain_root = mount.root.0.starts_with('/') && !mount.root.0.contains("//");
        if plain && plain_root && !mount.root.0.ends_with(['/', '.']) || path.0 == "/" {
            assert_eq!(mount.path_at(&dir).as_ref(), Some(path), "{mount:?}");
        }
    }
}
