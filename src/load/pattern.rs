//! What a file pattern matches, found in bounded time.
//!
//! A pattern such as `/**/*.yaml` walks a whole file system. One thread reads the files and
//! publishes every generation, so a walk ends at a number of directory entries or a time, whichever
//! comes first, and the pattern is refused.

use std::fs::{self, DirEntry};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use glob::{MatchOptions, Pattern};

/// Directory entries that one pattern may look at. A directory of so many files is no registry.
const ENTRIES_MAX: usize = 50_000;
/// The same in time, for file systems that are slow.
const TIME_MAX: Duration = Duration::from_secs(1);

/// Why a pattern has no meaning.
#[derive(Debug, thiserror::Error)]
pub(super) enum PatternError {
    #[error("{}", .0.msg)]
    Syntax(#[from] glob::PatternError),
    #[error("it looks at more than {ENTRIES_MAX} directory entries, or for more than {TIME_MAX:?}")]
    TooMuch,
    #[error("{}: {error}", .directory.display())]
    Unreadable { directory: PathBuf, error: std::io::Error },
}

/// One component of a pattern.
enum Part {
    /// A name, `/`, `.` or `..`: nothing is searched.
    Plain(PathBuf),
    /// `**`: any number of directories. Links to directories are not followed, for they may lead
    /// in circles.
    Directories,
    /// A name with wildcards.
    Name(Pattern),
}

/// Everything that `pattern` matches, in no order, perhaps more than once.
pub(super) fn expand(pattern: &str) -> Result<Vec<PathBuf>, PatternError> {
    let parts = Path::new(pattern).components().map(part).collect::<Result<Vec<_>, _>>()?;
    let mut walk = Walk { found: Vec::new(), entries: 0, give_up: Instant::now() + TIME_MAX };
    walk.descend(Path::new(""), &parts)?;
    Ok(walk.found)
}

fn part(component: Component<'_>) -> Result<Part, PatternError> {
    let text = component.as_os_str().to_string_lossy();
    Ok(match component {
        Component::Normal(_) if text == "**" => Part::Directories,
        Component::Normal(_) => match unescaped(&text) {
            Some(name) => Part::Plain(name.into()),
            None => Part::Name(Pattern::new(&text)?),
        },
        _ => Part::Plain(component.as_os_str().into()),
    })
}

struct Walk {
    found: Vec<PathBuf>,
    entries: usize,
    give_up: Instant,
}

impl Walk {
    /// What `parts` match below `directory`.
    fn descend(&mut self, directory: &Path, parts: &[Part]) -> Result<(), PatternError> {
        match parts {
            [] => self.found.push(directory.to_path_buf()),
            [Part::Plain(name), rest @ ..] => {
                let path = directory.join(name);
                // A dangling link is there: whoever reads it says what is wrong.
                if path.symlink_metadata().is_ok() {
                    self.descend(&path, rest)?;
                }
            }
            [Part::Directories, rest @ ..] => {
                self.descend(directory, rest)?;
                for entry in self.entries_of(directory)? {
                    if !is_hidden(&entry) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        self.descend(&entry.path(), parts)?;
                    }
                }
            }
            [Part::Name(name), rest @ ..] => {
                for entry in self.entries_of(directory)? {
                    let text = entry.file_name();
                    let is_match = name.matches_with(&text.to_string_lossy(), OPTIONS);
                    if is_match && (rest.is_empty() || entry.path().is_dir()) {
                        self.descend(&entry.path(), rest)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn entries_of(&mut self, directory: &Path) -> Result<Vec<DirEntry>, PatternError> {
        let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        // What is not there, or no directory, matches nothing.
        if !here.is_dir() {
            return Ok(Vec::new());
        }
        let unreadable = |error| PatternError::Unreadable { directory: here.to_path_buf(), error };
        let mut entries = Vec::new();
        for entry in fs::read_dir(here).map_err(unreadable)? {
            self.entries += 1;
            if self.entries > ENTRIES_MAX || Instant::now() > self.give_up {
                return Err(PatternError::TooMuch);
            }
            entries.push(entry.map_err(unreadable)?);
        }
        Ok(entries)
    }
}

/// Hidden files are editors' locks and Kubernetes' `..data`; a pattern must name them to mean them.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

/// The directory above the first part of `pattern` that is not a plain name.
pub(super) fn fixed_prefix(pattern: &str) -> PathBuf {
    let mut prefix = PathBuf::new();
    for component in super::parent(Path::new(pattern)).components() {
        match part(component) {
            Ok(Part::Plain(name)) => prefix.push(name),
            Ok(Part::Directories | Part::Name(_)) | Err(_) => break,
        }
    }
    if prefix.as_os_str().is_empty() { PathBuf::from(".") } else { prefix }
}

/// The name that a pattern without wildcards stands for: `[[]` is `[`.
fn unescaped(part: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = part.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' | '?' => return None,
            '[' => {
                name.push(rest.next()?);
                if rest.next() != Some(']') {
                    return None;
                }
            }
            c => name.push(c),
        }
    }
    Some(name)
}
