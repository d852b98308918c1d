//! Files good, broken, missing, huge.

mod one_bad;

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

const ENTRY: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com]
  addresses: [192.0.2.1]
  ports: [{number: 443, name: tls, protocol: TLS}]
";

/// A directory with a configuration, one registry file and a workloads file.
struct Lab(TempDir);

impl Lab {
    fn new() -> Self {
        let lab = Self(TempDir::new().unwrap());
        lab.write("egret.yaml", "registry: [\"registry.d/*.yaml\"]\nworkloads: w.yaml\n");
        lab.write("registry.d/a.yaml", ENTRY);
        lab.write("w.yaml", "workloads: [{addresses: [10.0.0.1], workload: shop}]\n");
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn load(&self) -> Result<Loaded, Vec<Diagnostic>> {
        load(&self.path("egret.yaml"), None)
    }

    /// The only error, of the file `name`.
    fn error(&self, name: &str) -> Diagnostic {
        let mut diagnostics = self.load().map_or_else(|errors| errors, |loaded| loaded.diagnostics);
        diagnostics.retain(|diagnostic| diagnostic.severity == Severity::Error);
        assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
        assert_eq!(diagnostics[0].file, self.path(name));
        diagnostics.remove(0)
    }
}

#[test]
fn all_files_are_read_and_all_directories_named() {
    let lab = Lab::new();
    let loaded = lab.load().unwrap();
    assert_eq!(loaded.diagnostics, []);
    assert_eq!(loaded.entries.len(), 1);
    assert_eq!(loaded.files, ["egret.yaml", "registry.d/a.yaml", "w.yaml"].map(|n| lab.path(n)));
    let directory = |name: &str| if name.is_empty() { lab.0.path().into() } else { lab.path(name) };
    assert_eq!(loaded.directories, ["", "registry.d"].map(directory));
    let (snapshot, warnings) = loaded.build(7, &Answers::default());
    assert_eq!(warnings, []);
    assert_eq!((snapshot.generation, snapshot.services().len()), (7, 1));
    let source = snapshot.workload("10.0.0.1".parse().unwrap());
    assert_eq!(source.value.workload.as_deref(), Some("shop"));
}

#[test]
fn the_fingerprint_follows_the_content_only() {
    let lab = Lab::new();
    let first = lab.load().unwrap().fingerprint;
    lab.write("registry.d/a.yaml", ENTRY);
    assert_eq!(lab.load().unwrap().fingerprint, first);
    lab.write("registry.d/a.yaml", format!("{ENTRY}# more\n"));
    let second = lab.load().unwrap().fingerprint;
    assert_ne!(second, first);
    lab.write("registry.d/b.yaml", ENTRY);
    assert_ne!(lab.load().unwrap().fingerprint, second);
    fs::remove_file(lab.path("registry.d/b.yaml")).unwrap();
    assert_eq!(lab.load().unwrap().fingerprint, second);
    // Broken files can be told apart as well.
    lab.write("registry.d/a.yaml", "");
    let broken = Sources::read(&lab.path("egret.yaml"));
    assert_ne!(broken.fingerprint, second);
    assert_eq!(broken.files.len(), 3);
    assert_eq!(broken.parse(None).unwrap().refused.len(), 1);
}

#[test]
fn a_broken_registry_file_is_refused_as_a_whole() {
    let lab = Lab::new();
    for (content, line) in [
        (&b""[..], None),
        (b"# comment\n", None),
        (b"apiVersion: networking.istio.io/v1\nkind: Servi", Some(2)),
        (b"a: [1, 2\n", Some(2)),
        (b"a: 1\na: 2\n", Some(2)),
        (b"a: 1\nb: \xff\xfe\n", Some(2)),
        (b"a: 1\n\0\0\0\0", Some(2)),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: 1", Some(1)),
    ] {
        lab.write("registry.d/b.yaml", content);
        let diagnostic = lab.error("registry.d/b.yaml");
        assert_eq!(diagnostic.line, line, "{diagnostic}");
        let loaded = lab.load().unwrap();
        assert_eq!(loaded.entries.len(), 1, "the other file is served");
        let file = lab.path("registry.d/b.yaml");
        assert!(loaded.refused.iter().all(|refused| refused.file == file && !refused.stale));
        assert_eq!(loaded.refused.len(), 1);
    }
}

#[test]
fn a_huge_file_is_refused_without_being_read() {
    let lab = Lab::new();
    lab.write("registry.d/b.yaml", "");
    // Sparse: a hundred MiB of nothing.
    let file = File::options().write(true).open(lab.path("registry.d/b.yaml")).unwrap();
    file.set_len(100 << 20).unwrap();
    assert_eq!(lab.error("registry.d/b.yaml").message, "larger than 32 MiB");
    fs::remove_file(lab.path("registry.d/b.yaml")).unwrap();
    lab.write("egret.yaml", "#".repeat(2 << 20));
    assert_eq!(lab.error("egret.yaml").message, "larger than 1 MiB");
}

#[test]
fn entries_that_claim_too_much_are_refused_where_it_becomes_too_much() {
    let lab = Lab::new();
    let hosts: Vec<String> = (0..256).map(|n| format!("h{n}.example.com")).collect();
    let ports: Vec<String> =
        (1..=256).map(|n| format!("{{number: {n}, name: p{n}, protocol: TLS}}")).collect();
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a}}\n\
         spec: {{hosts: [{}], ports: [{}]}}\n---\n",
        hosts.join(", "),
        ports.join(", ")
    );
    lab.write("registry.d/b.yaml", entry.repeat(16));
    let diagnostic = lab.error("registry.d/b.yaml");
    assert!(
        diagnostic.message.starts_with("more than 1000000 hosts and addresses"),
        "{diagnostic}"
    );
    assert_eq!(diagnostic.line, Some(15 * 5 + 1));
}

