//! User names, from `/etc/passwd` alone: a static binary cannot load NSS plugins, and must not wait for a directory
//! server before a service starts.

use std::path::{Path, PathBuf};

/// The name of a user in passwd(5) text.
#[must_use]
pub fn name_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// The number of a user in passwd(5) text.
#[must_use]
pub fn id_in(passwd: &str, name: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// The number of the user that `User=` names, by name or number; `None` where the file does not have that name.
#[must_use]
pub fn user_id(etc: &Path, user: &str) -> Option<u32> {
    if let Ok(number) = user.parse() {
        return Some(number);
    }
    id_in(&std::fs::read_to_string(etc.join("passwd")).ok()?, user)
}

/// The home of a user, by number; `None` where the file does not have it.
#[must_use]
pub fn home_of(etc: &Path, uid: u32) -> Option<PathBuf> {
    let passwd = std::fs::read_to_string(etc.join("passwd")).ok()?;
    let line = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut own = line.filter(|fields| fields.get(2).and_then(|number| number.parse().ok()) == Some(uid));
    own.find_map(|fields| fields.get(5).map(PathBuf::from))
}

/// `root`, or `uid 1000` where the file does not name that user. `etc` is the folder of `passwd`.
#[must_use]
pub fn user_name(etc: &Path, uid: u32) -> String {
    let passwd = std::fs::read_to_string(etc.join("passwd")).unwrap_or_default();
    name_in(&passwd, uid).map_or_else(|| format!("uid {uid}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_number_and_torn_lines_are_passed_over() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\nbad\nx:y\nweb:x:33:33::/:/bin/false\n";
        assert_eq!(name_in(passwd, 0), Some("root"));
        assert_eq!(name_in(passwd, 33), Some("web"));
        assert_eq!(name_in(passwd, 1), None);
        assert_eq!(id_in(passwd, "web"), Some(33));
        assert_eq!(id_in(passwd, "x"), None);
        assert_eq!(user_id(Path::new("/nonexistent"), "33"), Some(33));
        assert_eq!(user_name(Path::new("/nonexistent"), 1000), "uid 1000");
    }
}
