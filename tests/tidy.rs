//! The layout rules of ARCHITECTURE.md, checked on the text of the source; the documents' lengths
//! and links.
//!
//! It knows nothing of the crate and needs no parser: the formatter has put what it looks for at
//! the beginning of lines. Product lines are those before a file's `mod tests`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/worker.rs"]
mod worker;

const LINE_WIDTH_MAX: usize = 100;
const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 60;

/// Documents whose readers are in a hurry.
const DOCUMENT_LINES_MAX: [(&str, usize); 2] = [("README.md", 200), ("ARCHITECTURE.md", 250)];

/// A comment that allows a file or a function to be longer, with the reason behind it:
/// `// tidy: long, because ...` at the head of the file or above the function.
const EXEMPTION: &str = "// tidy: long, because ";

/// Layers, from the operating system up; a module imports only from lower ones, or its own.
const LAYERS: [&[&str]; 6] = [
    &["sys", "probe"],
    &[
        "diagnostics",
        "identity",
        "prefix",
        "yaml",
        "config",
        "registry::service_entry",
        "registry::snapshot",
        "workload",
        "relay",
        "sniff",
        "judge",
        "http1",
        "http2",
        "upstream_guard",
    ],
    &[
        "registry",
        "metrics",
        "access_log",
        "drain",
        "commands",
        "questions",
        "load",
        "admission",
        "failed_addresses",
        "gate",
    ],
    &["worker", "control"],
    &["app", "check"],
    &["main", "lib"],
];

/// Values in, values out: no sockets, no clocks, no threads, no files.
const PURE: [&str; 14] = [
    "identity",
    "prefix",
    "yaml",
    "config",
    "registry::service_entry",
    "registry::snapshot",
    "workload",
    "relay",
    "sniff",
    "judge",
    "http1",
    "http2",
    "gate",
    "upstream_guard",
];
const IMPURE: [&str; 8] = [
    "std::fs",
    "std::thread",
    "std::net::Tcp",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "Instant::now",
    "SystemTime::now",
];

/// Beside `src/sys`: the runtimes that the baselines are written for lend no borrowed descriptor.
const UNSAFE_OUTSIDE_SYS: &str = "perf/baselines/src/lib.rs";

#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// The module's path: `worker::accept`.
    module: String,
    text: String,
}

impl Source {
    /// Nothing in it is part of the product.
    fn is_test(&self) -> bool {
        let name = self.path.file_stem().unwrap_or_default();
        name == "tests"
            || name == "testing"
            || self
                .path
                .components()
                .any(|c| c.as_os_str() == "tests" || c.as_os_str() == "testing")
    }

    /// The lines of the product, with their numbers.
    fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let none = self.is_test();
        (1..)
            .zip(self.text.lines())
            .take_while(move |(_, line)| !none && !line.starts_with("mod tests {"))
    }

    fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// The layer of the first prefix of the module's path that the table names.
    fn layer(&self) -> Option<usize> {
        layer_of(&self.module).map(|(layer, _)| layer)
    }
}

/// The layer of a path such as `registry::snapshot::Verdict`, and the module that has it.
fn layer_of(path: &str) -> Option<(usize, &'static str)> {
    let matches = |module: &str| {
        path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let named = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(layer, modules)| modules.iter().map(move |module| (layer, *module)));
    named.filter(|(_, module)| matches(module)).max_by_key(|(_, module)| module.len())
}

fn sources_under(directory: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let mut directories = vec![root.join(directory)];
    while let Some(directory_path) = directories.pop() {
        for entry in fs::read_dir(&directory_path).expect("the repository can be read") {
            let path = entry.expect("the repository can be read").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("the repository can be read");
                let path = path.strip_prefix(root).expect("it is below").to_owned();
                let inside = path.strip_prefix(directory).expect("it is below");
                let module = inside.with_extension("").to_string_lossy().replace('/', "::");
                sources.push(Source { path, module, text });
            }
        }
    }
    assert!(sources.len() > 10, "only {} files under {directory}", sources.len());
    sources
}

fn product() -> Vec<Source> {
    sources_under("src")
}

fn everything() -> Vec<Source> {
    let mut all = product();
    all.extend(sources_under("tests"));
    all.extend(sources_under("perf"));
    all
}