#[test]
fn a_file_that_grows_past_its_metadata_is_still_bounded() {
    // /proc files say that they are empty and are not.
    let text = read(Path::new("/proc/self/status"), 16);
    assert_eq!(text.unwrap_err().message, "larger than 0 MiB");
}

#[test]
fn what_is_missing_or_no_file_is_named() {
    let lab = Lab::new();
    fs::remove_file(lab.path("w.yaml")).unwrap();
    assert!(lab.error("w.yaml").message.starts_with("cannot read the file"));
    nix::unistd::mkfifo(&lab.path("w.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(lab.error("w.yaml").message, "not a regular file");
    fs::remove_file(lab.path("w.yaml")).unwrap();
    lab.write("w.yaml", "workloads: []");
    symlink("nowhere", lab.path("registry.d/b.yaml")).unwrap();
    assert!(lab.error("registry.d/b.yaml").message.starts_with("cannot read the file"));
    fs::remove_file(lab.path("egret.yaml")).unwrap();
    assert!(lab.error("egret.yaml").message.starts_with("cannot read the file"));
}

#[test]
fn each_warning_about_files_and_entries_is_told_once() {
    let lab = Lab::new();
    lab.write("egret.yaml", "registry: [\"registry.d/*.yaml\", \"none/*.yaml\"]\n");
    lab.write("registry.d/b.yaml", ENTRY.replace("name: a}", "name: b}"));
    let loaded = lab.load().unwrap();
    let of_files = |diagnostic: &Diagnostic| diagnostic.message.contains("matches no file");
    let of_entries =
        |diagnostic: &Diagnostic| diagnostic.message.contains("loses 192.0.2.1 port 443");
    assert_eq!(
        (loaded.diagnostics.len(), loaded.diagnostics.iter().filter(|p| of_files(p)).count()),
        (1, 1)
    );
    for _ in 0..2 {
        let (_, diagnostics) = loaded.build(1, &Answers::default());
        assert_eq!(diagnostics.iter().filter(|p| of_files(p)).count(), 1, "{diagnostics:?}");
        assert_eq!(diagnostics.iter().filter(|p| of_entries(p)).count(), 1, "{diagnostics:?}");
    }
}

#[test]
fn a_pattern_without_files_is_a_warning_and_its_directory_is_watched() {
    let lab = Lab::new();
    lab.write("egret.yaml", "registry: [\"registry.d/*.yml\", \"later/on/*.yaml\"]\n");
    let loaded = lab.load().unwrap();
    let found: Vec<_> = loaded.diagnostics.iter().map(|diagnostic| diagnostic.severity).collect();
    assert_eq!(found, [Severity::Warning; 2]);
    assert!(loaded.directories.contains(&lab.path("registry.d")));
    assert!(loaded.directories.contains(&lab.0.path().to_path_buf()));
}

#[test]
fn hidden_files_are_left_alone_and_overlapping_patterns_read_once() {
    let lab = Lab::new();
    symlink("someone@host", lab.path("registry.d/.#a.yaml")).unwrap();
    lab.write("egret.yaml", "registry: [\"registry.d/*.yaml\", \"registry.d/a*\"]\n");
    let loaded = lab.load().unwrap();
    assert_eq!((loaded.entries.len(), loaded.diagnostics), (1, vec![]));
}

#[test]
fn a_directory_with_brackets_in_its_name_works() {
    let lab = Lab::new();
    lab.write("x[1]/egret.yaml", "registry: [\"r/*.yaml\"]\n");
    lab.write("x[1]/r/a.yaml", ENTRY);
    let loaded = load(&lab.path("x[1]/egret.yaml"), None).unwrap();
    assert_eq!(loaded.entries.len(), 1);
    assert!(loaded.directories.contains(&lab.path("x[1]/r")), "{:?}", loaded.directories);
}

#[test]
fn kubernetes_links_are_followed() {
    let lab = Lab::new();
    lab.write("registry.d/..1/b.yaml", ENTRY.replace("192.0.2.1", "192.0.2.2"));
    symlink("..1", lab.path("registry.d/..data")).unwrap();
    symlink("..data/b.yaml", lab.path("registry.d/b.yaml")).unwrap();
    let loaded = lab.load().unwrap();
    assert_eq!((loaded.entries.len(), loaded.files.len()), (2, 4));
}

#[test]
fn a_pattern_that_walks_a_file_system_is_refused_soon() {
    let lab = Lab::new();
    for pattern in ["/**/*.yaml", "/proc/**/*.nothing", "/*/*/*/*/*/*.nothing"] {
        lab.write("egret.yaml", format!("registry: [\"{pattern}\"]\n"));
        let began = std::time::Instant::now();
        let diagnostics = lab.load().unwrap_err();
        // One second is for the walk.
        assert!(began.elapsed().as_secs() < 4, "{pattern}: {:?}", began.elapsed());
        let text = diagnostics[0].to_string();
        let is_bounded = text.contains("looks at more than") || text.contains("/proc/");
        assert!(is_bounded && text.contains("egret.yaml"), "{text}");
    }
}

#[test]
fn patterns_match_as_a_shell_does() {
    let lab = Lab::new();
    for name in ["a.yaml", "b.yaml", "c.yml", ".h.yaml", "d/e.yaml", "d/f/g.yaml", "d/.x/i.yaml"] {
        lab.write(&format!("tree/{name}"), "");
    }
    symlink("..", lab.path("tree/d/up")).unwrap();
    symlink("nowhere", lab.path("tree/z.yaml")).unwrap();
    let root = lab.path("tree");
    for (pattern, expected) in [
        ("*.yaml", &["a.yaml", "b.yaml", "z.yaml"][..]),
        ("?.y*ml", &["a.yaml", "b.yaml", "c.yml", "z.yaml"]),
        ("[ab].yaml", &["a.yaml", "b.yaml"]),
        ("[!a].yaml", &["b.yaml", "z.yaml"]),
        (".*.yaml", &[".h.yaml"]),
        ("*/*.yaml", &["d/e.yaml"]),
        ("d/up/a.yaml", &["d/up/a.yaml"]),
        ("**/*.yaml", &["a.yaml", "b.yaml", "d/e.yaml", "d/f/g.yaml", "z.yaml"]),
        ("**/g.yaml", &["d/f/g.yaml"]),
        ("d/./e.yaml", &["d/e.yaml"]),
        ("d/../a.yaml", &["d/../a.yaml"]),
        ("nothing/*.yaml", &[]),
        ("a.yaml/*", &[]),
    ] {
        let found = pattern::expand(&format!("{}/{pattern}", root.display())).unwrap();
        let found: BTreeSet<_> = found.iter().map(|p| p.strip_prefix(&root).unwrap()).collect();
        let expected: BTreeSet<_> = expected.iter().map(Path::new).collect();
        assert_eq!(found, expected, "{pattern}");
    }
}
