//! The layers of the engine, looked up in its sources: which file names which other one, and whether any arrow goes up.
//! What a call of a method reaches without naming it is not seen.

use std::collections::{BTreeMap, BTreeSet};

use super::{read, root, rust_files};

/// The folders of `engine/src`, from below: a file names others of its own folder and of those before it.
const LAYERS: &[&str] = &["base", "contract", "machine", "services", "shard", "front"];

/// As many as can be kept in mind.
const MAX_LAYERS: usize = 6;

/// Files that name each other in a circle have to be read together.
const MAX_CYCLE: usize = 5;

/// A module: the names that lead to it.
type Module = Vec<String>;

/// Which file names which others.
struct Graph {
    files: Vec<String>,
    arrows: Vec<BTreeSet<usize>>,
}

impl Graph {
    /// Of these sources, each with its path below `src`.
    fn of(sources: &[(String, String)]) -> Self {
        let modules: BTreeMap<Module, usize> =
            sources.iter().enumerate().map(|(file, (path, _))| (module_of(path), file)).collect();
        let arrows = |(file, (path, text)): (usize, &(String, String))| {
            let here = module_of(path);
            let paths = paths_in(text).into_iter();
            let mut to: BTreeSet<usize> = paths.filter_map(|path| resolve(&modules, &here, &path)).collect();
            to.remove(&file);
            to
        };
        let arrows = sources.iter().enumerate().map(arrows).collect();
        Self { files: sources.iter().map(|(path, _)| path.clone()).collect(), arrows }
    }

    /// Of the engine, without its tests and its doubles for tests.
    fn of_engine() -> Self {
        let src = root().join("engine/src");
        let below = |file: &std::path::PathBuf| {
            let below = file.strip_prefix(&src).expect("it was found there");
            below.to_str().expect("names of sources are ASCII").to_owned()
        };
        let mut files = rust_files("engine/src");
        files.retain(|file| !file.ends_with("tests.rs") && !below(file).starts_with("testing/"));
        files.sort();
        Self::of(&files.iter().map(|file| (below(file), read(file))).collect::<Vec<_>>())
    }

    /// Arrows from a layer to one above it, and arrows to the root, which has names of all of them.
    fn arrows_up(&self) -> Vec<String> {
        let mut up = Vec::new();
        for (from, to) in
            self.arrows.iter().enumerate().flat_map(|(from, to)| to.iter().map(move |to| (from, *to)))
        {
            let (from, to) = (&self.files[from], &self.files[to]);
            if from != "lib.rs" && (to == "lib.rs" || layer_of(to) > layer_of(from)) {
                up.push(format!("{from} names {to}"));
            }
        }
        up
    }

    /// Everything that a file leads to.
    fn reached(&self, from: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(file) = open.pop() {
            open.extend(self.arrows[file].iter().filter(|to| reached.insert(**to)));
        }
        reached
    }

    /// The files in groups: those that lead to each other are one, most have one of their own.
    fn groups(&self) -> Vec<Vec<usize>> {
        let reached: Vec<_> = (0..self.files.len()).map(|file| self.reached(file)).collect();
        let mut grouped = BTreeSet::new();
        let mut groups = Vec::new();
        for file in 0..self.files.len() {
            if grouped.contains(&file) {
                continue;
            }
            let both =
                reached[file].iter().filter(|other| **other != file && reached[**other].contains(&file));
            let group: Vec<usize> = [file].into_iter().chain(both.copied()).collect();
            grouped.extend(group.iter().copied());
            groups.push(group);
        }
        groups
    }

    /// The groups of more than [`MAX_CYCLE`] files, by their names.
    fn large_cycles(&self) -> Vec<Vec<&str>> {
        let large = self.groups().into_iter().filter(|group| group.len() > MAX_CYCLE);
        large.map(|group| group.into_iter().map(|file| self.files[file].as_str()).collect()).collect()
    }

    /// The longest way down, of one file of each group that it comes through.
    fn longest_way(&self) -> Vec<&str> {
        let groups = self.groups();
        let group_of: BTreeMap<usize, usize> = (0..)
            .zip(&groups)
            .flat_map(|(group, files)| files.iter().map(move |file| (*file, group)))
            .collect();
        let mut ways: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        // Whoever is reached from a group reaches less than it.
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_by_key(|group| self.reached(groups[*group][0]).len());
        for group in order {
            let below = groups[group].iter().flat_map(|file| &self.arrows[*file]).map(|to| group_of[to]);
            let longest = below.filter_map(|below| ways.get(&below)).max_by_key(|way| way.len()).cloned();
            let way = [groups[group][0]].into_iter().chain(longest.unwrap_or_default()).collect();
            ways.insert(group, way);
        }
        let longest = ways.into_values().max_by_key(Vec::len).unwrap_or_default();
        longest.into_iter().map(|file| self.files[file].as_str()).collect()
    }
}

/// Which layer, from below; the root is above all.
fn layer_of(file: &str) -> usize {
    let folder = file.split('/').next().unwrap_or_default();
    LAYERS.iter().position(|layer| *layer == folder).unwrap_or(LAYERS.len())
}

fn module_of(path: &str) -> Module {
    let mut names: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|name| name == "mod" || name == "lib") {
        names.pop();
    }
    names
}

