//! Finds and reads the files, and puts the parts of one generation together.
//!
//! Used at start, at every reload and by `egret check`. [`Sources::read`] touches the file system
//! and decodes the configuration only, to find the other files; [`Sources::parse`] is pure. What
//! watches the files, and what becomes of the result, is the control plane's.
//!
//! The configuration is good as a whole, or there is no generation. Of the other files each
//! document is good or refused by itself; `merge` says what serves in the place of a refused one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foldhash::quality::FixedState;

use crate::config::Config;
use crate::diagnostics::{Diagnostic, Finding, Severity};
use crate::registry::service_entry::{self, Contents, ServiceEntry};
use crate::registry::snapshot::{Answers, Snapshot};
use crate::sniff::Name;
use crate::workload::Workloads;

mod merge;
mod pattern;

use merge::Merged;
pub use merge::Refused;
use pattern::PatternError;

/// Far above any real configuration; a larger file is not one.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// About 100 000 service entries as people write them; more can be spread over several files.
pub const REGISTRY_BYTES_MAX: u64 = 32 << 20;
/// Hosts and addresses, each times the ports of its entry, in all files: what a snapshot holds. Far
/// above what 100 000 entries claim; bounds the memory (about 350 MiB) that some large entries,
/// 256 hosts times 256 ports each, could take.
pub const CLAIMS_MAX: usize = 1_000_000;

/// Everything that one generation is made of, read from files. What names resolve to is not in it:
/// when an answer changes, the next snapshot is built from the same files.
#[derive(Debug)]
pub struct Loaded {
    /// The effective configuration.
    pub config: Arc<Config>,
    /// All service entries, whether they can match or not; of refused documents the versions that
    /// were in use.
    pub entries: Vec<ServiceEntry>,
    /// Who the sources are.
    pub workloads: Arc<Workloads>,
    /// The file that says so.
    pub workloads_file: Option<PathBuf>,
    /// What is not taken as the files have it, each for a reason in `diagnostics`.
    pub refused: Vec<Refused>,
    /// About the files, one by one: warnings, and an error for each refusal.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether any pattern of `registry` has matched a file.
    pub registry_files: RegistryFiles,
    /// All files read, sorted.
    pub files: Vec<PathBuf>,
    /// All directories in which a change can mean a new generation, sorted. They exist.
    pub directories: Vec<PathBuf>,
    /// Equal as long as the same files hold the same contents.
    pub fingerprint: u64,
}

/// What the patterns of `registry` have matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryFiles {
    /// There are none.
    NoPattern,
    /// No file.
    None,
    /// At least one file.
    Some,
}

impl Loaded {
    /// The snapshot with these `answers`. With it all diagnostics: those about the files, and
    /// warnings about what they mean together, such as two service entries that claim the same.
    #[must_use]
    pub fn build(&self, generation: u64, answers: &Answers) -> (Snapshot, Vec<Diagnostic>) {
        let (config, workloads) = (Arc::clone(&self.config), Arc::clone(&self.workloads));
        let (snapshot, warnings) =
            Snapshot::build(generation, config, &self.entries, workloads, answers);
        (snapshot, self.diagnostics.iter().cloned().chain(warnings).collect())
    }

    /// Whether all files of the registry are gone that `former` was read from: no registry without
    /// entries, but an unmounted volume, or a directory with another name.
    #[must_use]
    pub fn has_lost_registry(&self, former: &Self) -> bool {
        (former.registry_files, self.registry_files) == (RegistryFiles::Some, RegistryFiles::None)
    }

    /// The names whose addresses the service entries need.
    #[must_use]
    pub fn names_to_resolve(&self) -> BTreeSet<Name> {
        service_entry::names_to_resolve(&self.entries)
    }
}

/// Reads, parses and validates the configuration in `config_file` and all that it refers to. What
/// is refused stays as it is in `former`, the generation in use.
///
/// # Errors
/// Every diagnostic of the configuration, when at least one of them is an error.
pub fn load(config_file: &Path, former: Option<&Loaded>) -> Result<Loaded, Vec<Diagnostic>> {
    Sources::read(config_file).parse(former)
}

