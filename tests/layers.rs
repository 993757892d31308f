//! Structure of the crate, read from its source: a module uses those that `src/lib.rs` names in section "Who may use
//! whom", no two files use each other, not even over others, and no two types have the same name.
//!
//! A file uses the items that its `use` declarations name, and those of paths that begin with `crate::`. A module that
//! only re-exports an item (`pub use`) does not use it; the importer uses the file that defines it. Items under
//! `#[cfg(test)]` are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Item, ItemUse, UseTree, Visibility};

/// A path in the crate, from its root: `["attack", "pgd", "Pgd"]`.
type Segments = Vec<String>;

/// A source file as a module.
struct Module {
    file: PathBuf,
    /// Items of other modules that the file names.
    used: Vec<Segments>,
    /// Types that the file defines.
    types: Vec<String>,
    /// Names that this module re-exports, with their origin. The name of a glob is `*`.
    reexports: Vec<(String, Segments)>,
}

/// Every module of the crate, by its path.
struct Modules(BTreeMap<Segments, Module>);

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Types that a file defines outside of functions, also by a macro such as `choices!`.
fn types(syntax: &syn::File) -> Vec<String> {
    let defined = |item: &Item| match item {
        Item::Struct(item) if !is_test_only(&item.attrs) => vec![item.ident.to_string()],
        Item::Enum(item) if !is_test_only(&item.attrs) => vec![item.ident.to_string()],
        Item::Trait(item) if !is_test_only(&item.attrs) => vec![item.ident.to_string()],
        Item::Type(item) if !is_test_only(&item.attrs) => vec![item.ident.to_string()],
        Item::Macro(item) if item.ident.is_none() => {
            let tokens: Vec<String> = item.mac.tokens.clone().into_iter().map(|token| token.to_string()).collect();
            let pairs = tokens.windows(2).filter(|pair| pair[0] == "enum" || pair[0] == "struct");
            pairs.map(|pair| pair[1].clone()).collect()
        }
        _ => Vec::new(),
    };
    syntax.items.iter().flat_map(defined).collect()
}

/// Path of a file as a module: `attack/mod.rs` is `attack`, `attack/pgd.rs` is `attack::pgd`, `lib.rs` is the root.
fn module_path(file: &Path) -> Segments {
    let inside = file.strip_prefix(source()).unwrap().with_extension("");
    let mut segments: Segments = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if segments.last().is_some_and(|last| last == "mod" || last == "lib") {
        segments.pop();
    }
    segments
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// Leaves of a `use` tree: the name that each gets, and its segments as they are written.
fn leaves(tree: &UseTree, before: &[String], into: &mut Vec<(String, Segments)>) {
    let extended = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => leaves(&path.tree, &extended(&path.ident), into),
        UseTree::Group(group) => group.items.iter().for_each(|item| leaves(item, before, into)),
        UseTree::Name(name) if name.ident == "self" => {
            into.push((before.last().cloned().unwrap_or_default(), before.to_vec()));
        }
        UseTree::Name(name) => into.push((name.ident.to_string(), extended(&name.ident))),
        UseTree::Rename(rename) => into.push((rename.rename.to_string(), extended(&rename.ident))),
        UseTree::Glob(_) => into.push(("*".into(), before.to_vec())),
    }
}

/// Paths in the text of a file, beyond its `use` declarations, that begin with `crate::`.
fn inline_paths(text: &str) -> Vec<Segments> {
    let code =
        text.lines().filter(|line| !line.trim_start().starts_with("//") && !line.trim_start().starts_with("use "));
    let code = code.collect::<Vec<_>>().join("\n");
    let name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| name(c) || c == '$') {
            continue;
        }
        let path: String = code[at + "crate::".len()..].chars().take_while(|&c| name(c) || c == ':').collect();
        found.push(path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect());
    }
    found
}

