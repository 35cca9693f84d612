//! The ids of the promises in `wit/`: the conformance suite goes by them.

use std::{collections::BTreeMap, fs, path::Path};

/// The ids of one file: what stands in braces in its documentation.
fn ids(text: &str) -> Vec<String> {
    let comments = text.lines().filter_map(|line| line.trim_start().strip_prefix("///"));
    let in_braces = |line: &str| -> Vec<String> {
        let parts = line.split('{').skip(1);
        parts.filter_map(|part| Some(part.split_once('}')?.0.to_owned())).collect()
    };
    comments.flat_map(in_braces).collect()
}

fn is_id(id: &str) -> bool {
    let is_word = |word: &str| {
        let is_part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
        word.split('-').all(is_part)
    };
    id.split_once('.').is_some_and(|(area, name)| is_word(area) && is_word(name))
}

#[test]
fn each_promise_has_an_id_of_its_own() {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut seen = BTreeMap::new();
    for package in ["plugin", "config", "registry", "lock", "tracing"] {
        let file = wit.join(package).join(format!("{package}.wit"));
        let text = fs::read_to_string(&file).unwrap();
        let found = ids(&text);
        assert!(!found.is_empty(), "{} promises nothing", file.display());
        for id in found {
            assert!(is_id(&id), "{}: {{{id}}} is no id", file.display());
            let before = seen.insert(id.clone(), package);
            assert_eq!(before, None, "{{{id}}} stands twice");
        }
    }
    assert!(seen.len() > 50, "{} promises", seen.len());
}
