//! A proxy before a registry that breaks answers on purpose, one fault a request.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What is done to the answer of one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// This answer instead: status line and further headers.
    Answer(&'static str, String),
    /// A `Content-Length` that is so much larger, and a connection that then ends.
    Longer(usize),
    /// One that is so much smaller, with a body to match.
    Shorter(usize),
    /// A bit of the body is flipped.
    Flip,
    /// A `Range` that is not passed on: the answer is the whole.
    Whole,
    /// A `Content-Range` that names another place.
    OtherRange,
    /// A body without an end.
    Endless,
    /// After so many bytes of the body nothing more comes, for long.
    Stall(usize),
    /// Nothing is wrong.
    None,
}

/// A request that came by.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) body: String,
}

/// Which paths a fault is for, and the faults that are left.
struct Script {
    part: String,
    faults: VecDeque<Fault>,
}

/// A token server: what it gives out, and the challenge that the registry then answers with.
#[derive(Clone)]
pub(crate) struct Tokens {
    pub(crate) token: Arc<Mutex<String>>,
}

#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    upstream: u16,
    script: Arc<Mutex<Script>>,
    requests: Arc<Mutex<Vec<Request>>>,
    tokens: Option<Tokens>,
}

impl Proxy {
    /// A proxy before `upstream` that breaks the requests whose path holds `part`, in this order.
    pub(crate) fn new(upstream: u16, part: &str, faults: &[Fault]) -> Proxy {
        Self::start(upstream, part, faults, None)
    }

    /// A proxy that wants the token `tokens` holds, and gives it to who asks at `/token`.
    pub(crate) fn with_tokens(upstream: u16, tokens: Tokens) -> Proxy {
        Self::start(upstream, "none", &[], Some(tokens))
    }

    /// The same, with a token server that breaks its answers.
    pub(crate) fn with_broken_tokens(upstream: u16, tokens: Tokens, faults: &[Fault]) -> Proxy {
        Self::start(upstream, "/token", faults, Some(tokens))
    }

    fn start(upstream: u16, part: &str, faults: &[Fault], tokens: Option<Tokens>) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Script { part: part.to_string(), faults: faults.iter().cloned().collect() };
        let script = Arc::new(Mutex::new(script));
        let proxy = Proxy { port, upstream, script, requests: Arc::default(), tokens };
        let serving = proxy.clone();
        // Ends with the test's process; a broken connection is a test's business, not the thread's.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let proxy = serving.clone();
                std::thread::spawn(move || proxy.serve(stream));
            }
        });
        proxy
    }

    /// The requests whose path holds `part`, in order.
    pub(crate) fn requests(&self, part: &str) -> Vec<Request> {
        let all = self.requests.lock().unwrap();
        all.iter().filter(|request| request.path.contains(part)).cloned().collect()
    }

    pub(crate) fn faults_left(&self) -> usize {
        self.script.lock().unwrap().faults.len()
    }

    fn serve(&self, mut client: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(client.try_clone().ok()?);
        let mut head = read_head(&mut reader)?;
        let path = head[0].split(' ').nth(1)?.to_string();
        let get = |name: &str| {
            let found = head.iter().find(|line| line.to_lowercase().starts_with(name));
            found.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_string())
        };
        let (range, authorization) = (get("range:"), get("authorization:"));
        let length = get("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).ok()?;
        let (path_too, authorization_too) = (path.clone(), authorization.clone());
        let request = Request { path: path_too, range, authorization: authorization_too, body };
        self.requests.lock().unwrap().push(request);
        let fault = {
            let mut script = self.script.lock().unwrap();
            let hit = path.contains(&script.part);
            if hit { script.faults.pop_front() } else { None }
        };
        if let Some(tokens) = &self.tokens {
            let token = tokens.token.lock().unwrap().clone();
            if let (true, Some(Fault::Answer(status, headers))) =
                (path.starts_with("/token"), &fault)
            {
                return answer(&mut client, status, headers, "{}");
            }
            if path.starts_with("/token") {
                return answer(&mut client, "200 OK", "", &format!("{{\"token\":\"{token}\"}}"));
            }
            if authorization != Some(format!("Bearer {token}")) {
                let port = self.port;
                let challenge = format!(
                    "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",\
                     service=\"test\",scope=\"repository:app:pull\"\r\n"
                );
                return answer(&mut client, "401 Unauthorized", &challenge, "{}");
            }
            head.retain(|line| !line.to_lowercase().starts_with("authorization:"));
        }
        self.pass_on(client, head, fault.unwrap_or(Fault::None))
    }

    fn pass_on(&self, mut client: TcpStream, mut head: Vec<String>, fault: Fault) -> Option<()> {
        match &fault {
            Fault::Answer(status, headers) => return answer(&mut client, status, headers, "{}"),
            Fault::Whole => head.retain(|line| !line.to_lowercase().starts_with("range:")),
            _ => {}
        }
        head.retain(|line| !line.to_lowercase().starts_with("connection:"));
        let mut upstream = TcpStream::connect(("127.0.0.1", self.upstream)).ok()?;
        write!(upstream, "{}\r\nConnection: close\r\n\r\n", head.join("\r\n")).ok()?;
        let mut reader = BufReader::new(upstream);
        let mut head = read_head(&mut reader)?;
        let mut body = Vec::new();
        reader.read_to_end(&mut body).ok()?;
        let mut length = body.len();
        match fault {
            Fault::Cut(bytes) => body.truncate(bytes),
            Fault::Longer(more) => length += more,
            Fault::Shorter(less) => {
                length -= less;
                body.truncate(length);
            }
            Fault::Flip => {
                let middle = body.len() / 2;
                body[middle] ^= 1;
            }
            Fault::OtherRange => {
                for line in &mut head {
                    *line = line.replace("Content-Range: bytes ", "Content-Range: bytes 1");
                }
            }
            Fault::Endless => return endless(&mut client),
            Fault::Stall(_) => {}
            Fault::Whole | Fault::None | Fault::Answer(..) => {}
        }
        head.retain(|line| {
            let line = line.to_lowercase();
            !line.starts_with("content-length:") && !line.starts_with("connection:")
        });
        let head = head.join("\r\n");
        let more = format!("Content-Length: {length}\r\nConnection: close");
        write!(client, "{head}\r\n{more}\r\n\r\n").ok()?;
        if let Fault::Stall(bytes) = fault {
            client.write_all(&body[..bytes]).ok()?;
            std::thread::sleep(std::time::Duration::from_secs(25));
            return None;
        }
        client.write_all(&body).ok()?;
        client.shutdown(Shutdown::Write).ok()
    }
}

fn endless(client: &mut TcpStream) -> Option<()> {
    write!(client, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    while client.write_all(chunk.as_bytes()).is_ok() {}
    None
}

fn answer(client: &mut TcpStream, status: &str, headers: &str, body: &str) -> Option<()> {
    let length = body.len();
    write!(
        client,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .ok()?;
    client.shutdown(Shutdown::Write).ok()
}

/// The lines before the empty one.
fn read_head(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_string();
        if line.is_empty() {
            return Some(lines);
        }
        lines.push(line);
    }
}