/// The contents of all files of one generation, before their meaning. Always complete enough to
/// watch and compare, so that a broken file is reported once and its repair is noticed.
#[derive(Debug)]
pub struct Sources {
    /// All files that were read or tried, sorted.
    pub files: Vec<PathBuf>,
    /// As in [`Loaded`].
    pub directories: Vec<PathBuf>,
    /// As in [`Loaded`]; a file that cannot be read counts with the reason.
    pub fingerprint: u64,
    config: Option<Config>,
    registry: Vec<(PathBuf, Text)>,
    workloads: Option<(PathBuf, Text)>,
    /// Of the configuration and its patterns.
    diagnostics: Vec<Diagnostic>,
}

/// The text of a file, or why it cannot be read.
type Text = Result<String, Diagnostic>;

impl Sources {
    /// Reads `config_file` and the files that it names, in sorted order.
    #[must_use]
    pub fn read(config_file: &Path) -> Self {
        let mut reader = Reader::default();
        reader.watch(parent(config_file));
        let text = reader.file(config_file, CONFIG_BYTES_MAX).map_err(|error| vec![error]);
        let parsed = text.and_then(|text| Config::parse(&text, config_file));
        let config = kept(parsed, &mut reader.diagnostics);
        let (mut registry, mut workloads) = (Vec::new(), None);
        if let Some(config) = &config {
            let mut paths = BTreeSet::new();
            for pattern in &config.registry {
                paths.extend(reader.matches(pattern, config_file));
            }
            for path in paths {
                let text = reader.file(&path, REGISTRY_BYTES_MAX);
                registry.push((path, text));
            }
            if let Some(path) = &config.workloads {
                reader.watch(parent(path));
                workloads = Some((path.clone(), reader.file(path, REGISTRY_BYTES_MAX)));
            }
        }
        Self {
            files: reader.files.into_iter().collect(),
            directories: reader.directories.into_iter().collect(),
            fingerprint: reader.hasher.finish(),
            config,
            registry,
            workloads,
            diagnostics: reader.diagnostics,
        }
    }

    /// What the contents mean; what is refused in them stays as it is in `former`.
    ///
    /// # Errors
    /// Every diagnostic of the configuration, when at least one of them is an error.
    pub fn parse(self, former: Option<&Loaded>) -> Result<Loaded, Vec<Diagnostic>> {
        let Self { files, directories, fingerprint, config, registry, workloads, .. } = self;
        let mut diagnostics = self.diagnostics;
        let is_refused = diagnostics.iter().any(|one| one.severity == Severity::Error);
        let Some(config) = config.filter(|_| !is_refused) else { return Err(diagnostics) };
        let registry_files = match registry.as_slice() {
            _ if config.registry.is_empty() => RegistryFiles::NoPattern,
            [] => RegistryFiles::None,
            _ => RegistryFiles::Some,
        };
        let contents = registry.into_iter().map(|(path, text)| {
            let contents = match text {
                Ok(text) => Contents::parse(&text, &path),
                Err(error) => Contents::unreadable(error),
            };
            (path, contents)
        });
        let in_use = former.map_or(&[][..], |former| &former.entries);
        let Merged { entries, mut refused, diagnostics: of_registry } =
            merge::registry(contents.collect(), in_use);
        diagnostics.extend(of_registry);
        let workloads_file = workloads.as_ref().map(|(path, _)| path.clone());
        let nobody = || Arc::new(Workloads::none(&config.cluster_id));
        let workloads = workloads.map(|(path, text)| {
            let parsed = text
                .map_err(|error| vec![error])
                .and_then(|text| Workloads::parse(&text, &path, &config.cluster_id));
            kept(parsed, &mut diagnostics).map(Arc::new).unwrap_or_else(|| {
                let former = former.filter(|one| one.workloads_file.as_ref() == Some(&path));
                refused.push(Refused::file(path, former.is_some()));
                former.map_or_else(nobody, |one| Arc::clone(&one.workloads))
            })
        });
        let workloads = workloads.unwrap_or_else(nobody);
        Ok(Loaded {
            config: Arc::new(config),
            entries,
            workloads,
            workloads_file,
            refused,
            diagnostics,
            registry_files,
            files,
            directories,
            fingerprint,
        })
    }
}

