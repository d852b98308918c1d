//! Every way in which files change, with events alone and with the poll alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::control::testing::{load, real_source, source, target, wait_until};

/// A running reload thread over a directory of files.
struct Bench {
    directory: TempDir,
    registry: Registry,
    counters: Arc<ControlCounters>,
    handle: Handle,
}

const EVENTS_ALONE: (Watching, Duration) = (Watching::EventsAndPoll, Duration::from_secs(3600));
const POLL_ALONE: (Watching, Duration) = (Watching::PollOnly, Duration::from_millis(20));

impl Bench {
    /// One file, `a.yaml`, with the text `one`, in a directory of its own below the temporary one.
    fn start((watching, poll): (Watching, Duration)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = directory.path().join("conf");
        fs::create_dir(&files).unwrap();
        fs::write(files.join("a.yaml"), "info one end").unwrap();
        Self::watch(directory, &files, watching, poll)
    }

    fn watch(directory: TempDir, files: &Path, watching: Watching, poll: Duration) -> Self {
        let (source, first) = source(files, watching, poll);
        let registry = Registry::new(first);
        let (target, counters) = target(&registry, watch::Sender::default());
        let handle = Handle::start(source, target).unwrap();
        Self { directory, registry, counters, handle }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("conf").join(name)
    }

    fn texts(&self) -> Vec<String> {
        self.registry.current().config.registry.clone()
    }

    fn wait_for(&self, texts: &[&str]) {
        wait_until(&format!("{texts:?} is in use"), || self.texts() == texts);
    }

    fn failures(&self) -> u64 {
        self.counters.reloads(ReloadResult::Failure).get()
    }
}

fn both_ways(test: impl Fn(Bench)) {
    test(Bench::start(EVENTS_ALONE));
    test(Bench::start(POLL_ALONE));
}

#[test]
fn a_file_renamed_over_the_old_one_is_read() {
    both_ways(|bench| {
        for text in ["two", "three"] {
            fs::write(bench.path("new"), format!("info {text} end")).unwrap();
            fs::rename(bench.path("new"), bench.path("a.yaml")).unwrap();
            bench.wait_for(&[text]);
        }
        assert_eq!(bench.registry.current().generation, 3);
        assert_eq!(bench.counters.config_generation.get(), 3);
        assert_eq!(bench.counters.reloads(ReloadResult::Success).get(), 2);
    });
}

#[test]
fn a_half_written_file_changes_nothing_until_it_is_complete() {
    use std::io::Write;
    both_ways(|bench| {
        let mut file = fs::File::create(bench.path("a.yaml")).unwrap();
        for piece in ["info", " two", " "] {
            let before = bench.failures();
            file.write_all(piece.as_bytes()).unwrap();
            wait_until("the piece was refused", || bench.failures() > before);
            assert_eq!(bench.texts(), ["one"]);
        }
        file.write_all(b"end").unwrap();
        bench.wait_for(&["two"]);
        assert!(lock(&bench.handle.status).refused.is_empty());
    });
}

#[test]
fn a_former_generation_is_freed_once_no_worker_looks_at_it() {
    let bench = Bench::start(POLL_ALONE);
    let mut worker = bench.registry.reader();
    let first = Arc::downgrade(worker.load());
    fs::write(bench.path("a.yaml"), "info two end").unwrap();
    bench.wait_for(&["two"]);
    assert!(first.strong_count() > 0, "the worker looks at it");
    worker.load();
    wait_until("it is freed", || first.strong_count() == 0);
}

#[test]
fn a_file_deleted_and_made_again_is_read() {
    both_ways(|bench| {
        fs::remove_file(bench.path("a.yaml")).unwrap();
        bench.wait_for(&[]);
        fs::write(bench.path("a.yaml"), "info two end").unwrap();
        bench.wait_for(&["two"]);
    });
}

#[test]
fn a_new_file_that_matches_the_glob_is_read() {
    both_ways(|bench| {
        fs::write(bench.path("b.yaml"), "info two end").unwrap();
        bench.wait_for(&["one", "two"]);
        fs::write(bench.path("b.yaml"), "info three end").unwrap();
        bench.wait_for(&["one", "three"]);
    });
}

#[test]
fn a_directory_replaced_as_a_whole_is_read_and_goes_on_being_watched() {
    both_ways(|bench| {
        let root = bench.directory.path();
        for text in ["two", "three"] {
            fs::create_dir(root.join("next")).unwrap();
            fs::write(root.join("next/a.yaml"), format!("info {text} end")).unwrap();
            fs::rename(root.join("conf"), root.join(format!("before-{text}"))).unwrap();
            fs::rename(root.join("next"), root.join("conf")).unwrap();
            bench.wait_for(&[text]);
        }
        fs::write(bench.path("a.yaml"), "info four end").unwrap();
        bench.wait_for(&["four"]);
    });
}

