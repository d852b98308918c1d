//! Names in first bytes: what detection costs a connection, and a request.

use std::hint::black_box;

use egret::internals::http1::{RequestStep, RequestStream};
use egret::internals::judge::Rules;
use egret::internals::sniff::{Sniff, Sniffer};

/// What curl sends first, as captured for the fuzz targets.
const CLIENT_HELLO: &[u8] = include_bytes!("../../../tests/fuzz/corpus/client_hello/curl_h2");

/// The same in TLS records of 100 bytes, which must be put together.
const IN_RECORDS: &[u8] = include_bytes!("../../../tests/fuzz/corpus/client_hello/records_of_100");

/// What curl asks.
const REQUEST: &[u8] = b"GET /v1/orders HTTP/1.1\r\nHost: api.example.com\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

/// About what a browser asks: more fields, and longer ones.
const BROWSER_REQUEST: &[u8] = b"GET /search?q=egret&client=browser HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.com/\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=7f3a9c51e0b24d68a1c5; theme=dark; visited=1732441200; consent=yes\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Priority: u=0, i\r\n\r\n";

pub(crate) fn client_hello() -> Box<dyn FnMut()> {
    detect(CLIENT_HELLO)
}

pub(crate) fn client_hello_in_records() -> Box<dyn FnMut()> {
    detect(IN_RECORDS)
}

fn detect(bytes: &'static [u8]) -> Box<dyn FnMut()> {
    Box::new(move || {
        let mut sniffer = Sniffer::default();
        let answer = sniffer.feed(black_box(bytes));
        assert!(matches!(answer, Sniff::Tls(_)), "{answer:?}");
        black_box(sniffer.answer());
    })
}

pub(crate) fn request_head() -> Box<dyn FnMut()> {
    read_head(REQUEST)
}

pub(crate) fn request_head_of_browser() -> Box<dyn FnMut()> {
    read_head(BROWSER_REQUEST)
}

/// The next request on a connection that stays open.
fn read_head(bytes: &'static [u8]) -> Box<dyn FnMut()> {
    let mut stream = RequestStream::new(Some(Rules::default()));
    Box::new(move || {
        let step = stream.next(black_box(bytes));
        assert!(matches!(step, RequestStep::Head(_)), "{step:?}");
        black_box(step);
    })
}