struct Reader {
    files: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    hasher: <FixedState as BuildHasher>::Hasher,
    diagnostics: Vec<Diagnostic>,
}

impl Default for Reader {
    fn default() -> Self {
        let hasher = FixedState::with_seed(0).build_hasher();
        let (files, directories, diagnostics) = Default::default();
        Self { files, directories, hasher, diagnostics }
    }
}

impl Reader {
    /// The text of the file at `path`.
    fn file(&mut self, path: &Path, bytes_max: u64) -> Text {
        self.files.insert(path.to_path_buf());
        let result = read(path, bytes_max);
        self.hasher.write(path.as_os_str().as_encoded_bytes());
        // The length keeps `a` + `bc` apart from `ab` + `c`.
        match &result {
            Ok(text) => {
                self.hasher.write_usize(text.len());
                self.hasher.write(text.as_bytes());
            }
            Err(finding) => self.hasher.write(finding.message.as_bytes()),
        }
        result.map_err(|finding| finding.diagnostic(Severity::Error, path))
    }

    /// The files that match `pattern`, a field of `config_file`.
    fn matches(&mut self, pattern: &str, config_file: &Path) -> Vec<PathBuf> {
        self.watch(pattern::fixed_prefix(pattern));
        let mut paths = Vec::new();
        let mut finding = |severity, message: String, fix: &str| {
            self.diagnostics
                .push(Finding::whole(message).fix(fix).diagnostic(severity, config_file));
        };
        let found = pattern::expand(pattern).unwrap_or_else(|error| {
            let fix = match error {
                PatternError::TooMuch => "write the directories out as far as they are known",
                PatternError::Syntax(_) | PatternError::Unreadable { .. } => "",
            };
            finding(Severity::Error, format!("registry pattern {pattern}: {error}"), fix);
            Vec::new()
        });
        for path in found {
            if path.is_dir() {
                finding(
                    Severity::Warning,
                    format!("registry pattern {pattern} matches a directory: {}", path.display()),
                    "end the pattern with *.yaml",
                );
            } else {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            let message = format!("registry pattern {pattern} matches no file");
            finding(Severity::Warning, message, "add one, or remove the pattern");
        }
        for path in &paths {
            self.watch(parent(path));
        }
        paths
    }

    /// Notes the nearest directory that exists.
    fn watch(&mut self, directory: PathBuf) {
        let existing = directory.ancestors().find(|path| path.is_dir());
        self.directories.extend(existing.map(Path::to_path_buf));
    }
}

fn read(path: &Path, bytes_max: u64) -> Result<String, Finding> {
    let cannot = |error: std::io::Error| {
        Finding::whole(format!("cannot read the file: {error}"))
            .fix("check its path and permissions")
    };
    // Opening a FIFO would wait for its writer, so look first.
    let metadata = fs::metadata(path).map_err(cannot)?;
    if !metadata.is_file() {
        return Err(Finding::whole("not a regular file"));
    }
    let too_large = || {
        Finding::whole(format!("larger than {} MiB", bytes_max >> 20))
            .fix("split it, or check that it is the right file")
    };
    if metadata.len() > bytes_max {
        return Err(too_large());
    }
    // The file may grow while it is read.
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes))
        .map_err(cannot)?;
    if bytes.len() as u64 > bytes_max {
        return Err(too_large());
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Finding::at(line, "not UTF-8 text").fix("save the file as UTF-8")
    })
}

/// The value; its diagnostics, whatever becomes of it, go to `diagnostics`.
fn kept<T>(
    result: Result<(T, Vec<Diagnostic>), Vec<Diagnostic>>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<T> {
    match result {
        Ok((value, warnings)) => {
            diagnostics.extend(warnings);
            Some(value)
        }
        Err(errors) => {
            diagnostics.extend(errors);
            None
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests;