fn report(rule: &str, offences: &BTreeSet<String>) {
    let list = offences.iter().map(String::as_str).collect::<Vec<_>>().join("\n  ");
    assert!(offences.is_empty(), "{rule}:\n  {list}");
}

/// `crate::` paths in a line, without the `crate::`; braces are opened up.
fn crate_paths(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let mut paths = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        let rest = &code[start + "crate::".len()..];
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches(':');
        let group = rest[end..].strip_prefix('{').and_then(|group| group.split('}').next());
        match group {
            Some(names) => paths.extend(names.split(',').map(|name| {
                let name = name.trim();
                if path.is_empty() { name.to_owned() } else { format!("{path}::{name}") }
            })),
            None => paths.push(path.to_owned()),
        }
    }
    paths
}

/// Statements that the formatter has spread over lines, put together again.
fn joined_imports(source: &Source) -> Vec<(usize, String)> {
    let mut statements: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in source.product_lines() {
        match statements.last_mut() {
            Some((_, statement)) if open => statement.push_str(line.trim()),
            _ => statements.push((number, line.to_owned())),
        }
        let begins = line.trim_start().trim_start_matches("pub ").starts_with("use ");
        open = (open || begins) && !line.trim_end().ends_with(';');
    }
    statements
}

#[test]
fn a_module_imports_only_from_lower_layers() {
    let mut offences = BTreeSet::new();
    let mut imports = 0;
    for source in product().iter().filter(|source| !source.is_test()) {
        let Some(own) = layer_of(&source.module) else {
            offences.insert(format!("{}: {} has no layer", source.path.display(), source.module));
            continue;
        };
        for (number, statement) in joined_imports(source) {
            for path in crate_paths(&statement) {
                let Some(other) = layer_of(&path) else { continue };
                imports += 1;
                // A layer's own modules may know each other, except the siblings of worker.
                let allowed = match own.0 {
                    3 => other.0 < own.0 || other.1 == own.1,
                    layer => other.0 <= layer,
                };
                if !allowed {
                    let at = source.at(number);
                    offences.insert(format!("{at}: {} imports {path}", source.module));
                }
            }
        }
    }
    assert!(imports > 10, "only {imports} imports seen");
    report("imports from a higher layer, or from a sibling", &offences);
}

#[test]
fn pure_modules_touch_no_socket_clock_thread_or_file() {
    let mut offences = BTreeSet::new();
    let mut seen = 0;
    for source in product() {
        let module = layer_of(&source.module).map(|(_, module)| module);
        if !module.is_some_and(|module| PURE.contains(&module)) {
            continue;
        }
        seen += 1;
        for (number, line) in source.product_lines() {
            let code = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| code.contains(**word)) {
                offences.insert(format!("{}: {word}", source.at(number)));
            }
        }
    }
    assert!(seen >= 4, "only {seen} pure modules found");
    report("pure modules", &offences);
}

#[test]
fn unsafe_stays_in_sys() {
    let mut offences = BTreeSet::new();
    let mut found_in_sys = 0;
    for source in everything() {
        let in_sys = source.path.starts_with("src") && source.layer() == Some(0);
        for (number, line) in (1..).zip(source.text.lines()) {
            let code = line.split("//").next().unwrap_or_default();
            let is_unsafe =
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| {
                    code.trim_start().starts_with(word) || code.contains(&format!(" {word}"))
                });
            if is_unsafe && !code.contains('"') {
                if in_sys {
                    found_in_sys += 1;
                } else if source.path != Path::new(UNSAFE_OUTSIDE_SYS) {
                    offences.insert(source.at(number));
                }
            }
        }
    }
    assert!(found_in_sys > 0, "the check no longer recognises unsafe code");
    report("unsafe outside src/sys", &offences);
}

#[test]
fn every_file_says_what_it_is_for() {
    let offences = everything()
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path.display().to_string())
        .collect();
    report("files that do not open with //!", &offences);
}

#[test]
fn no_file_is_named_mod_rs() {
    let offences = everything()
        .iter()
        .filter(|source| source.path.ends_with("mod.rs"))
        .map(|source| source.path.display().to_string())
        .collect();
    report("mod.rs", &offences);
}

