//! Names that workloads make up cost bounded memory and bounded series.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::lab::{Lab, PATIENCE, Part, web};
use crate::options::{Options, named_entry};
use crate::pattern::Random;
use crate::proxy::Proxy;
use crate::scrape::{CLOSED, OPENED, OVERFLOW, REQUESTS, SERIES};

/// The series that there may be.
const SERIES_MAX: u32 = 100;
/// Requests, each with a Host of its own.
const HOSTS: u64 = 1_000_000;
/// After so many the proxy has all the memory that it needs.
const WARM: u64 = 100_000;
const GROWTH_BYTES_MAX: u64 = 512 * 1024;
/// Connections to each of the two servers.
const CONNECTIONS: usize = 4;
/// Requests that are sent on one before their answers are read: as many as Egret follows at once.
const PIPELINED: usize = 64;
/// Requests in a pipeline that Egret gives up following.
const TOO_MANY: usize = 2000;

/// All requests have this length, so that a server needs no parser.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: h0123456789abcdef.wild.test\r\n\r\n";
/// Where in it the digits begin, and the domain, which has the same length as the other one.
const DIGITS_AT: usize = 23;
const DOMAIN_AT: usize = DIGITS_AT + 17;
const FREE_DOMAIN: &[u8] = b"free.test";
const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

fn listen(lab: &Lab, at: SocketAddr) -> TcpListener {
    lab.inside(Part::Outside, || TcpListener::bind(at)).expect("it is free")
}

/// A server that answers each request, on every connection, until the client ends. It gives the
/// number of requests.
fn serve(lab: &Lab, at: SocketAddr) -> JoinHandle<usize> {
    let listener = listen(lab, at);
    std::thread::spawn(move || {
        let accept = || listener.accept().expect("the connections come").0;
        let connections: Vec<_> = (0..CONNECTIONS).map(|_| accept()).collect();
        let answers = connections.into_iter().map(|it| std::thread::spawn(move || answer_all(it)));
        let answers: Vec<_> = answers.collect();
        answers.into_iter().map(|thread| thread.join().expect("it does not fail")).sum()
    })
}

fn answer_all(mut stream: TcpStream) -> usize {
    let answers = ANSWER.repeat(2 * PIPELINED);
    let mut buffer = vec![0; 64 * 1024];
    let (mut received, mut answered) = (0, 0);
    loop {
        match stream.read(&mut buffer).expect("it is not reset") {
            0 => return answered,
            count => received += count,
        }
        let whole = received / REQUEST.len();
        stream.write_all(&answers[..(whole - answered) * ANSWER.len()]).expect("it is open");
        answered = whole;
    }
}

/// Asks on each connection in turn, until there were `count` requests; no host comes twice.
fn ask(streams: &mut [TcpStream], random: &mut Random, count: u64) {
    let mut left = usize::try_from(count).expect("it is small");
    let mut batch = REQUEST.repeat(PIPELINED);
    let mut answers = vec![0; PIPELINED * ANSWER.len()];
    while left > 0 {
        let mut asked = [0; 2 * CONNECTIONS];
        for (stream, asked) in streams.iter_mut().zip(&mut asked) {
            *asked = left.min(PIPELINED);
            left -= *asked;
            let batch = &mut batch[..*asked * REQUEST.len()];
            batch.chunks_exact_mut(REQUEST.len()).for_each(|request| name(request, random));
            stream.write_all(batch).expect("the connection is open");
        }
        for (stream, asked) in streams.iter_mut().zip(asked) {
            let answers = &mut answers[..asked * ANSWER.len()];
            stream.read_exact(answers).expect("every request is answered");
            assert!(answers.chunks_exact(ANSWER.len()).all(|answer| answer == ANSWER));
        }
    }
}

/// Puts another host into a request. The generator goes through all 64-bit numbers before it comes
/// to one again.
fn name(request: &mut [u8], random: &mut Random) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let number = random.next();
    for (place, byte) in request[DIGITS_AT..DIGITS_AT + 16].iter_mut().enumerate() {
        let digit = usize::try_from(number >> (4 * place) & 0xf).expect("it is below 16");
        *byte = DIGITS[digit];
    }
    let wild = &REQUEST[DOMAIN_AT..DOMAIN_AT + FREE_DOMAIN.len()];
    let domain = if number & 1 == 0 { wild } else { FREE_DOMAIN };
    request[DOMAIN_AT..DOMAIN_AT + domain.len()].copy_from_slice(domain);
}

