//! The files of a crate do not import each other in cycles.
//!
//! An edge leads from a file to the file which defines an imported item; re-exports are followed. Not edges: `mod x;`,
//! and `pub use` in `lib.rs`, `main.rs` and `mod.rs`. Test code is ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::files;
use crate::rust_source::{Import, RustSource, UsedPath};

type ModulePath = Vec<String>;

/// A module with its own file.
struct Module {
    file: PathBuf,
    source: RustSource,
}

/// The modules of a crate by their paths; the root has the empty path.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

/// The imported files by the importing file, with the line of the first import.
type Graph = BTreeMap<PathBuf, BTreeMap<PathBuf, usize>>;

#[test]
fn files_of_each_crate_import_each_other_without_cycles() {
    let mut cycles = Vec::new();
    let mut roots = 0;
    for manifest in files::with_extension(&["toml"]).iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        let source = files::root().join(&manifest.path).with_file_name("src");
        for root in roots_in(&source) {
            roots += 1;
            cycles.extend(cycles_in(&Crate::read(&root).graph()));
        }
    }
    assert!(roots > 10, "only {roots} crates found");
    assert!(
        cycles.is_empty(),
        "{} groups of files import each other in cycles:\n\n{}",
        cycles.len(),
        cycles.join("\n")
    );
}

/// The root files of the library and the programs in a `src` directory.
fn roots_in(source: &Path) -> Vec<PathBuf> {
    let programs = fs::read_dir(source.join("bin")).into_iter().flatten().map(|entry| entry.unwrap().path());
    let roots = ["lib.rs", "main.rs"].map(|name| source.join(name)).into_iter().chain(programs);
    roots.filter(|path| path.is_file()).collect()
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut result = Self::default();
        result.add(Vec::new(), root, root.parent().unwrap());
        result
    }

    /// Adds a module and its children, whose files are in `children`.
    fn add(&mut self, path: ModulePath, file: &Path, children: &Path) {
        let source = RustSource::parse(&fs::read_to_string(file).unwrap());
        for name in &source.modules {
            let (flat, nested) = (children.join(format!("{name}.rs")), children.join(name).join("mod.rs"));
            let child = [path.clone(), vec![name.clone()]].concat();
            match (flat.is_file(), nested.is_file()) {
                (true, _) => self.add(child, &flat, &children.join(name)),
                (_, true) => self.add(child, &nested, &children.join(name)),
                // Declared in an inline module.
                _ => {}
            }
        }
        self.modules.insert(path, Module { file: file.to_owned(), source });
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        for (path, module) in &self.modules {
            let is_facade = ["lib.rs", "main.rs", "mod.rs"].iter().any(|name| module.file.ends_with(name));
            let aliases: BTreeMap<&str, ModulePath> = module
                .source
                .imports
                .iter()
                .filter_map(|import| Some((import.name.as_str(), self.as_module(path, &import.path)?)))
                .collect();
            let imported = module.source.imports.iter().filter(|import| !(is_facade && import.is_public));
            // An imported module is an edge only where it is used: `use crate::a; a::b::f()` leads to `b`.
            let imported = imported.filter(|import| !aliases.contains_key(import.name.as_str()));
            let used = module.source.paths.iter().map(|used| self.resolve_used(path, &aliases, used));
            let targets = imported
                .map(|import| (self.absolute(path, &import.path.segments), import.path.line))
                .chain(used.zip(module.source.paths.iter().map(|used| used.line)));
            for (target, line) in targets {
                let Some(file) = target.and_then(|target| self.defining_file(&target, 0)) else { continue };
                if file != module.file {
                    graph.entry(module.file.clone()).or_default().entry(file).or_insert(line);
                }
            }
        }
        graph
    }

    fn resolve_used(
        &self,
        module: &ModulePath,
        aliases: &BTreeMap<&str, ModulePath>,
        used: &UsedPath,
    ) -> Option<ModulePath> {
        match aliases.get(used.segments[0].as_str()) {
            Some(alias) => Some([alias.as_slice(), &used.segments[1..]].concat()),
            None => self.absolute(module, &used.segments),
        }
    }

    /// The module to which an import leads, if it leads to a module.
    fn as_module(&self, module: &ModulePath, path: &UsedPath) -> Option<ModulePath> {
        self.absolute(module, &path.segments).filter(|path| self.modules.contains_key(path))
    }

    /// The path from the root of the crate, or None for a path to another crate or a local name.
    fn absolute(&self, module: &ModulePath, segments: &[String]) -> Option<ModulePath> {
        let mut base = module.clone();
        let mut rest = segments;
        match rest[0].as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                base.pop();
            }
            name => {
                base.push(name.to_owned());
                return self.modules.contains_key(&base).then(|| [base.as_slice(), &segments[1..]].concat());
            }
        }
        rest = &rest[1..];
        while rest.first().is_some_and(|segment| segment == "super") {
            base.pop();
            rest = &rest[1..];
        }
        Some([base.as_slice(), rest].concat())
    }

    /// The file of the deepest module in a path; re-exports in that module are followed.
    fn defining_file(&self, path: &ModulePath, depth: usize) -> Option<PathBuf> {
        let length = (0..=path.len()).rev().find(|&length| self.modules.contains_key(&path[..length]))?;
        let (owner, module) = (path[..length].to_vec(), &self.modules[&path[..length]]);
        if let Some(name) = path.get(length)
            && depth < 8
        {
            let public = || module.source.imports.iter().filter(|import| import.is_public);
            let follow = |import: &Import| {
                let target = self.absolute(&owner, &import.path.segments)?;
                self.defining_file(&[target.as_slice(), &path[length + 1..]].concat(), depth + 1)
            };
            if let Some(file) = public().find(|import| import.name == *name).and_then(follow) {
                return Some(file);
            }
        }
        Some(module.file.clone())
    }
}

