//! The invariants of absence in ARCHITECTURE.md, looked up in the sources, and the documents that must name what is
//! there.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod layers;

use std::collections::BTreeSet;
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
            let code = line.split("//").next().unwrap_or_default();
            if let Some(word) = words.iter().find(|word| code.contains(**word)) {
                found.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    found
}

/// What callers choose stands in quotes in the log, so that nobody writes what looks like a field of ours.
#[test]
fn names_of_callers_are_quoted_in_the_log() {
    for folder in ["engine/src", "persistence/src", "api/src", "src", "tools/src"] {
        let found = lines_with(folder, &["%sku_id", "%order_no", "%request_id", "%buyer_id"]);
        assert!(found.is_empty(), "{found:#?}");
    }
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
    let mut found = lines_with("engine/src/machine/state", &words);
    found.extend(lines_with("engine/src/machine/coordinator", &words));
    assert!(found.is_empty(), "{found:#?}");
}

/// Histories are checked against the contract: a rule that the models shared with the engine would be checked against
/// itself.
#[test]
fn the_checker_of_histories_does_not_know_the_engine() {
    let manifest = read(root().join("histories/Cargo.toml"));
    assert!(!manifest.contains("hotstock-engine"), "histories/Cargo.toml names the engine");
}

/// SQL is loaded from and flushed to. It knows images and events; rules about stock and orders it does not know.
#[test]
fn the_store_never_decides() {
    let words = ["hotstock_engine::state", "State::", "decide", "Action::", "Command", "Refusal"];
    let found = lines_with("persistence/src/sql", &words);
    assert!(found.is_empty(), "{found:#?}");
}

/// What goes between the parts of the engine alone is nothing that callers could ask or be told.
#[test]
fn what_is_inner_stays_in_the_engine() {
    for folder in ["api/src", "persistence/src", "tools/src", "src"] {
        let found = lines_with(folder, &["inner::", "InnerCommand", "coordinator::"]);
        assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn api_and_persistence_do_not_know_each_other() {
    for (krate, other) in [("api", "hotstock-persistence"), ("persistence", "hotstock-api")] {
        let manifest = read(root().join(krate).join("Cargo.toml"));
        assert!(!manifest.contains(other), "{krate} names {other}");
    }
}

/// The tools see a server as its callers do, so what they find is what callers would; and no server needs them.
#[test]
fn the_tools_know_the_contract_and_no_server() {
    let names = |krate: &str, other: &str| read(root().join(krate).join("Cargo.toml")).contains(other);
    for other in ["hotstock-api", "hotstock-persistence"] {
        assert!(!names("tools", other), "tools names {other}");
    }
    for krate in ["engine", "persistence", "api"] {
        assert!(!names(krate, "hotstock-tools"), "{krate} names hotstock-tools");
    }
}

#[test]
fn every_file_says_in_its_first_line_what_it_is_for() {
    for folder in
        ["src", "engine", "persistence", "api", "tools", "loom-tests", "histories", "benches", "tests"]
    {
        for file in rust_files(folder) {
            assert!(read(&file).starts_with("//!"), "{} does not begin with //!", file.display());
        }
    }
}

#[test]
fn the_code_map_names_every_folder() {
    let map = read(root().join("ARCHITECTURE.md"));
    for folder in [
        "engine",
        "persistence",
        "api",
        "tools",
        "src",
        "loom-tests",
        "histories",
        "benches",
        "tests",
        "config",
    ] {
        assert!(map.contains(&format!("`{folder}/`")), "ARCHITECTURE.md does not name {folder}/");
    }
}

/// All sources of the project, tests and benches included.
fn all_rust_files() -> Vec<PathBuf> {
    let folders =
        ["src", "engine", "persistence", "api", "tools", "loom-tests", "histories", "benches", "tests"];
    folders.into_iter().flat_map(rust_files).collect()
}

/// A module that is declared inside a macro is hidden from rustfmt, and so is all that it declares.
#[test]
fn rustfmt_sees_every_module() {
    let mut hidden = Vec::new();
    for folder in
        ["src", "engine/src", "persistence/src", "api/src", "tools/src", "loom-tests/src", "histories/src"]
    {
        let seen = seen_by_rustfmt(folder);
        let files = rust_files(folder).into_iter().filter(|file| !seen.contains(file));
        hidden.extend(files);
    }
    assert!(hidden.is_empty(), "rustfmt does not see {hidden:#?}");
}

/// The root of a crate, and every file that a `mod name;` at the margin leads to.
fn seen_by_rustfmt(folder: &str) -> BTreeSet<PathBuf> {
    let mut open: Vec<PathBuf> = ["lib.rs", "main.rs"]
        .map(|name| root().join(folder).join(name))
        .into_iter()
        .filter(|p| p.exists())
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(file) = open.pop() {
        let is_root = ["lib.rs", "main.rs", "mod.rs"].iter().any(|name| file.ends_with(name));
        let folder = if is_root { file.parent().unwrap().to_owned() } else { file.with_extension("") };
        for line in read(&file).lines() {
            let declared = line.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            let declared = declared.trim_start_matches("pub ").strip_prefix("mod ");
            let Some(name) = declared.and_then(|rest| rest.strip_suffix(';')) else { continue };
            let places = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
            open.extend(places.into_iter().filter(|place| place.exists()));
        }
        seen.insert(file);
    }
    seen
}

/// Code is kept narrow by rustfmt; this is for what it leaves alone: comments and documents.
#[test]
fn prose_is_at_most_120_characters_wide() {
    let mut wide = Vec::new();
    let mut look = |path: &Path, is_prose: fn(&str) -> bool| {
        for (number, line) in read(path).lines().enumerate() {
            if line.chars().count() > 120 && is_prose(line) {
                wide.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    };
    for file in all_rust_files() {
        look(&file, |line| line.trim_start().starts_with("//"));
    }
    // A row of a table can't be broken.
    for document in ["ARCHITECTURE.md", "README.md"] {
        look(&root().join(document), |line| !line.starts_with('|') && !line.contains("](http"));
    }
    for file in ["Cargo.toml", "deny.toml", "config/default.toml", "scripts/test", "scripts/prove"] {
        look(&root().join(file), |line| line.trim_start().starts_with('#'));
    }
    assert!(wide.is_empty(), "{wide:#?}");
}

/// One job each. The longest today is well below; a file that reaches this has two.
#[test]
fn no_file_is_long() {
    const MAX_LINES: usize = 700;
    let long = all_rust_files().into_iter().filter(|file| read(file).lines().count() > MAX_LINES);
    let long: Vec<_> = long.collect();
    assert!(long.is_empty(), "{long:#?}");
}

/// The sources are read by people who know nothing of the machine that they were written on.
#[test]
fn no_file_names_a_place_of_the_machine_that_it_was_written_on() {
    // Put together here, so that this file is not found itself.
    let words = ["work", "root", "home"].map(|place| format!("/{place}/"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for file in all_rust_files() {
        let text = read(&file);
        // A path inside a document or an address is another thing.
        let named = words
            .iter()
            .find(|word| text.contains(&format!("\"{word}")) || text.contains(&format!(" {word}")));
        assert!(named.is_none(), "{}: {named:?}", file.display());
    }
}
