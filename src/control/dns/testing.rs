//! A DNS server on loopback that says what a test tells it to, over UDP, and over TCP where it was
//! told to.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// What the server says about a name. One that it was told nothing about does not exist.
#[derive(Debug, Clone)]
pub(crate) enum Say {
    /// These addresses, with this TTL in seconds; none of the other family.
    Addresses(Vec<IpAddr>, u32),
    /// An alias of this name with this TTL, and what is said about that one.
    Alias(&'static str, u32),
    /// No answer, but this code.
    Code(ResponseCode),
    /// Nothing at all.
    Nothing,
    /// Nothing about this family, and this about the other one.
    NothingAbout(RecordType, Box<Say>),
    /// This to questions with EDNS, and the second one to those without.
    Edns(Box<Say>, Box<Say>),
    /// Over UDP no record, only that there are more; over TCP this.
    Truncated(Box<Say>),
    /// The header alone with this code, as servers answer what they do not understand.
    BareCode(ResponseCode),
}

/// The running server; ends when it is dropped.
pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    says: HashMap<String, Say>,
    asked: HashMap<(String, RecordType), usize>,
    is_over: bool,
}

impl DnsServer {
    pub(crate) fn start() -> Self {
        let (socket, listener) = udp_and_tcp();
        let address = socket.local_addr().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            std::thread::scope(|scope| {
                scope.spawn(|| serve_tcp(&listener, &shared));
                serve(&socket, &shared);
            });
        });
        Self { address, state, thread: Some(thread) }
    }

    /// From now on the server says this about `name`.
    pub(crate) fn say(&self, name: &str, what: Say) {
        self.state().says.insert(name.into(), what);
    }

    /// From now on `name` has these addresses, with TTL 0.
    pub(crate) fn say_addresses(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        self.say(name, Say::Addresses(addresses, 0));
    }

    /// How often `name` was asked for, by family.
    pub(crate) fn asked(&self, name: &str, family: RecordType) -> usize {
        self.state().asked.get(&(name.into(), family)).copied().unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.state().is_over = true;
        // Wakes the threads from their waits.
        let _ = UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], self.address);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn serve(socket: &UdpSocket, state: &Mutex<State>) {
    let mut bytes = [0; 4096];
    loop {
        let (len, client) = socket.recv_from(&mut bytes).unwrap();
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_over {
            return;
        }
        let Ok(question) = Message::from_vec(&bytes[..len]) else { continue };
        if let Some(answer) = state.answer(&question, Way::Udp) {
            // The client may have gone meanwhile.
            let _ = socket.send_to(&answer.to_vec().unwrap(), client);
        }
    }
}

/// One port for both.
fn udp_and_tcp() -> (UdpSocket, TcpListener) {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // The same port may be taken for TCP.
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()) {
            return (socket, listener);
        }
    }
}

fn serve_tcp(listener: &TcpListener, state: &Mutex<State>) {
    for client in listener.incoming() {
        if lock(state).is_over {
            return;
        }
        // A client that goes in the middle ends its connection only.
        let _ = serve_client(client.unwrap(), state);
    }
}

fn serve_client(mut client: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_millis(200)))?;
    loop {
        let mut length = [0; 2];
        client.read_exact(&mut length)?;
        let mut bytes = vec![0; u16::from_be_bytes(length).into()];
        client.read_exact(&mut bytes)?;
        let Ok(question) = Message::from_vec(&bytes) else { return Ok(()) };
        let Some(answer) = lock(state).answer(&question, Way::Tcp) else { return Ok(()) };
        let answer = answer.to_vec().unwrap();
        client.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes())?;
        client.write_all(&answer)?;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a question has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Udp,
    Tcp,
}

impl State {
    fn answer(&mut self, question: &Message, way: Way) -> Option<Message> {
        let query = question.queries.first()?.clone();
        let (mut owner, family) = (query.name().clone(), query.query_type());
        let text = |name: &Name| name.to_ascii().trim_end_matches('.').to_lowercase();
        *self.asked.entry((text(&owner), family)).or_default() += 1;
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(query);
        let mut says = self.says.get(&text(&owner)).cloned();
        loop {
            says = match says {
                None => {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    return Some(answer);
                }
                Some(Say::Code(code)) => {
                    answer.metadata.response_code = code;
                    return Some(answer);
                }
                Some(Say::BareCode(code)) => {
                    answer.metadata.response_code = code;
                    answer.queries.clear();
                    return Some(answer);
                }
                Some(Say::Nothing) => return None,
                Some(Say::NothingAbout(silent, _)) if silent == family => return None,
                Some(Say::Truncated(_)) if way == Way::Udp => {
                    answer.metadata.truncation = true;
                    return Some(answer);
                }
                Some(Say::NothingAbout(_, else_say) | Say::Truncated(else_say)) => Some(*else_say),
                Some(Say::Edns(with, without)) => Some(match question.edns {
                    Some(_) => *with,
                    None => *without,
                }),
                Some(Say::Alias(target, ttl)) => {
                    let target = Name::from_ascii(format!("{target}.")).unwrap();
                    let data = RData::CNAME(CNAME(target.clone()));
                    answer.add_answer(Record::from_rdata(owner, ttl, data));
                    owner = target;
                    self.says.get(&text(&owner)).cloned()
                }
                Some(Say::Addresses(addresses, ttl)) => {
                    for address in addresses {
                        let data = match address {
                            IpAddr::V4(ip) => RData::A(A(ip)),
                            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
                        };
                        if data.record_type() == family {
                            answer.add_answer(Record::from_rdata(owner.clone(), ttl, data));
                        }
                    }
                    return Some(answer);
                }
            }
        }
    }
}