#[test]
fn a_million_random_hosts_leave_series_and_memory_at_their_bounds() {
    let lab = Lab::alone();
    lab.tally.expect_strangers();
    // On port 80 a name decides, so each request is gated, half of them to pass by the wildcard and
    // half by the policy. On port 8080 they are observed.
    let registry = named_entry("*.wild.test", "HTTP", 80, None);
    let options = Options { registry, series_max: SERIES_MAX, ..Options::default() };
    let proxy = Proxy::start(&lab, &options);
    let servers = [web(10, 80), web(11, 8080)].map(|at| (at, serve(&lab, at)));
    let connect = |at| {
        let stream = lab.inside(Part::Pod, || TcpStream::connect(at)).expect("the proxy accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
        stream.set_nodelay(true).expect("it is TCP");
        stream
    };
    let each = servers.iter().flat_map(|(at, _)| std::iter::repeat_n(*at, CONNECTIONS));
    let mut streams: Vec<_> = each.map(connect).collect();

    let mut random = Random::new(7);
    let began = Instant::now();
    ask(&mut streams, &mut random, WARM);
    proxy.scrape();
    let memory = proxy.memory_bytes();
    ask(&mut streams, &mut random, HOSTS - WARM);
    proxy.scrape();
    let grown = proxy.memory_bytes().saturating_sub(memory);
    eprintln!("{grown} bytes of memory for {} hosts more, {:?}", HOSTS - WARM, began.elapsed());
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes, {memory} before");
    drop(streams);
    let seen = servers.map(|(_, server)| server.join().expect("it does not fail") as u64);
    assert_eq!(seen.iter().sum::<u64>(), HOSTS);
    check_series(&proxy, seen[0]);
    proxy.finish();
}

/// `gated` of the requests were gated, the others observed.
fn check_series(proxy: &Proxy<'_>, gated: u64) {
    proxy.wait_for_metric(REQUESTS, &[], HOSTS);
    let scrape = proxy.scrape();
    let sum = |labels: &[_]| scrape.sum(REQUESTS, labels);
    assert!(gated > HOSTS / 3 && gated < HOSTS * 2 / 3, "{gated}");
    // There is one source, so a quarter is left for others, rounded for each of the workers. One
    // more takes what finds no room.
    let most = u64::from(SERIES_MAX) * 3 / 4 + 3;
    let series = scrape.series(REQUESTS, &[]) as u64;
    assert!((most / 2..=most).contains(&series), "{series} series of requests");
    assert_eq!(scrape.sum(SERIES, &[("kind", "requests")]), series);
    let other = sum(&[("destination_service", "other")]);
    let named = HOSTS - other;
    assert_eq!(sum(&[("response_code", "204"), ("response_flags", "-")]), named);
    // Each worker has had room for so many, and each of them was asked for once.
    assert!((1..=2 * most).contains(&named), "{named} have a series of their own");
    assert!(scrape.sum(OVERFLOW, &[]) >= other, "{}", scrape.sum(OVERFLOW, &[]));
    // They were requests, and no connection of theirs was counted as one.
    assert_eq!((scrape.sum(OPENED, &[]), scrape.sum(CLOSED, &[])), (0, 0));
}

/// A server that answers when the client has sent its end, so that nothing is answered while more
/// is sent. It gives what it has read. (nginx resets a client that is slow to read its answers.)
fn serve_after_all(lab: &Lab, at: SocketAddr) -> JoinHandle<Vec<u8>> {
    let listener = listen(lab, at);
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the connection comes");
        let mut requests = Vec::new();
        stream.read_to_end(&mut requests).expect("it is not reset");
        let answers = ANSWER.repeat(requests.len() / REQUEST.len());
        stream.write_all(&answers).expect("the client reads");
        requests
    })
}

#[test]
fn a_pipeline_too_long_to_follow_passes_and_is_counted_as_a_connection() {
    let lab = Lab::new();
    lab.tally.expect_strangers();
    let proxy = Proxy::start(&lab, &Options::default());
    let server = serve_after_all(&lab, web(10, 80));
    let stream = lab.inside(Part::Pod, || TcpStream::connect(web(10, 80)));
    let mut stream = stream.expect("the proxy accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    stream.write_all(&REQUEST.repeat(TOO_MANY)).expect("the connection is open");
    stream.shutdown(Shutdown::Write).expect("the connection is open");
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).expect("answers come, and the end");
    assert_eq!(answers, ANSWER.repeat(TOO_MANY));
    assert_eq!(server.join().expect("it does not fail"), REQUEST.repeat(TOO_MANY));
    let labels = [("destination_service_name", "PassthroughCluster"), ("response_flags", "-")];
    proxy.wait_for_metric(CLOSED, &labels, 1);
    let scrape = proxy.scrape();
    // Those that were followed are counted; that their answers were not seen is no failure.
    assert_eq!(scrape.sum(REQUESTS, &[]), PIPELINED as u64);
    assert_eq!(scrape.sum(REQUESTS, &[("response_flags", "-")]), PIPELINED as u64);
    proxy.finish();
}
