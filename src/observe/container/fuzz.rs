//! The rules that what Docker says keeps, and what the name of a cgroup says of a container: see [`crate::fuzzing`].

use super::*;

/// A whole reply; the body of one; a label that the owner of a container chose; and a path.
pub(crate) fn docker(bytes: &[u8]) {
    let id = "0123456789abcdef".repeat(4);
    let published = |address: Option<&str>| Question::Published {
        protocol: Protocol::Tcp,
        port: Port::new(8080).unwrap(),
        address: address.map(str::to_owned),
    };
    let text = String::from_utf8_lossy(bytes).into_owned();
    for question in [Question::Id(id.clone()), published(None), published(Some("172.17.0.2"))] {
        for reply in [text.clone(), format!("HTTP/1.0 200 OK\r\n\r\n[{text}")] {
            if let Some(name) = name_in(&reply, &question) {
                assert!(is_name(&name) && reply.contains(&format!(r#""Names":["/{name}""#)), "{name:?}");
            }
        }
        assert_eq!(name_in(&format!("HTTP/1.0 500 No\r\n\r\n{text}"), &question), None);
    }
    let labelled = |id: &str, name: &str| {
        let (names, label) = (format!(r#""Names":["/{name}"]"#), as_go_writes(&text));
        format!(r#"{{"Id":"{id}",{names},"Command":{label},"Labels":{{{label}:{label}}},"HostConfig":{{}}}}"#)
    };
    let other = "f".repeat(64);
    let reply = format!("HTTP/1.0 200 OK\r\n\r\n[{},{}]\n", labelled(&other, "other"), labelled(&id, "web"));
    assert_eq!(name_in(&reply, &Question::Id(id)).as_deref(), Some("web"), "no label is a name");
    assert_eq!(name_in(&reply, &Question::Id("e".repeat(64))), None);

    match in_cgroup(&CgroupPath(text)) {
        Some(Trace::Known(Container { name: Some(name), .. })) => assert!(is_name(&name), "{name:?}"),
        Some(Trace::DockerId(id) | Trace::PodmanId(id)) => assert!(is_id(&id), "{id:?}"),
        Some(Trace::DockerPort { .. }) => panic!("a path holds no port"),
        Some(Trace::Known(Container { name: None, .. })) | None => {}
    }
}

/// A string of JSON as Go's `encoding/json` writes it (`appendString()`, Go 1.24 `src/encoding/json/encode.go`).
fn as_go_writes(text: &str) -> String {
    let mut json = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            '\u{8}' => json.push_str(r"\b"),
            '\u{c}' => json.push_str(r"\f"),
            '\n' => json.push_str(r"\n"),
            '\r' => json.push_str(r"\r"),
            '\t' => json.push_str(r"\t"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                json.extend(format!(r"\u{:04x}", u32::from(c)).chars());
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}
