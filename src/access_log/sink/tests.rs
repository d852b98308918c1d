//! What keeps lines from being written, and how the sink comes back.

use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;

fn settings(path: &Path) -> config::AccessLog {
    config::AccessLog { format: AccessLogFormat::Text, path: Some(path.to_owned()) }
}

fn written(lines: u64, lost: u64) -> Written {
    Written { lines, lost }
}

fn make_pipe(directory: &tempfile::TempDir) -> PathBuf {
    let path = directory.path().join("pipe");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    path
}

fn reader(path: &Path) -> File {
    let nonblocking = OFlag::O_NONBLOCK.bits();
    OpenOptions::new().read(true).custom_flags(nonblocking).open(path).unwrap()
}

/// What stands in the pipe.
fn drained(reader: &mut File) -> String {
    let mut text = Vec::new();
    let _ = reader.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

/// The events that `run` logs on this thread.
fn events_of(run: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);
    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let buffer = Buffer::default();
    let for_writer = buffer.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || for_writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        // Threads without a subscriber may have had these events switched off.
        tracing::callsite::rebuild_interest_cache();
        run();
    });
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Makes the time of the next try come.
fn skip_pause(sink: &mut Sink) {
    if let State::Failed { retry_at } = &mut sink.state {
        *retry_at = Instant::now();
    }
}

/// The disk is full for four lines, then has room again.
fn overflow_and_recover() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let mut sink = Sink::new(&settings(&path));
    assert_eq!(sink.write("1\n2\n", || false), written(0, 2));
    assert_eq!(sink.write("3\n", || false), written(0, 1));
    std::fs::remove_file(&path).unwrap();
    // The pause is kept, and over.
    assert_eq!(sink.write("4\n", || false), written(0, 1));
    skip_pause(&mut sink);
    assert_eq!(sink.write("5\n", || false), written(1, 0));
    assert_eq!(sink.write("6\n", || false), written(1, 0));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "5\n6\n");
}

#[test]
fn a_full_disk_is_logged_once_and_tried_again_after_a_pause() {
    // Once unheard, so that both events are known when somebody listens.
    overflow_and_recover();
    let events = events_of(overflow_and_recover);
    assert_eq!(events.len(), 2, "{events:#?}");
    assert!(events[0].contains("ERROR") && events[0].contains("No space left"), "{events:#?}");
    assert!(events[1].contains("lost.lines=4"), "{events:#?}");
}

#[test]
fn a_reader_that_goes_away_costs_lines_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let path = make_pipe(&directory);
    let first = reader(&path);
    let mut sink = Sink::new(&settings(&path));
    assert_eq!(sink.write("1\n", || false), written(1, 0));
    drop(first);
    assert_eq!(sink.write("2\n", || false), written(0, 1));
    skip_pause(&mut sink);
    // Nobody reads: opening fails at once instead of waiting.
    assert_eq!(sink.write("3\n", || false), written(0, 1));
    let mut second = reader(&path);
    skip_pause(&mut sink);
    assert_eq!(sink.write("4\n", || false), written(1, 0));
    assert_eq!(drained(&mut second), "4\n");
}

#[test]
fn lines_without_room_wait_until_they_are_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = make_pipe(&directory);
    let mut reader = reader(&path);
    let _ = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let mut sink = Sink::new(&settings(&path));
    let line = "x".repeat(99) + "\n";
    assert_eq!(sink.write(&line.repeat(100), || true), written(40, 60));
    assert_eq!(drained(&mut reader), line.repeat(40), "only whole lines");
    assert_eq!(sink.write(&line, || true), written(1, 0));
}

#[test]
fn a_torn_line_does_not_swallow_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = make_pipe(&directory);
    let mut reader = reader(&path);
    let _ = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(8192)).unwrap();
    let mut sink = Sink::new(&settings(&path));
    let long = "x".repeat(10_000) + "\n";
    assert_eq!(sink.write(&long, || true), written(0, 1));
    assert_eq!(drained(&mut reader), "x".repeat(8192));
    assert_eq!(sink.write("next\n", || true), written(1, 0));
    assert_eq!(sink.write("last\n", || true), written(1, 0));
    assert_eq!(drained(&mut reader), "\nnext\nlast\n");
}

#[test]
fn off_writes_nothing_and_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut sink =
        Sink::new(&config::AccessLog { format: AccessLogFormat::Off, path: Some(path.clone()) });
    assert_eq!(sink.write("1\n", || false), written(0, 1));
    assert!(!path.exists());
    sink.reopen(&settings(&path));
    assert_eq!(sink.write("2\n", || false), written(1, 0));
}