impl Modules {
    fn read() -> Modules {
        let mut files = Vec::new();
        rust_files(&source(), &mut files);
        let texts: Vec<(Segments, PathBuf, String)> = files
            .into_iter()
            .filter(|file| *file != source().join("main.rs"))
            .map(|file| (module_path(&file), file.clone(), fs::read_to_string(&file).unwrap()))
            .collect();
        let modules: BTreeSet<Segments> = texts.iter().map(|(path, ..)| path.clone()).collect();
        let test_only: BTreeSet<Segments> = texts.iter().flat_map(|(path, _, text)| test_modules(path, text)).collect();
        let read = |(path, file, text): (Segments, PathBuf, String)| {
            if test_only.iter().any(|test| path.starts_with(test)) {
                return None;
            }
            let syntax = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let mut module = Module { file, used: Vec::new(), types: types(&syntax), reexports: Vec::new() };
            for item in &syntax.items {
                if let Item::Use(declaration) = item
                    && !is_test_only(&declaration.attrs)
                {
                    module.add(&path, declaration, &modules);
                }
            }
            let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
            module.used.extend(inline_paths(&text[..tests]));
            Some((path, module))
        };
        Modules(texts.into_iter().filter_map(read).collect())
    }

    /// The module whose file defines the item at `path`; `None` for items of other crates.
    fn origin(&self, path: &[String]) -> Option<Segments> {
        let mut at: Segments = Vec::new();
        for (depth, segment) in path.iter().enumerate() {
            let child = [&at[..], std::slice::from_ref(segment)].concat();
            if self.0.contains_key(&child) {
                at = child;
                continue;
            }
            let module = &self.0[&at];
            let named = module.reexports.iter().find(|(name, _)| name == segment);
            if let Some((_, origin)) = named {
                let onwards = [&origin[..], &path[depth + 1..]].concat();
                return self.origin(&onwards);
            }
            break;
        }
        self.0.contains_key(&at).then_some(at)
    }

    /// Each module with those whose items it uses.
    fn edges(&self) -> BTreeMap<Segments, BTreeSet<Segments>> {
        let of = |(path, module): (&Segments, &Module)| {
            let origins = module.used.iter().filter_map(|used| self.origin(used));
            (path.clone(), origins.filter(|origin| origin != path).collect())
        };
        self.0.iter().map(of).collect()
    }
}

/// Modules that a file declares for tests alone.
fn test_modules(path: &Segments, text: &str) -> Vec<Segments> {
    let syntax = syn::parse_file(text).expect("the source compiles");
    let of = |item: &Item| match item {
        Item::Mod(module) if module.content.is_none() && is_test_only(&module.attrs) => {
            Some([&path[..], &[module.ident.to_string()]].concat())
        }
        _ => None,
    };
    syntax.items.iter().filter_map(of).collect()
}

impl Module {
    /// Adds what a `use` declaration in the module at `path` names.
    fn add(&mut self, path: &Segments, declaration: &ItemUse, modules: &BTreeSet<Segments>) {
        let mut ends = Vec::new();
        leaves(&declaration.tree, &[], &mut ends);
        for (name, segments) in ends {
            let mut parent = path.clone();
            let absolute = match segments[0].as_str() {
                "crate" => segments[1..].to_vec(),
                "self" => [path, &segments[1..]].concat(),
                "super" => {
                    let ups = segments.iter().take_while(|segment| *segment == "super").count();
                    parent.truncate(path.len() - ups);
                    [&parent, &segments[ups..]].concat()
                }
                first if modules.contains(&[&path[..], &[first.to_owned()]].concat()) => {
                    [&path[..], &segments].concat()
                }
                _ => continue, // another crate's
            };
            match declaration.vis {
                Visibility::Inherited => self.used.push(absolute),
                _ => self.reexports.push((name, absolute)),
            }
        }
    }
}

fn joined(path: &[String]) -> String {
    if path.is_empty() { "lib".into() } else { path.join("::") }
}

