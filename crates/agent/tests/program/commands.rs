//! One command at a time, and several.

use std::time::{Duration, Instant};

use crate::client::{Client, code, exec, expect_gone, sh};
use agent::*;

/// Bytes of every value, the greeting's magic among them.
fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut bytes: Vec<u8> = (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    let hello = Hello::new([5; NONCE_BYTES], 0).encode();
    for at in [0, 1000, len - hello.len()] {
        bytes[at..at + hello.len()].copy_from_slice(&hello);
    }
    bytes
}

#[test]
fn streams_are_apart_and_codes_are_kept() {
    let mut client = Client::start();
    let result = client.run(sh("printf out; printf err >&2; exit 42"));
    assert_eq!((&result.stdout[..], &result.stderr[..]), (&b"out"[..], &b"err"[..]));
    assert_eq!(result.exit, code(42));
    assert_eq!(client.run(exec(&["true"])).exit, code(0));
    let result = client.run(sh("kill -SEGV $$"));
    assert_eq!(result.exit, Exit { status: Status::Signal(11), timed_out: false });
}

#[test]
fn a_megabyte_each_way_is_byte_exact() {
    let mut client = Client::start();
    let data = bytes(1 << 20);
    client.begin(1, Exec { stdin: true, ..sh("tee /dev/stderr") });
    let (mut sent, mut credit) = (0, WINDOW_BYTES as usize);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let exit = loop {
        let more = credit.min(data.len() - sent).min(50_000);
        if more > 0 {
            let mut frames = Vec::new();
            encode_stdin(1, &data[sent..sent + more], &mut frames);
            client.write(&frames);
            (sent, credit) = (sent + more, credit - more);
            if sent == data.len() {
                client.send(1, Message::Data(Stream::Stdin, vec![]));
            }
            continue;
        }
        match client.next().1 {
            Message::Credit { stream: Stream::Stdin, bytes } => credit += bytes as usize,
            Message::Data(stream, bytes) => {
                if !bytes.is_empty() {
                    client.send(1, Message::Credit { stream, bytes: bytes.len() as u32 });
                }
                let to = if stream == Stream::Stdout { &mut stdout } else { &mut stderr };
                to.extend_from_slice(&bytes);
            }
            Message::Exit(exit) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(exit, code(0));
    assert!(stdout == data, "stdout differs");
    assert!(stderr == data, "stderr differs");
}

#[test]
fn input_that_nobody_reads_blocks_nobody() {
    let mut client = Client::start();
    client.begin(1, Exec { stdin: true, ..sh("exec <&-; echo closed; sleep 0.3; echo done") });
    let (mut credit, mut out) = (WINDOW_BYTES as usize, Vec::new());
    let mut sent = 0;
    loop {
        while credit >= 65536 && sent < 1 << 20 {
            client.send(1, Message::Data(Stream::Stdin, vec![0; 65536]));
            (credit, sent) = (credit - 65536, sent + 65536);
        }
        match client.next().1 {
            Message::Credit { bytes, .. } => credit += bytes as usize,
            Message::Data(Stream::Stdout, bytes) => out.extend(bytes),
            Message::Exit(exit) => break assert_eq!(exit, code(0)),
            _ => {}
        }
    }
    assert_eq!(out, b"closed\ndone\n");
    client.ping();
}

#[test]
fn environment_directory_and_arguments_arrive() {
    let mut client = Client::start();
    let env = vec![b"A=b=c".to_vec(), b"HOME=/x".to_vec(), b"BYTES=\xff".to_vec()];
    let result = client.run(Exec {
        env,
        cwd: Some(b"/usr".to_vec()),
        argv: vec![
            b"sh".to_vec(),
            b"-c".to_vec(),
            b"pwd; printf '%s ' \"$A\" \"$HOME\" \"$BYTES\" \"$1\"".to_vec(),
            b"x".to_vec(),
            b"\xfe ".to_vec(),
        ],
        ..Exec::default()
    });
    assert_eq!(result.stdout, b"/usr\nb=c /x \xff \xfe  ");
    let env = vec![b"ONLY=1".to_vec()];
    let result = client.run(Exec { clear_env: true, env, ..exec(&["/usr/bin/env"]) });
    assert_eq!(result.stdout, b"ONLY=1\n");
    let result = client.run(sh("echo $PATH; readlink /proc/self/fd/0; ls /proc/self/fd"));
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    // 3 is ls's own, on the directory.
    assert_eq!(result.stdout, format!("{path}\n/dev/null\n0\n1\n2\n3\n").as_bytes());
}

#[test]
fn a_command_has_its_own_session_and_no_blocked_signals() {
    let mut client = Client::start();
    let result = client.run(sh("echo $$; exec cut -d' ' -f5,6 /proc/$$/stat"));
    let text = String::from_utf8(result.stdout).expect("text");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[1], format!("{0} {0}", lines[0]));
    let result = client.run(exec(&["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]));
    let text = String::from_utf8(result.stdout).expect("text");
    for line in text.lines() {
        let set = line.split_ascii_whitespace().nth(1).expect("a set");
        let set = u64::from_str_radix(set, 16).expect("hexadecimal");
        // 32 and 33 are the C library's own.
        assert_eq!(set & !(3 << 31), 0, "{text}");
    }
}

#[test]
fn what_cannot_run_is_refused_with_its_reason() {
    let mut client = Client::start();
    assert_eq!(client.refused(exec(&["no-such-program"])), FaultCode::NotFound);
    assert_eq!(client.refused(exec(&["/no/such"])), FaultCode::NotFound);
    assert_eq!(client.refused(exec(&["/etc/passwd"])), FaultCode::NotExecutable);
    assert_eq!(client.refused(exec(&["/etc"])), FaultCode::NotExecutable);
    let cwd = Some(b"/no/such".to_vec());
    assert_eq!(client.refused(Exec { cwd, ..exec(&["true"]) }), FaultCode::NoSuchCwd);
    let user = Some(b"no-such-user".to_vec());
    assert_eq!(client.refused(Exec { user, ..exec(&["true"]) }), FaultCode::NoSuchUser);
    client.ping();
    // The channel of a refused command is free again.
    assert_eq!(client.run(exec(&["true"])).exit, code(0));
}

#[test]
fn users_are_numbers_or_names() {
    assert!(rustix::process::geteuid().is_root(), "this test has to run as root");
    let mut client = Client::start();
    let user =
        |user: &str| Exec { user: Some(user.into()), ..sh("id -u; id -g; id -G; echo $HOME") };
    let result = client.run(user("12345:54321"));
    assert_eq!(result.stdout, b"12345\n54321\n54321\n/\n");
    let result = client.run(user("daemon"));
    assert_eq!(result.stdout, b"1\n1\n1\n/usr/sbin\n");
    let exec =
        Exec { user: Some(b"daemon".to_vec()), ..sh("echo ok >/dev/stdout; echo no >/dev/stderr") };
    let result = client.run(exec);
    assert_eq!((&result.stdout[..], &result.stderr[..]), (&b"ok\n"[..], &b"no\n"[..]));
}

#[test]
fn a_signal_reaches_the_whole_group() {
    let mut client = Client::start();
    client.begin(1, sh("sleep 1000 & echo $!; wait"));
    let (_, Message::Data(Stream::Stdout, pid)) = client.next() else { panic!("no output") };
    let pid = String::from_utf8(pid).expect("text").trim().parse().expect("a number");
    client.send(1, Message::Signal { signo: 15 });
    let result = client.finish(1);
    assert_eq!(result.exit, Exit { status: Status::Signal(15), timed_out: false });
    expect_gone(pid);
}

#[test]
fn a_timeout_ends_even_those_who_do_not_want_to() {
    let mut client = Client::start();
    let began = Instant::now();
    let result = client.run(Exec { timeout_ms: Some(100), ..exec(&["sleep", "1000"]) });
    assert_eq!(result.exit, Exit { status: Status::Signal(15), timed_out: true });
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let stubborn = sh("trap '' TERM; echo $$; while :; do sleep 0.05; done");
    let result = client.run(Exec { timeout_ms: Some(100), ..stubborn });
    assert_eq!(result.exit, Exit { status: Status::Signal(9), timed_out: true });
    let result = client.run(Exec { timeout_ms: Some(u64::MAX), ..exec(&["true"]) });
    assert_eq!(result.exit, code(0));
}

#[test]
fn a_terminal_echoes_resizes_and_ends() {
    let mut client = Client::start();
    let terminal = Some(Terminal { rows: 33, cols: 111 });
    let script =
        "tty; stty size; trap 'stty size; exit 9' WINCH; echo ready; while :; do read x; done";
    client.begin(1, Exec { terminal, stdin: true, ..sh(script) });
    let mut seen = Vec::new();
    let mut read_until = |client: &mut Client, end: &[u8]| loop {
        if seen.ends_with(end) {
            break std::mem::take(&mut seen);
        }
        let (_, message) = client.next();
        let Message::Data(Stream::Stdout, bytes) = message else { panic!("{message:?}, {seen:?}") };
        seen.extend(bytes);
    };
    let text = read_until(&mut client, b"ready\r\n");
    let text = String::from_utf8(text).expect("text");
    assert!(text.starts_with("/dev/pts/") && text.ends_with("\r\n33 111\r\nready\r\n"), "{text}");
    client.send(1, Message::Data(Stream::Stdin, b"typed\n".to_vec()));
    assert_eq!(read_until(&mut client, b"\r\n"), b"typed\r\n");
    client.send(1, Message::Resize(Terminal { rows: 12, cols: 34 }));
    // dash runs the trap once read returns.
    client.send(1, Message::Data(Stream::Stdin, b"\n".to_vec()));
    let result = client.finish(1);
    assert!(String::from_utf8_lossy(&result.stdout).contains("12 34\r\n"), "{result:?}");
    assert_eq!((result.exit, result.stderr), (code(9), vec![]));

    client.begin(1, Exec { terminal, stdin: true, ..exec(&["cat"]) });
    client.send(1, Message::Data(Stream::Stdin, vec![]));
    assert_eq!(client.finish(1).exit, code(0));
}

#[test]
fn a_slow_reader_stalls_only_itself() {
    let mut client = Client::start();
    // More than a window and the pipe hold, so that it can not end before it is read.
    client.begin(1, sh("head -c 4000000 /dev/zero"));
    let mut received = 0;
    while received < WINDOW_BYTES as usize {
        let (1, Message::Data(Stream::Stdout, bytes)) = client.next() else { panic!("no data") };
        received += bytes.len();
    }
    // Nothing more comes without credit, and others go on.
    client.begin(2, sh("head -c 500000 /dev/zero; exit 3"));
    let result = client.finish(2);
    assert_eq!((result.stdout.len(), result.exit), (500_000, code(3)));
    client.send(1, Message::Credit { stream: Stream::Stdout, bytes: received as u32 });
    assert_eq!(received + client.finish(1).stdout.len(), 4_000_000);
}

#[test]
fn output_that_waits_for_credit_outlives_the_command() {
    let mut client = Client::start();
    let script = "head -c 320000 /dev/zero; exit 4";
    let pid = client.begin(1, sh(script));
    let mut received = 0;
    while received < WINDOW_BYTES as usize {
        let (1, Message::Data(Stream::Stdout, bytes)) = client.next() else { panic!("no data") };
        received += bytes.len();
    }
    expect_gone(pid);
    // Longer than a process that was left behind is waited for.
    std::thread::sleep(Duration::from_millis(600));
    client.ping_past_the_end_of_stderr();
    client.send(1, Message::Credit { stream: Stream::Stdout, bytes: received as u32 });
    let result = client.finish(1);
    assert_eq!((received + result.stdout.len(), result.exit), (320_000, code(4)));
}

impl Client {
    /// The end of standard error may have come before.
    fn ping_past_the_end_of_stderr(&mut self) {
        self.send(0, Message::Ping { token: 1 });
        let mut next = self.next();
        if next == (1, Message::Data(Stream::Stderr, vec![])) {
            next = self.next();
        }
        assert_eq!(next, (0, Message::Pong { token: 1 }));
    }
}

#[test]
fn a_process_left_behind_does_not_hold_the_exit() {
    let mut client = Client::start();
    let began = Instant::now();
    let result = client.run(sh("setsid sleep 20 & echo said; exit 5"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((&result.stdout[..], result.exit), (&b"said\n"[..], code(5)));
    // Even one that goes on talking.
    let script = "(while :; do echo on || exit; sleep 0.01; done) & echo said; exit 6";
    assert_eq!(client.run(sh(script)).exit, code(6));
}

#[test]
fn many_commands_at_a_time_but_not_more_than_allowed() {
    let mut client = Client::start();
    let most = CHANNELS_MAX as u32;
    for channel in 1..=most {
        client.begin(channel, Exec { stdin: true, ..exec(&["cat"]) });
    }
    client.send(most + 1, Message::Exec(exec(&["true"])));
    let (channel, Message::Error(fault)) = client.next() else { panic!("no error") };
    assert_eq!((channel, fault.code), (most + 1, FaultCode::TooMany));
    for channel in 1..=most {
        client.send(channel, Message::Data(Stream::Stdin, channel.to_le_bytes().to_vec()));
        client.send(channel, Message::Data(Stream::Stdin, vec![]));
        let result = client.finish(channel);
        assert_eq!((result.stdout, result.exit), (channel.to_le_bytes().to_vec(), code(0)));
    }
}
