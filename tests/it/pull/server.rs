//! nginx, which writes down what it sends, and a proxy that breaks what it is told to.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A real web server over a directory.
pub(super) struct Server {
    child: Child,
    port: u16,
    dir: TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub(super) fn start(root: &Path) -> Self {
        let (port, dir) = (free_port(), TempDir::new().unwrap());
        let own = dir.path().display();
        let user =
            if fs::metadata("/proc/self").is_ok_and(|m| is_root(&m)) { "user root;" } else { "" };
        let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {own}/temp;"))
            .join(" ");
        let config = format!(
            "worker_processes 1; daemon off; {user} pid {own}/pid; error_log {own}/errors;\n\
             events {{ worker_connections 512; }}\n\
             http {{ {places}\n\
             log_format plain '$status $body_bytes_sent $request_method $uri $http_range';\n\
             access_log {own}/log plain;\n\
             server {{ listen 127.0.0.1:{port}; root {}; }} }}\n",
            root.display()
        );
        fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-c").arg(dir.path().join("nginx.conf")).arg("-p").arg(dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("nginx: run tests/setup tests");
        let mut server = Server { child, port, dir };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(120), "nginx does not start");
            assert_eq!(server.child.try_wait().unwrap(), None, "nginx ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it has written down. A line is written after the last byte has gone; but there is one
    /// worker, and it does that before it answers another request.
    fn log(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"HEAD /none HTTP/1.0\r\n\r\n").unwrap();
        let answered = stream.read_to_end(&mut Vec::new()).unwrap();
        assert!(answered > 0, "nginx does not answer");
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// The bytes of published files that it has sent.
    pub(super) fn sent(&self) -> u64 {
        let log = self.log();
        let targets = log.lines().filter(|line| line.contains(" /targets/"));
        targets.map(|line| line.split(' ').nth(1).unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Ends it, and returns all that it was asked for: `status bytes method path range`.
    pub(super) fn stop(mut self) -> Vec<String> {
        let log = self.log();
        self.end();
        log.lines().map(str::to_string).collect()
    }

    fn end(&mut self) {
        // Not SIGKILL: its worker would stay.
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let _ = self.child.wait();
    }

    /// How many requests for parts of published files there were.
    pub(super) fn requests(&self) -> usize {
        self.log().lines().filter(|line| line.contains(" /targets/")).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.end();
        }
    }
}

fn is_root(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.uid() == 0
}

/// What is done to an answer.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// This instead: `429 Too Many Requests`, and a header line.
    Answer(&'static str, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// One byte of the body is another.
    Lie(usize),
    /// No more comes after so many bytes of the body, and the connection stays.
    Stall(usize),
    /// The whole file, whatever part was asked for.
    Whole,
    /// Nothing.
    None,
}

/// A server that does as `faults` say, in this order, to requests for published files; after the
/// last one it does what that says for ever where `for_ever`.
pub(super) struct Proxy {
    port: u16,
    upstream: u16,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    for_ever: bool,
}

impl Proxy {
    pub(super) fn once(server: &Server, faults: &[Fault]) -> Arc<Self> {
        Self::start(server, faults, false)
    }

    pub(super) fn always(server: &Server, fault: Fault) -> Arc<Self> {
        Self::start(server, &[fault], true)
    }

    fn start(server: &Server, faults: &[Fault], for_ever: bool) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Mutex::new(faults.iter().cloned().collect()));
        let proxy = Arc::new(Proxy { port, upstream: server.port, faults, for_ever });
        let serving = Arc::clone(&proxy);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let proxy = Arc::clone(&serving);
                std::thread::spawn(move || proxy.serve(client));
            }
        });
        proxy
    }

    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn fault(&self, request: &str) -> Fault {
        if !request.contains("/targets/") {
            return Fault::None;
        }
        let mut faults = self.faults.lock().unwrap();
        match self.for_ever {
            true => faults.front().cloned().unwrap_or(Fault::None),
            false => faults.pop_front().unwrap_or(Fault::None),
        }
    }

    /// One request; the connection ends with it.
    fn serve(&self, mut client: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(client.try_clone().ok()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let fault = self.fault(head.lines().next()?);
        if let Fault::Answer(status, header) = fault {
            let text = format!("HTTP/1.1 {status}\r\n{header}Content-Length: 0\r\n\r\n");
            return client.write_all(text.as_bytes()).ok();
        }
        let lines = head.lines().filter(|line| {
            let line = line.to_lowercase();
            let dropped = matches!(fault, Fault::Whole) && line.starts_with("range:");
            !line.is_empty() && !line.starts_with("connection:") && !dropped
        });
        let request = lines.collect::<Vec<_>>().join("\r\n");
        let mut upstream = TcpStream::connect(("127.0.0.1", self.upstream)).ok()?;
        upstream.write_all(format!("{request}\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer).ok()?;
        let body = answer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        match fault {
            Fault::Cut(bytes) if body + bytes < answer.len() => answer.truncate(body + bytes),
            Fault::Lie(at) if body + at < answer.len() => answer[body + at] ^= 1,
            Fault::Stall(bytes) if body + bytes < answer.len() => {
                client.write_all(&answer[..body + bytes]).ok()?;
                std::thread::sleep(Duration::from_secs(120));
                return None;
            }
            _ => {}
        }
        client.write_all(&answer).ok()
    }
}
