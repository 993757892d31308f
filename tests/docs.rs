//! The documents agree with the project: paths exist, links resolve, flags are those of the program, the README is
//! short.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders whose paths are checked. Others, such as `runs/` and `data/`, are a user's.
const FOLDERS: [&str; 9] = ["src", "kernels", "tests", "benches", "docs", "scripts", "examples", ".ci", ".github"];

/// Endings of source files and documents, which are checked without a folder, too.
const ENDINGS: [&str; 7] = [".rs", ".cu", ".cuh", ".md", ".py", ".cpp", ".cff"];

/// Folders in which a file without one may lie, beside that of the document.
const PLACES: [&str; 4] = ["", "src", "kernels", "benches/peers"];

/// Flags of cargo and of other programs that the documents name.
const OTHER_FLAGS: [&str; 12] = [
    "--all-targets",
    "--bench",
    "--benches",
    "--example",
    "--lib",
    "--logdir",
    "--no-deps",
    "--release",
    "--test",
    "--tests",
    "--ignored",
    "--nocapture",
];

/// Files that the build generates.
const GENERATED: [&str; 1] = ["abi.cuh"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files of a folder with an ending, as paths from the root.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut paths: Vec<_> =
        names.filter(|name| name.ends_with(ending)).map(|name| format!("{folder}/{name}")).collect();
    paths.sort();
    paths
}

fn documents() -> Vec<String> {
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(String::from);
    let guides =
        ["kernels/README.md", "tests/fake_driver/README.md", "benches/peers/README.md", "benches/results/README.md"];
    top.into_iter().chain(files("docs", ".md")).chain(guides.map(String::from)).collect()
}

/// The words of a text that may be paths or flags.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || "_-./<>*{}".contains(c));
    text.split(ends).map(|word| word.trim_end_matches(['.', '-']))
}

/// True of words that stand for other words: `kernels/<family>.cu`, `evaluation-NAME`, `driver_*.cpp`.
fn is_placeholder(word: &str) -> bool {
    let names =
        ["README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG", "CITATION", "LICENSE", "GLOSSARY", "MIT", "APACHE"];
    let capitals = |part: &str| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase());
    word.contains(['<', '>', '*', '{', '}'])
        || word.split(['/', '.', '-', '_']).any(|part| capitals(part) && !names.contains(&part))
}

/// True of words that name a file or folder of the project.
fn is_path(word: &str) -> bool {
    let in_folder = word.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder));
    let has_ending = ENDINGS.iter().any(|ending| word.len() > ending.len() && word.ends_with(ending));
    (in_folder || has_ending) && !is_placeholder(word) && !word.starts_with('/')
}

/// The paths in `text` that are neither in the document's folder nor in one of [`PLACES`].
fn missing(document: &str, text: &str) -> Vec<String> {
    let own = Path::new(document).parent().unwrap();
    let exists =
        |word: &str| PLACES.iter().map(Path::new).chain([own]).any(|place| root().join(place).join(word).exists());
    words(text)
        .filter(|word| is_path(word) && !GENERATED.contains(word) && !exists(word))
        .map(|word| format!("{document}: {word}"))
        .collect()
}

#[test]
fn paths_in_documents_exist() {
    let missing: Vec<_> = documents().iter().flat_map(|document| missing(document, &read(document))).collect();
    assert!(missing.is_empty(), "no such file:\n{}", missing.join("\n"));
}

#[test]
fn paths_in_the_library_s_overview_exist() {
    let text = read("src/lib.rs");
    let overview: String = text.lines().filter(|line| line.starts_with("//!")).collect::<Vec<_>>().join("\n");
    let missing = missing("src/lib.rs", &overview.replace("//!", ""));
    assert!(missing.is_empty(), "no such file:\n{}", missing.join("\n"));
}

/// The targets of `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// The anchors of a document's headings, as hosts of repositories make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: char| (c.is_alphanumeric() || " -_".contains(c)).then_some(if c == ' ' { '-' } else { c });
    headings.map(|heading| heading.to_lowercase().chars().filter_map(kept).collect()).collect()
}