/// Puts a new generation in place as the kubelet does: a new directory, then `..data` renamed over.
fn swap(root: &Path, generation: usize) {
    let directory = root.join(format!("..gen-{generation}"));
    fs::create_dir(&directory).unwrap();
    for file in ["a.yaml", "b.yaml"] {
        fs::write(directory.join(file), format!("info {generation} end")).unwrap();
    }
    symlink(format!("..gen-{generation}"), root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    if generation > 0 {
        fs::remove_dir_all(root.join(format!("..gen-{}", generation - 1))).unwrap();
    }
}

fn mounted() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path().join("conf");
    fs::create_dir(&files).unwrap();
    swap(&files, 0);
    for file in ["a.yaml", "b.yaml"] {
        symlink(Path::new("..data").join(file), files.join(file)).unwrap();
    }
    (directory, files)
}

#[test]
fn a_swap_of_the_data_link_is_read() {
    for (watching, poll) in [EVENTS_ALONE, POLL_ALONE] {
        let (directory, files) = mounted();
        let bench = Bench::watch(directory, &files, watching, poll);
        for generation in 1..4 {
            swap(&files, generation);
            let text = generation.to_string();
            bench.wait_for(&[&text, &text]);
        }
    }
}

#[test]
fn a_thousand_swaps_show_only_whole_generations() {
    let (directory, files) = mounted();
    let bench = Bench::watch(directory, &files, EVENTS_ALONE.0, EVENTS_ALONE.1);
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut generations = Vec::new();
            let mut reader = bench.registry.reader();
            // Once more after the last swap.
            let mut last = false;
            while !last {
                last = done.load(Ordering::Acquire);
                let snapshot = reader.load();
                let texts = &snapshot.config.registry;
                assert_eq!(texts.len(), 2);
                assert_eq!(texts[0], texts[1], "files of two generations in one snapshot");
                if generations.last() != Some(&snapshot.generation) {
                    generations.push(snapshot.generation);
                }
                begun.store(true, Ordering::Release);
                std::thread::yield_now();
            }
            generations
        });
        while !begun.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        // Ask at every swap, so that reads fall into swaps instead of after them.
        let answers: Vec<_> = (1..=1_000)
            .map(|generation| {
                swap(&files, generation);
                bench.handle.ask()
            })
            .collect();
        for answer in answers {
            answer.blocking_recv().unwrap();
        }
        bench.wait_for(&["1000", "1000"]);
        done.store(true, Ordering::Release);
        reader.join().unwrap()
    });
    assert!(seen.is_sorted(), "generations only rise");
    assert!(seen.len() > 1);
}

#[test]
fn own_reads_are_no_reason_to_read_again() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), "info one end").unwrap();
    let (mut source, first) =
        source(directory.path(), Watching::EventsAndPoll, Duration::from_secs(3600));
    let (read, reads) = channel();
    let path = directory.path().to_owned();
    source.load = Box::new(move |_| {
        let _ = read.send(());
        load(&path)
    });
    let registry = Registry::new(first);
    let (target, _counters) = target(&registry, watch::Sender::default());
    let handle = Handle::start(source, target).unwrap();
    // Renamed from elsewhere: one event.
    let elsewhere = tempfile::tempdir_in(directory.path()).unwrap();
    fs::write(elsewhere.path().join("new"), "info two end").unwrap();
    fs::rename(elsewhere.path().join("new"), directory.path().join("a.yaml")).unwrap();
    wait_until("the change is in use", || registry.current().generation == 2);
    let outcome = handle.ask().blocking_recv().unwrap();
    assert_eq!(outcome, Outcome::Unchanged { generation: 2 });
    // Everything until here was read for a reason; a read that caused an event would go on.
    while reads.try_recv().is_ok() {}
    assert!(reads.recv_timeout(QUIET * 4).is_err(), "read again for no reason");
}

/// A reloader without its thread, over one file with the text `one`.
fn reloader() -> (TempDir, Reloader, Arc<ControlCounters>) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), "info one end").unwrap();
    let (source, first) = source(directory.path(), Watching::PollOnly, POLL);
    let (target, counters) = target(&Registry::new(first), watch::Sender::default());
    let reloader = Reloader::new(source, target, Arc::default(), channel().0);
    (directory, reloader, counters)
}

#[test]
fn the_same_content_is_no_new_generation() {
    let (directory, mut reloader, counters) = reloader();
    fs::write(directory.path().join("a.yaml"), "info one end").unwrap();
    assert_eq!(reloader.reload(Cause::Change), Outcome::Unchanged { generation: 1 });
    assert_eq!(reloader.reload(Cause::Recheck), Outcome::Unchanged { generation: 1 });
    assert_eq!(counters.reloads(ReloadResult::Unchanged).get(), 1);
    assert_eq!(counters.config_generation.get(), 1);
    assert!(counters.config_last_success_s.get() > 1_700_000_000);
}