/// Modules that `from` uses, directly or over others.
fn reached(edges: &BTreeMap<Segments, BTreeSet<Segments>>, from: &Segments) -> BTreeSet<Segments> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&Segments> = edges[from].iter().collect();
    while let Some(module) = next.pop() {
        if found.insert(module.clone()) {
            next.extend(&edges[module]);
        }
    }
    found
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let modules = Modules::read();
    let edges = modules.edges();
    let reached: BTreeMap<&Segments, BTreeSet<Segments>> =
        edges.keys().map(|module| (module, reached(&edges, module))).collect();
    // A file is in a circle with the files that it reaches and that reach it.
    let line = |(path, used): (&Segments, &BTreeSet<Segments>)| {
        let back: Vec<_> =
            used.iter().filter(|other| reached[other].contains(path)).map(|other| joined(other)).collect();
        (!back.is_empty()).then(|| format!("{} uses {}", modules.0[path].file.display(), back.join(", ")))
    };
    let circles: Vec<String> = edges.iter().filter_map(line).collect();
    assert!(circles.is_empty(), "files that use each other in a circle:\n{}", circles.join("\n"));
}

#[test]
fn modules_use_those_that_the_map_names_and_no_others() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, used) in Modules::read().edges() {
        let Some(top) = path.first() else { continue };
        let others = used.iter().filter_map(|used| used.first()).filter(|used| *used != top).cloned();
        found.entry(top.clone()).or_default().extend(others);
    }
    let map = map();
    let list = |modules: &BTreeSet<String>| modules.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    for (module, used) in &found {
        let Some(allowed) = map.get(module) else {
            panic!("src/lib.rs, \"Who may use whom\": no line for {module}, which uses {}", list(used));
        };
        assert_eq!(list(used), list(allowed), "{module} uses (left), and may by the map in src/lib.rs (right)");
    }
    assert_eq!(
        map.keys().collect::<Vec<_>>(),
        found.keys().collect::<Vec<_>>(),
        "modules of the map, and of the crate"
    );
}

/// Map of `src/lib.rs`: lines `module   other, other` of the block below "Who may use whom"; `-` for none. A line that
/// begins with a space continues the one before.
fn map() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let section = text.split("# Who may use whom").nth(1).expect("src/lib.rs has a section \"Who may use whom\"");
    let block =
        section.split("```text").nth(1).and_then(|rest| rest.split("```").next()).expect("with a block of text");
    let lines = block.replace("\n//!  ", " ");
    let lines = lines.lines().map(|line| line.trim_start_matches("//!").trim()).filter(|line| !line.is_empty());
    let entry = |line: &str| {
        let (module, used) = line.split_once(char::is_whitespace).expect("a module and those that it uses");
        let used = used.split(',').map(str::trim).filter(|used| *used != "-");
        (module.to_owned(), used.map(str::to_owned).collect())
    };
    lines.map(entry).collect()
}

#[test]
fn no_two_types_have_the_same_name() {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for module in Modules::read().0.values() {
        for name in &module.types {
            files.entry(name.clone()).or_default().push(module.file.display().to_string());
        }
    }
    assert!(files.contains_key("PgdSettings") && files.contains_key("DatasetKind") && files.contains_key("Config"));
    let twice: Vec<_> = files.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(twice.is_empty(), "types of one name: {twice:#?}");
}

#[test]
fn a_path_leads_to_the_file_that_defines_it() {
    let modules = Modules::read();
    let origin = |path: &str| {
        let segments: Segments = path.split("::").map(str::to_owned).collect();
        modules.origin(&segments).map(|path| joined(&path))
    };
    assert_eq!(origin("attack::pgd::Pgd").as_deref(), Some("attack::pgd"));
    assert_eq!(origin("attack::Pgd").as_deref(), Some("attack::pgd"), "re-exported by attack/mod.rs");
    assert_eq!(origin("Error").as_deref(), Some("error"), "re-exported by lib.rs");
}
