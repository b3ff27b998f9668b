//! What listens, as a command of `imgrun ports`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use agent::listening::{Listener, Transport, waiting};

const TABLES: [(&str, Transport); 4] = [
    ("/proc/net/tcp", Transport::Tcp),
    ("/proc/net/tcp6", Transport::Tcp),
    ("/proc/net/udp", Transport::Udp),
    ("/proc/net/udp6", Transport::Udp),
];

/// Everything that listens, in order, a line each.
pub(crate) fn lines() -> Result<String, String> {
    let mut sockets = Vec::new();
    for (path, protocol) in TABLES {
        match fs::read_to_string(path) {
            Ok(table) => {
                sockets.extend(waiting(&table, protocol).into_iter().map(|s| (protocol, s)));
            }
            // A kernel without that protocol.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{path}: {e}")),
        }
    }
    let owners = owners();
    let mut listeners: Vec<_> = sockets
        .into_iter()
        .map(|(protocol, (address, inode))| {
            let process = owners.get(&inode).map(|&pid| (pid, name(pid)));
            Listener { protocol, address, process }
        })
        .collect();
    listeners.sort();
    Ok(listeners.iter().map(|listener| listener.to_line() + "\n").collect())
}

/// Which process has a socket open, by the socket's inode; the first where several have.
fn owners() -> HashMap<u64, u32> {
    let mut owners = HashMap::new();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        // One that has ended meanwhile has none open.
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for target in open.filter_map(|entry| fs::read_link(entry.path()).ok()) {
            if let Some(inode) = inode(target.as_os_str().as_bytes()) {
                owners.entry(inode).or_insert(pid);
            }
        }
    }
    owners
}

/// `socket:[4711]`
fn inode(target: &[u8]) -> Option<u64> {
    let number = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

fn name(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_string()
}