#[test]
fn lines_are_at_most_100_wide() {
    let mut offences = BTreeSet::new();
    for source in everything() {
        for (number, line) in (1..).zip(source.text.lines()) {
            let width = line.chars().count();
            if width > LINE_WIDTH_MAX {
                offences.insert(format!("{}: {width}", source.at(number)));
            }
        }
    }
    report("lines over 100 columns", &offences);
}

#[test]
fn files_have_at_most_400_product_lines() {
    let mut offences = BTreeSet::new();
    for source in everything() {
        let lines = source.product_lines().count();
        let exempt = source.text.lines().take(30).any(|line| line.starts_with(EXEMPTION));
        if lines > FILE_LINES_MAX && !exempt {
            offences.insert(format!("{}: {lines}", source.path.display()));
        }
    }
    report("files over 400 product lines", &offences);
}

#[test]
fn functions_have_at_most_60_lines() {
    let mut offences = BTreeSet::new();
    let mut functions = 0;
    for source in everything() {
        let lines: Vec<_> = source.product_lines().collect();
        for (index, (number, line)) in lines.iter().enumerate() {
            if !is_function(line) || !has_body(&lines[index..]) {
                continue;
            }
            functions += 1;
            // rustfmt puts the closing brace at the column of the first word.
            let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
            let closing = format!("{indent}}}");
            let length = lines[index..]
                .iter()
                .position(|(_, line)| *line == closing || line.ends_with("}") && is_one_line(line))
                .unwrap_or(0);
            let above = lines[..index].iter().rev().take(8);
            let exempt = above
                .take_while(|(_, line)| !line.trim().is_empty())
                .any(|(_, line)| line.trim_start().starts_with(EXEMPTION));
            if length + 1 > FUNCTION_LINES_MAX && !exempt {
                offences.insert(format!("{}: {}", source.at(*number), length + 1));
            }
        }
    }
    assert!(functions > 100, "only {functions} functions seen");
    report("functions over 60 lines", &offences);
}

fn is_function(line: &str) -> bool {
    let words = line.trim_start();
    let start = words.split("fn ").next().unwrap_or_default();
    words.contains("fn ")
        && start.split_whitespace().all(|word| {
            matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"")
                || word.starts_with("pub")
                || word.starts_with("super)")
                || word.starts_with("crate)")
        })
}

/// A function, and not the declaration of one in a trait.
fn has_body(lines: &[(usize, &str)]) -> bool {
    let ends = lines.iter().find_map(|(_, line)| {
        if line.contains('{') { Some(true) } else { line.ends_with(';').then_some(false) }
    });
    ends.unwrap_or(false)
}

/// A function whose body is on the line of its name.
fn is_one_line(line: &str) -> bool {
    is_function(line) && line.contains('{')
}

/// Every document of the repository: its path from the top, and its text.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("the repository can be read") {
            let path = entry.expect("the repository can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    directories.push(path);
                }
            } else if name.ends_with(".md") {
                let text = fs::read_to_string(&path).expect("the repository can be read");
                documents.push((path.strip_prefix(root).expect("it is below").to_owned(), text));
            }
        }
    }
    assert!(documents.len() > 10, "only {} documents found", documents.len());
    documents
}

/// The lines of a document outside of its code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The targets of the links in a line of prose: `](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |(_, line): (usize, &str)| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut offences, mut seen) = (BTreeSet::new(), 0);
    for (path, text) in documents() {
        for (number, line) in prose(&text) {
            for target in links(line).filter(|target| !target.contains("://")) {
                seen += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let linked = match file {
                    "" => root.join(&path),
                    file => root.join(path.parent().unwrap_or(Path::new(""))).join(file),
                };
                let has_anchor = || {
                    fs::read_to_string(&linked).is_ok_and(|text| anchors(&text).contains(anchor))
                };
                if !linked.exists() || !(anchor.is_empty() || has_anchor()) {
                    offences.insert(format!("{}:{number}: {target}", path.display()));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} links seen");
    report("links that lead nowhere", &offences);
}

#[test]
fn readme_and_architecture_are_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut offences = BTreeSet::new();
    for (name, lines_max) in DOCUMENT_LINES_MAX {
        let text = fs::read_to_string(root.join(name)).expect("the repository can be read");
        let lines = text.lines().count();
        if lines > lines_max {
            offences.insert(format!("{name}: {lines}, at most {lines_max}"));
        }
    }
    report("documents that are too long", &offences);
}