/// The file of the module that a path leads to, or to an item of; `None`: of another crate.
fn resolve(modules: &BTreeMap<Module, usize>, here: &Module, path: &[String]) -> Option<usize> {
    let mut names = path.iter().map(String::as_str).peekable();
    let mut at = match *names.peek()? {
        "crate" => Module::new(),
        "super" | "self" => here.clone(),
        // Of a child, which needs no more than its name.
        child => {
            let child: Module = here.iter().map(String::as_str).chain([child]).map(str::to_owned).collect();
            modules.contains_key(&child).then(|| here.clone())?
        }
    };
    while let Some(name) = names.next_if(|name| ["crate", "super", "self"].contains(name)) {
        if name == "super" {
            at.pop();
        }
    }
    let mut found = modules.get(&at);
    for name in names {
        at.push(name.to_owned());
        found = modules.get(&at).or(found);
    }
    found.copied()
}

/// The paths that a source names: those of its `use`, each by itself, and others that begin with `crate` or the like.
fn paths_in(text: &str) -> Vec<Vec<String>> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let starts = |name: &'static str| {
        let code = &code;
        code.match_indices(name).map(|(at, _)| at).filter(move |at| {
            // `$crate` is of a macro, which is another crate's as well.
            !code[..*at].ends_with(|c| is_word(c) || c == '$' || c == ':')
        })
    };
    for start in starts("use ") {
        if let Some((tree, _)) = code[start + 4..].split_once(';') {
            expand(&[], &tree.split_whitespace().collect::<Vec<_>>().join(" "), &mut paths);
        }
    }
    for start in ["crate::", "super::", "self::"].into_iter().flat_map(starts) {
        let path = code[start..].split(|c| !is_word(c) && c != ':').next().unwrap_or_default();
        paths.push(path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect());
    }
    paths
}

/// Adds the paths of a tree of `use`: `a::{b, c::{d}}` is `a::b` and `a::c::d`.
fn expand(before: &[String], tree: &str, paths: &mut Vec<Vec<String>>) {
    let (names, branches) = match tree.split_once('{') {
        Some((names, branches)) => (names, branches.trim_end().strip_suffix('}')),
        None => (tree.split(" as ").next().unwrap_or_default(), None),
    };
    let names = names.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    let path: Vec<String> = before.iter().cloned().chain(names).collect();
    let Some(branches) = branches else { return paths.push(path) };
    let (mut depth, mut from) = (0, 0);
    for (at, c) in branches.char_indices().chain([(branches.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branch = branches[from..at].trim();
                if !branch.is_empty() {
                    expand(&path, branch, paths);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

#[test]
fn the_engine_has_at_most_six_layers_and_nothing_beside_them() {
    assert!(LAYERS.len() <= MAX_LAYERS, "{LAYERS:?}");
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("engine/src")).unwrap() {
        found.insert(entry.unwrap().file_name().into_string().unwrap());
    }
    let expected = LAYERS.iter().chain(&["lib.rs", "testing"]).map(|name| (*name).to_owned()).collect();
    assert_eq!(found, expected, "a file of the engine lies in one of its layers");
}

#[test]
fn no_layer_of_the_engine_names_one_above_it() {
    let up = Graph::of_engine().arrows_up();
    assert!(up.is_empty(), "{up:#?}");
}

#[test]
fn no_more_than_five_files_of_the_engine_name_each_other_in_a_circle() {
    let graph = Graph::of_engine();
    let (cycles, way) = (graph.large_cycles(), graph.longest_way());
    assert!(cycles.is_empty(), "{cycles:#?}; the longest way down has {} files: {way:#?}", way.len());
}

/// Sources with these names and what they `use`.
fn sources(of: &[(&str, &str)]) -> Graph {
    Graph::of(&of.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect::<Vec<_>>())
}

#[test]
fn an_arrow_up_is_found_however_it_is_written() {
    let engine = ("front/engine.rs", "use crate::base::ids::Lsn;");
    let ways_up = [
        "use crate::front::engine::Engine;",
        "pub(crate) use crate::{base::ids, front::{engine::{self, Engine}}};",
        "fn f(engine: &crate::front::engine::Engine) {}",
        "fn f(engine: &super::super::front::engine::Engine) {}",
    ];
    for up in ways_up {
        let graph = sources(&[engine, ("base/ids.rs", up)]);
        assert_eq!(graph.arrows_up(), ["base/ids.rs names front/engine.rs"], "{up}");
    }
    let through_the_root = sources(&[("lib.rs", ""), ("base/ids.rs", "use crate::engine::Engine;")]);
    assert_eq!(through_the_root.arrows_up(), ["base/ids.rs names lib.rs"]);
    let none = ["// use crate::front::engine;", "#[cfg(test)]\nmod tests { use crate::front::engine; }"];
    for none in none {
        assert_eq!(sources(&[engine, ("base/ids.rs", none)]).arrows_up(), [""; 0], "{none}");
    }
}

#[test]
fn a_cycle_of_six_is_found_and_the_longest_way_counts_it_once() {
    let six: Vec<(String, String)> = (0..6)
        .map(|n| (format!("base/f{n}.rs"), format!("use super::f{}::Item;", (n + 1) % 6)))
        .chain([("front/engine.rs".to_owned(), "use crate::base::f3;".to_owned())])
        .collect();
    let graph = Graph::of(&six);
    assert_eq!(graph.large_cycles().iter().map(Vec::len).collect::<Vec<_>>(), [6]);
    assert_eq!(graph.longest_way(), ["front/engine.rs", "base/f0.rs"]);
    let five = Graph::of(&six[1..]);
    assert!(five.large_cycles().is_empty());
}
