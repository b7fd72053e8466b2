//! The invariants of absence in ARCHITECTURE.md, looked up in the sources, and the documents that must name what is
//! there.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has no sources: the test looks at the wrong place");
    files
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref()).unwrap()
}

/// Every line of the folder's sources that holds one of the words, comments aside.
fn lines_with(folder: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in rust_files(folder) {
        for (number, line) in read(&file).lines().enumerate() {
            // Names of our own: a stock is awaited, and awaited again.
            let code = line.split("//").next().unwrap_or_default();
            let code = code.replace(".awaited", "").replace(".await_again", "");
            if let Some(word) = words.iter().find(|word| code.contains(**word)) {
                found.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    found
}

#[test]
fn the_engine_knows_no_wall_clock_files_or_network() {
    let found = lines_with("engine/src", &["SystemTime", "std::fs", "std::net", "tokio::net", "tokio::fs"]);
    assert!(found.is_empty(), "{found:#?}");
    let manifest = read(root().join("engine/Cargo.toml"));
    for name in ["sled", "axum", "hyper", "serde", "bincode", "hotstock-persistence", "hotstock-api"] {
        let named = manifest.lines().any(|line| line.trim_start().starts_with(name));
        assert!(!named, "engine/Cargo.toml names {name}");
    }
}

#[test]
fn the_state_machine_is_pure() {
    let words = [
        "async ",
        ".await",
        "Instant",
        "std::thread",
        "tokio",
        "ractor",
        "Mutex",
        "RwLock",
        "Atomic",
        "Clock",
        "tracing",
    ];
    let mut found = lines_with("engine/src/state", &words);
    found.extend(lines_with("engine/src/home", &words));
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn api_and_persistence_do_not_know_each_other() {
    for (krate, other) in [("api", "hotstock-persistence"), ("persistence", "hotstock-api")] {
        let manifest = read(root().join(krate).join("Cargo.toml"));
        assert!(!manifest.contains(other), "{krate} names {other}");
    }
}

#[test]
fn every_file_says_in_its_first_line_what_it_is_for() {
    for folder in ["src", "engine", "persistence", "api", "loom-tests", "benches", "tests"] {
        for file in rust_files(folder) {
            assert!(read(&file).starts_with("//!"), "{} does not begin with //!", file.display());
        }
    }
}

#[test]
fn the_code_map_names_every_folder() {
    let map = read(root().join("ARCHITECTURE.md"));
    for folder in ["engine", "persistence", "api", "src", "loom-tests", "benches", "tests", "config"] {
        assert!(map.contains(&format!("`{folder}/`")), "ARCHITECTURE.md does not name {folder}/");
    }
}
