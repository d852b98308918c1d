//! A small HTTP/1.1 server that remembers every byte that reached it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{LONG, uninterrupted};

/// What the server answers to one request, given its head and body.
pub(crate) type Answer = fn(&str, &[u8]) -> Vec<u8>;

/// See the module. Its threads end with their connections.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    /// By connection, in the order of their accepts.
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Web {
    pub(crate) fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let all = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut connections = all.lock().unwrap();
                let index = connections.len();
                connections.push(Vec::new());
                drop(connections);
                let all = Arc::clone(&all);
                std::thread::spawn(move || serve(stream.unwrap(), index, &all, answer));
            }
        });
        Self { address, received }
    }

    /// Everything that came, connection by connection.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap().clone()
    }

    /// Everything that came, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.received().concat()).into_owned()
    }
}

fn serve(
    mut stream: TcpStream,
    index: usize,
    all: &Mutex<Vec<Vec<u8>>>,
    answer: Answer,
) -> Option<()> {
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut unread = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = unread.split_off(at + 4);
                break String::from_utf8(std::mem::replace(&mut unread, rest)).unwrap();
            }
            more(&mut stream, &mut unread, index, all)?;
        };
        if head.to_ascii_lowercase().contains("expect: 100-continue") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
        }
        let length = body_length(&head);
        while length.is_some_and(|length| unread.len() < length)
            || (length.is_none() && !ends_chunks(&unread))
        {
            more(&mut stream, &mut unread, index, all)?;
        }
        let end = length.unwrap_or(unread.len());
        let body: Vec<u8> = unread.drain(..end).collect();
        stream.write_all(&answer(&head, &body)).ok()?;
        if head.contains("upgrade: echo") {
            loop {
                stream.write_all(&unread).ok()?;
                unread.clear();
                more(&mut stream, &mut unread, index, all)?;
            }
        }
        if head.contains("x-end: 1") {
            return Some(());
        }
    }
}

fn more(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    index: usize,
    all: &Mutex<Vec<Vec<u8>>>,
) -> Option<()> {
    let mut chunk = vec![0; 65_536];
    let count = uninterrupted(|| stream.read(&mut chunk)).ok().filter(|count| *count > 0)?;
    unread.extend_from_slice(&chunk[..count]);
    all.lock().unwrap()[index].extend_from_slice(&chunk[..count]);
    Some(())
}

/// `None`: chunked.
fn body_length(head: &str) -> Option<usize> {
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return None;
    }
    let length = head.split("content-length: ").nth(1).map(|rest| rest.split('\r').next().unwrap());
    Some(length.map_or(0, |length| length.parse().unwrap()))
}

/// The tests send no chunk that looks like the last one.
fn ends_chunks(body: &[u8]) -> bool {
    body.ends_with(b"0\r\n\r\n")
}

/// 200 with this body.
pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut answer = head.into_bytes();
    answer.extend_from_slice(body);
    answer
}