#[test]
fn a_refusal_is_logged_once_and_names_file_and_line() {
    let (directory, mut reloader, counters) = reloader();
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        for (text, errors) in [("broken", 1), ("broken", 1), ("broken too", 2)] {
            fs::write(directory.path().join("a.yaml"), text).unwrap();
            let outcome = reloader.reload(Cause::Change);
            let Outcome::Failure { generation: 1, problems } = outcome else {
                panic!("{outcome:?}")
            };
            let place = directory.path().join("a.yaml:1: error: ");
            assert!(problems[0].starts_with(place.to_str().unwrap()), "{problems:?}");
            assert_eq!(log.errors(), errors, "{text}");
        }
    });
    assert_eq!(counters.reloads(ReloadResult::Failure).get(), 3);
    assert_eq!(lock(&reloader.status).refused.len(), 1);
    assert_eq!(reloader.target.registry.current().generation, 1);

    fs::write(directory.path().join("a.yaml"), "info one end").unwrap();
    assert_eq!(reloader.reload(Cause::Change), Outcome::Unchanged { generation: 1 });
    assert!(lock(&reloader.status).refused.is_empty());
}

#[test]
fn a_reload_takes_the_log_level_over() {
    let (directory, mut reloader, _counters) = reloader();
    for (level, now) in [("debug", "debug"), ("loud", "debug"), ("warn", "warn")] {
        fs::write(directory.path().join("a.yaml"), format!("{level} two end")).unwrap();
        assert!(matches!(reloader.reload(Cause::Change), Outcome::Success { .. }));
        assert_eq!(reloader.target.log.level(), now);
    }
}

#[test]
fn files_that_never_stop_changing_are_refused() {
    let (directory, mut reloader, counters) = reloader();
    let path = directory.path().to_owned();
    let mut round = 0;
    reloader.load = Box::new(move |_| {
        let loaded = load(&path);
        round += 1;
        fs::write(path.join("a.yaml"), format!("info {} end", "x".repeat(round))).unwrap();
        loaded
    });
    assert!(matches!(reloader.reload(Cause::Change), Outcome::Failure { generation: 1, .. }));
    assert_eq!(counters.reloads(ReloadResult::Failure).get(), 1);
    let path = directory.path().to_owned();
    reloader.load = Box::new(move |_| load(&path));
    reloader.look();
    let last = "x".repeat(super::READS_MAX);
    assert_eq!(reloader.target.registry.current().config.registry, [last]);
}

/// A document of this name, host and port; port 0 is refused.
fn document(name: &str, port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
         spec: {{hosts: [{name}.example], ports: [{{number: {port}, name: h, protocol: HTTP}}]}}\n\
         ---\n"
    )
}

