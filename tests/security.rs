//! SECURITY.md names a test for each thing that is read: they are there.

use std::fs;
use std::path::Path;

/// The source of a test that SECURITY.md calls `module::name`: a scenario of the lab, or a test in the module itself.
fn sources(module: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = module.replace("::", "/");
    let places = [
        format!("tests/lab/scenarios/{file}.rs"),
        format!("src/{file}.rs"),
        format!("src/{file}/mod.rs"),
        format!("src/{file}/tests.rs"),
    ];
    places.iter().filter_map(|place| fs::read_to_string(root.join(place)).ok()).collect()
}

#[test]
fn every_row_of_the_threat_model_names_tests_and_each_is_there() {
    let text = include_str!("../SECURITY.md");
    let scenarios = include_str!("lab/scenarios/mod.rs");
    let (_, section) = text.split_once("## What is read").expect("the section is there");
    let rows: Vec<&str> = section
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(rows.len() >= 15, "{} rows", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let tests: Vec<&str> = cells.last().unwrap_or(&"").split('`').filter(|word| word.contains("::")).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            let (module, name) = test.rsplit_once("::").expect("module::name");
            let declared = format!("fn {name}(");
            assert!(sources(module).iter().any(|source| source.contains(&declared)), "{test} is not there");
            let is_scenario = sources(module).iter().any(|source| source.contains(&format!("pub(super) {declared}")));
            assert!(!is_scenario || scenarios.contains(&format!("    {test},")), "{test} is not run");
        }
    }
}
