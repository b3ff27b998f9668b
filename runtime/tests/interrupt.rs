//! In a process of its own, because the flag is the process's: one signal, everything stops.

use std::time::{Duration, Instant};

use imgrun::{Class, Tool, interrupt};

#[test]
fn a_signal_ends_the_program_that_runs() {
    interrupt::install().unwrap();
    interrupt::install().unwrap();
    interrupt::check().unwrap();
    let began = Instant::now();
    let signal = || {
        let us = rustix::process::getpid();
        rustix::process::kill_process(us, rustix::process::Signal::TERM).unwrap();
    };
    let error = Tool::new("sh")
        .args(["-c", "echo ready; sleep 600"])
        .on_stdout_line(|_| signal())
        .run()
        .unwrap_err();
    assert_eq!(error.class(), Class::Interrupted);
    assert!(interrupt::interrupted());
    assert!(began.elapsed() < Duration::from_secs(30));
    let error = Tool::new("true").run().unwrap_err();
    assert_eq!(error.class(), Class::Interrupted, "nothing new is started");
}

/// The second signal does not wait for anything to be tidied up.
#[test]
fn a_second_signal_exits_at_once() {
    const ASKED: &str = "INTERRUPT_TEST_CHILD";
    if std::env::var_os(ASKED).is_some() {
        interrupt::install().unwrap();
        let us = rustix::process::getpid();
        rustix::process::kill_process(us, rustix::process::Signal::INT).unwrap();
        // Any thread may be the one that takes the signal.
        while !interrupt::interrupted() {
            std::thread::sleep(Duration::from_millis(1));
        }
        rustix::process::kill_process(us, rustix::process::Signal::INT).unwrap();
        std::thread::sleep(Duration::from_secs(60));
        panic!("still here");
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_second_signal_exits_at_once"])
        .env(ASKED, "1")
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(130));
}

#[test]
fn an_ignored_signal_stays_ignored() {
    const ASKED: &str = "INTERRUPT_TEST_IGNORED";
    if std::env::var_os(ASKED).is_some() {
        interrupt::install().unwrap();
        let us = rustix::process::getpid();
        rustix::process::kill_process(us, rustix::process::Signal::INT).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(!interrupt::interrupted());
        return;
    }
    let this = std::env::current_exe().unwrap();
    let status = std::process::Command::new("sh")
        .args(["-c", "trap '' INT; exec \"$0\" --exact an_ignored_signal_stays_ignored"])
        .arg(this)
        .env(ASKED, "1")
        .status()
        .unwrap();
    assert!(status.success());
}