#[test]
fn a_refused_document_is_logged_and_counted_while_the_others_are_published() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, documents: &[(&str, u16)]| {
        let text: String = documents.iter().map(|(name, port)| document(name, *port)).collect();
        fs::write(directory.path().join(name), text).unwrap();
    };
    fs::write(directory.path().join("egret.yaml"), "registry: ['*-r.yaml']\n").unwrap();
    write("a-r.yaml", &[("one", 80), ("two", 0)]);
    write("b-r.yaml", &[("three", 80)]);
    let config_file = directory.path().join("egret.yaml");
    let (source, first) = real_source(&config_file, Watching::PollOnly, Duration::from_secs(3600));
    let registry = Registry::new(first);
    let (target, counters) = target(&registry, watch::Sender::default());
    let status = Arc::default();
    let mut reloader = Reloader::new(source, target, Arc::clone(&status), channel().0);
    let ports = || -> Vec<(String, u16)> {
        let snapshot = registry.current();
        let port = |s: &Arc<crate::registry::snapshot::Service>| (s.host.to_string(), s.port);
        snapshot.services().map(port).collect()
    };
    let port = |host: &str, port| (format!("{host}.example"), port);
    let a = directory.path().join("a-r.yaml").to_string_lossy().into_owned();
    let refused = || counters.refused_documents().into_iter().collect::<Vec<_>>();
    assert_eq!(refused(), [(a.as_str().into(), 1)]);
    assert_eq!(counters.config_last_success_s.get(), 0, "they were never all good");
    assert_eq!(ports(), [port("one", 80), port("three", 80)]);

    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        // The same problem is logged no second time.
        write("b-r.yaml", &[("three", 81)]);
        let outcome = reloader.reload(Cause::Change);
        let Outcome::Failure { generation: 2, problems } = outcome else { panic!("{outcome:?}") };
        assert!(problems[0].starts_with(&format!("{a}:9: error: ")), "{problems:?}");
        assert_eq!((log.errors(), ports()), (0, vec![port("one", 80), port("three", 81)]));
        // A second one is.
        write("a-r.yaml", &[("one", 0), ("two", 0)]);
        assert!(matches!(reloader.reload(Cause::Change), Outcome::Failure { generation: 3, .. }));
        assert_eq!((log.errors(), ports()), (1, vec![port("one", 80), port("three", 81)]));
        assert_eq!(refused(), [(a.as_str().into(), 2)]);
        let stale: Vec<bool> = lock(&status).documents.iter().map(|one| one.stale).collect();
        assert_eq!(stale, [true, false]);
        // Read once more they are refused once more, and nothing is published.
        assert!(matches!(reloader.reload(Cause::Change), Outcome::Failure { generation: 3, .. }));
        assert_eq!(log.errors(), 1);
        assert_eq!(counters.reloads(ReloadResult::Failure).get(), 3);
        assert_eq!(counters.config_last_success_s.get(), 0);
        // A configuration that is refused changes nothing at all.
        write("b-r.yaml", &[("three", 82)]);
        fs::write(&config_file, "registry: ['*-r.yaml']\nnonsense: 1\n").unwrap();
        assert!(matches!(reloader.reload(Cause::Change), Outcome::Failure { generation: 3, .. }));
        assert_eq!((log.errors(), ports()), (2, vec![port("one", 80), port("three", 81)]));
        assert_eq!(lock(&status).lines(Severity::Error).len(), 3);
    });

    fs::write(&config_file, "registry: ['*-r.yaml']\n").unwrap();
    write("a-r.yaml", &[("one", 83), ("two", 84)]);
    assert_eq!(reloader.reload(Cause::Change), Outcome::Success { generation: 4 });
    assert_eq!(ports(), [port("one", 83), port("three", 82), port("two", 84)]);
    assert_eq!((refused(), lock(&status).lines(Severity::Error)), (vec![], vec![]));
    assert!(counters.config_last_success_s.get() > 1_700_000_000);
}

/// Counts error events.
#[derive(Clone, Default)]
struct Log(Arc<AtomicUsize>);

impl Log {
    fn errors(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        if *event.metadata().level() == tracing::Level::ERROR {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_registry_whose_files_are_gone_is_refused_and_one_that_says_empty_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\n\
                 spec: {hosts: [a.example], ports: [{number: 80, name: h, protocol: HTTP}]}\n";
    fs::create_dir(path("r")).unwrap();
    fs::write(path("r/a.yaml"), entry).unwrap();
    fs::write(path("egret.yaml"), "registry: [r/*.yaml, more/*.yaml]\n").unwrap();
    let (source, snapshot) =
        real_source(&path("egret.yaml"), Watching::PollOnly, Duration::from_millis(20));
    let registry = Registry::new(snapshot);
    let (target, counters) = target(&registry, watch::Sender::default());
    let handle = Handle::start(source, target).unwrap();
    let services = || registry.current().services().len();
    let failures = || counters.reloads(ReloadResult::Failure).get();

    fs::rename(path("r"), path("away")).unwrap();
    wait_until("it is refused", || failures() > 0);
    assert_eq!(services(), 1);
    let text = lock(&handle.status).refused[0].to_string();
    assert!(text.contains("matches a file any more") && text.contains("items: []"), "{text}");

    fs::rename(path("away"), path("r")).unwrap();
    wait_until("all is well", || lock(&handle.status).refused.is_empty());
    fs::write(path("r/a.yaml"), "apiVersion: v1\nkind: List\nitems: []\n").unwrap();
    wait_until("it is empty", || services() == 0);
    fs::write(path("r/a.yaml"), entry).unwrap();
    wait_until("it is back", || services() == 1);
    // No pattern is a statement, too.
    fs::write(path("egret.yaml"), "registry: []\n").unwrap();
    wait_until("there is none", || services() == 0);
}

#[test]
fn a_storm_of_hang_ups_is_few_reloads_and_the_last_one_counts() {
    let bench = Bench::start((Watching::PollOnly, Duration::from_secs(3600)));
    for round in 0..10 {
        fs::write(bench.path("a.yaml"), format!("info {round} end")).unwrap();
        for _ in 0..1000 {
            bench.handle.ask_soon();
        }
    }
    bench.wait_for(&["9"]);
    let reloads = [ReloadResult::Success, ReloadResult::Unchanged, ReloadResult::Failure]
        .map(|result| bench.counters.reloads(result).get());
    assert!(reloads.iter().sum::<u64>() < 5_000, "{reloads:?}");
}
