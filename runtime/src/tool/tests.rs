//! Real shells, watched from outside.

use super::*;

fn sh(script: &str) -> Tool<'_> {
    Tool::new("sh").arg("-c").arg(script)
}

#[test]
fn output_is_exact_and_lines_are_seen() {
    let mut seen = Vec::new();
    let output = sh(r"printf 'a\000b'; echo one >&2; printf 'two\rthree' >&2")
        .on_stderr_line(|l| seen.push(l.to_string()))
        .run()
        .unwrap();
    assert_eq!(output.stdout, b"a\0b");
    assert_eq!(seen, ["one", "two", "three"]);
}

#[test]
fn a_failure_names_command_status_and_last_lines() {
    let error = sh("seq 1 50 >&2; exit 7").run().unwrap_err();
    assert_eq!(error.class(), Class::Host);
    let text = error.to_string();
    assert!(text.starts_with("sh -c 'seq 1 50 >&2; exit 7': exit status: 7\n  | 31\n"), "{text}");
    assert!(text.ends_with("\n  | 50"), "{text}");
    let text = sh("echo why; exit 1").run().unwrap_err().to_string();
    assert!(text.ends_with("\n  | why"), "{text}");
}

#[test]
fn a_missing_program_names_its_package() {
    let error = Tool::new("qemu-system-nothing").run().unwrap_err();
    assert_eq!(error.class(), Class::Host);
    assert_eq!(error.to_string(), "program qemu-system-nothing is not installed");
    assert_eq!(debian_package("qemu-system-x86_64"), "qemu-system-x86");
    let error = require(&["sh", "xz-not-here", "a-not-here"]).unwrap_err();
    assert_eq!(error.hint_text(), Some("apt-get install a-not-here xz-not-here"));
}

#[test]
fn a_missing_directory_is_not_a_missing_program() {
    let error = Tool::new("true").dir("/nowhere/at/all").run().unwrap_err();
    assert_eq!(error.class(), Class::Input);
    assert!(error.to_string().contains("/nowhere/at/all"));
}

/// The process `pid` ends within a moment (a zombie that init has not yet seen counts):
/// SIGKILL has been sent, but nobody but init can wait for it.
fn is_gone(pid: &str) -> bool {
    let stat = format!("/proc/{}/stat", pid.trim());
    (0..500).any(|_| match std::fs::read_to_string(&stat) {
        Ok(stat) if !stat.rsplit(") ").next().is_some_and(|s| s.starts_with('Z')) => {
            thread::sleep(Duration::from_millis(10));
            false
        }
        _ => true,
    })
}

#[test]
fn a_timeout_takes_the_whole_group() {
    let began = Instant::now();
    let mut pid = String::new();
    let error = sh("sleep 600 & echo $!; trap '' TERM; wait; sleep 600")
        .timeout(Duration::from_millis(200))
        .on_stdout_line(|l| pid = l.to_string())
        .run()
        .unwrap_err();
    assert!(error.to_string().contains("stopped after 200ms"), "{error}");
    assert!(began.elapsed() < GRACE + Duration::from_secs(20));
    assert!(is_gone(&pid), "{pid}");
}

#[test]
fn a_child_left_behind_neither_lives_nor_holds_us() {
    let began = Instant::now();
    let pids = sh("sleep 600 & echo $!; setsid sleep 5 & echo done").run().unwrap();
    assert!(began.elapsed() < Duration::from_secs(4));
    let text = String::from_utf8(pids.stdout).unwrap();
    assert!(text.ends_with("done\n"));
    assert!(is_gone(text.lines().next().unwrap()));
}

#[test]
fn a_stream_is_read_while_the_program_runs() {
    let first = sh("echo one; read x </dev/null; head -c 1000000 /dev/zero")
        .stream(|stdout| {
            let mut four = [0; 4];
            stdout.read_exact(&mut four).map_err(|e| Error::io("x", e))?;
            Ok(four)
        })
        .unwrap();
    assert_eq!(&first, b"one\n");
}

#[test]
fn the_cause_of_a_failed_stream_goes_first() {
    // The reader gives up in the middle: its error, and the endless program is stopped.
    let error = sh("yes").stream::<()>(|_| Err(Error::input("bad entry"))).unwrap_err();
    assert_eq!(error.to_string(), "bad entry");
    // The program dies and the reader sees a short stream: the program's error.
    let short = |out: &mut dyn Read| -> Result<()> {
        io::copy(out, &mut io::sink()).map_err(|e| Error::io("x", e))?;
        Err(Error::input("truncated"))
    };
    let error = sh("echo boom >&2; exit 3").stream(short).unwrap_err();
    assert!(error.to_string().contains("boom"), "{error}");
    let error = sh("true").stream(short).unwrap_err();
    assert_eq!(error.to_string(), "truncated");
}

#[test]
fn words_are_quoted() {
    let tool = Tool::new("a").args(["b c", "it's", "", "x=1"]);
    assert_eq!(tool.command_line(), r"a 'b c' 'it'\''s' '' x=1");
}

#[test]
fn a_detached_program_does_its_work_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    Tool::new("sh").args(["-c", "sleep 0.2; echo text >\"$0\""]).arg(&file).detach().unwrap();
    assert!(!file.exists(), "it was waited for");
    let begun = Instant::now();
    while std::fs::read_to_string(&file).unwrap_or_default() != "text\n" {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(Tool::new("no-such-program").detach().is_err());
}

#[test]
fn a_program_can_read_a_pipe() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let text = "x".repeat(200_000);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
            drop(writer);
        });
        Tool::new("wc").arg("-c").stdin(reader).run().unwrap()
    });
    assert_eq!(output.stdout, b"200000\n");
}