/// A description of every group of files in which each file reaches each other.
fn cycles_in(graph: &Graph) -> Vec<String> {
    let reachable = |start: &PathBuf| {
        let mut found = BTreeSet::new();
        let mut next = vec![start];
        while let Some(file) = next.pop() {
            for target in graph.get(file).into_iter().flatten().map(|(target, _)| target) {
                if found.insert(target.clone()) {
                    next.push(target);
                }
            }
        }
        found
    };
    let reached: BTreeMap<&PathBuf, BTreeSet<PathBuf>> = graph.keys().map(|file| (file, reachable(file))).collect();
    let mut groups = BTreeSet::new();
    for (file, targets) in &reached {
        let group: BTreeSet<&PathBuf> = reached
            .keys()
            .filter(|other| targets.contains(**other) && reached[**other].contains(*file))
            .copied()
            .collect();
        if group.len() > 1 {
            groups.insert(group);
        }
    }
    groups.into_iter().map(|group| describe(graph, &group)).collect()
}

fn describe(graph: &Graph, group: &BTreeSet<&PathBuf>) -> String {
    let short = |file: &Path| file.strip_prefix(files::root()).unwrap_or(file).display().to_string();
    let edges = group.iter().flat_map(|file| graph[*file].iter().map(move |(target, line)| (file, target, line)));
    let edges = edges.filter(|(_, target, _)| group.contains(target));
    let edges: Vec<_> =
        edges.map(|(file, target, line)| format!("{}:{line} imports {}", short(file), short(target))).collect();
    edges.join("\n") + "\n"
}

#[test]
fn cycle_through_reexport_is_found() {
    let scratch = couponry_testbed::scratch::Scratch::new("import-graph").unwrap();
    let write = |name: &str, text: &str| fs::write(scratch.path().join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use b::B;\n");
    write("a.rs", "use crate::B;\npub struct A;\n");
    write("b.rs", "\npub struct B(super::a::A);\n");
    write("c.rs", "use crate::a;\nfn f() -> a::A { a::A }\n");
    let cycles = cycles_in(&Crate::read(&scratch.path().join("lib.rs")).graph());
    let dir = scratch.path().display();
    assert_eq!(cycles, [format!("{dir}/a.rs:1 imports {dir}/b.rs\n{dir}/b.rs:2 imports {dir}/a.rs\n")]);
}