#[test]
fn links_between_documents_resolve() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        for target in links(&text).filter(|target| !target.starts_with("http")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = match path {
                "" => PathBuf::from(&document),
                _ => Path::new(&document).parent().unwrap().join(path),
            };
            let found = root().join(&to).exists()
                && (anchor.is_empty() || anchors(&read(to.to_str().unwrap())).iter().any(|known| known == anchor));
            if !found {
                broken.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// Text of `maxmargin help COMMAND`.
fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_maxmargin")).arg("help").args(command).output().unwrap();
    assert!(output.status.success(), "help {command:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn flags(text: &str) -> impl Iterator<Item = String> {
    words(text).filter(|word| word.starts_with("--") && word.len() > 2).map(|flag| flag.replace('_', "-"))
}

#[test]
fn flags_in_documents_are_flags_of_the_program() {
    let overview = help(&[]);
    let commands = overview.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A command's line is indented by two columns; the lines on which its description goes on are indented further.
    let names = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let commands: Vec<_> = names.filter(|name| !["", "help"].contains(name)).collect();
    assert!(commands.contains(&"train"), "{overview}");
    let mut known: BTreeSet<String> =
        commands.iter().flat_map(|command| flags(&help(&[command])).collect::<Vec<_>>()).collect();
    known.extend(flags(&overview));
    known.extend(OTHER_FLAGS.map(String::from));
    // The scripts' own flags stand in their sources.
    let scripts =
        ["scripts/gpu-bundle", "scripts/gpu-check", "scripts/fetch-data", "benches/peers/compare"].map(String::from);
    for script in scripts.into_iter().chain(files("benches/peers", ".py")) {
        known.extend(flags(&read(&script)));
    }
    let unknown: Vec<_> = documents()
        .iter()
        .flat_map(|document| flags(&read(document)).map(move |flag| format!("{document}: {flag}")).collect::<Vec<_>>())
        .filter(|line| !known.contains(line.split(": ").nth(1).unwrap()))
        .collect();
    assert!(unknown.is_empty(), "no such flag:\n{}", unknown.join("\n"));
}

/// The excerpts of a document: the lines of code blocks that begin with a comment that names a file of the project.
fn excerpts(text: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    blocks.filter_map(|(_, block)| {
        let (first, lines) = block.split_once('\n')?;
        let path = first.strip_prefix("// ").filter(|path| is_path(path))?;
        Some((path, lines.lines().map(str::trim).filter(|line| !line.is_empty() && *line != "..").collect()))
    })
}

#[test]
fn excerpts_in_documents_are_lines_of_the_files_they_name() {
    let mut count = 0;
    for document in documents() {
        for (path, lines) in excerpts(&read(&document)) {
            let source = read(path);
            let mut rest = source.lines().map(str::trim);
            for line in lines {
                assert!(rest.any(|found| found == line), "{document}: no line of {path}, or in another order: {line}");
            }
            count += 1;
        }
    }
    assert!(count > 0, "docs/extending.md has excerpts");
}

#[test]
fn every_check_of_an_evaluation_has_a_section() {
    let source = read("src/evaluate/checks.rs");
    let table = source.split("pub const CHECKS").nth(1).and_then(|rest| rest.split("];").next()).expect("a table");
    let names = table.lines().filter_map(|line| line.trim().strip_prefix("name: \"")?.strip_suffix("\","));
    let names: Vec<&str> = names.collect();
    let sections = anchors(&read("docs/checks.md"));
    let missing: Vec<_> = names.iter().filter(|name| !sections.iter().any(|section| section == *name)).collect();
    assert!(!names.is_empty() && missing.is_empty(), "docs/checks.md has no section for {missing:?} of {names:?}");
}

/// A visit to a GPU is a folder of its own; every record is JSON.
#[test]
fn every_recorded_figure_has_a_line_with_its_machine_and_commit() {
    let index = read("benches/results/README.md");
    for record in files("benches/results", "").iter().filter(|path| !path.ends_with("README.md")) {
        let is_visit = root().join(record).is_dir();
        let name = record.strip_prefix("benches/results/").unwrap().to_owned() + if is_visit { "/" } else { "" };
        assert!(index.contains(&format!("\n| `{name}` | ")), "benches/results/README.md has no line of {name}");
        for json in if is_visit { files(record, "") } else { vec![record.clone()] } {
            serde_json::from_str::<serde_json::Value>(&read(&json)).unwrap_or_else(|error| panic!("{json}: {error}"));
        }
        if is_visit {
            let visit: serde_json::Value = serde_json::from_str(&read(&format!("{record}/gpu-check.json"))).unwrap();
            let commit = visit["commit"].as_str().unwrap();
            let line = index.lines().find(|line| line.starts_with(&format!("| `{name}` | "))).unwrap();
            for fact in [visit["driver"].as_str().unwrap(), &commit[..7]] {
                assert!(line.contains(fact), "{name}: its line does not name {fact}");
            }
        }
    }
}

#[test]
fn the_glossary_explains_each_term_once() {
    let glossary = read("docs/GLOSSARY.md");
    let cells = glossary.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let terms: Vec<&str> =
        cells.filter(|cell| !["term", "---"].contains(cell)).flat_map(|cell| cell.split(", ")).collect();
    let twice: Vec<_> = (1..terms.len()).filter(|&i| terms[..i].contains(&terms[i])).map(|i| terms[i]).collect();
    assert!(terms.len() > 100 && twice.is_empty(), "{} terms, of which more than once: {twice:?}", terms.len());
}

#[test]
fn the_readme_has_at_most_250_lines() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 250, "{lines} lines");
}

#[test]
fn a_path_that_is_not_there_is_found() {
    let text = "`src/lib.rs`, kernels/<family>.cu, src/no_such_file.rs; evaluation-NAME/images.csv, `no_such.cuh`.";
    assert_eq!(missing("README.md", text), ["README.md: src/no_such_file.rs", "README.md: no_such.cuh"]);
    assert_eq!(anchors("## The whole of MNIST\n### It's `x-y`"), ["the-whole-of-mnist", "its-x-y"]);
}

/// Words with which no comment begins: a comment names the thing that it documents, or says what it does.
const OPENINGS: [&str; 6] = ["What ", "How ", "Whether ", "Where ", "Of ", "Which "];

/// Source files below a folder of the project.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ["rs", "cu", "cuh", "h", "cpp"].iter().any(|e| ending == *e)) {
            into.push(path);
        }
    }
}

#[test]
fn comments_begin_with_a_noun_or_a_verb() {
    let mut files = vec![root().join("build.rs")];
    ["src", "kernels", "tests", "benches", "examples"]
        .iter()
        .for_each(|folder| sources(&root().join(folder), &mut files));
    let text =
        |line: &str| Some(line.trim().strip_prefix("//")?.trim_start_matches(['/', '!']).trim_start().to_owned());
    let mut wrong = Vec::new();
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let mut before: Option<String> = None;
        for (number, line) in source.lines().enumerate() {
            let comment = text(line);
            // The first line of a paragraph: later ones may continue a sentence.
            let first = before.as_ref().is_none_or(String::is_empty);
            if first && comment.as_ref().is_some_and(|comment| OPENINGS.iter().any(|word| comment.starts_with(word))) {
                wrong.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
            before = comment;
        }
    }
    assert!(wrong.is_empty(), "comments that begin with one of {OPENINGS:?}:\n{}", wrong.join("\n"));
}
