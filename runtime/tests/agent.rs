//! The host's end of the protocol against the real agent program, without a machine.

mod real_agent;

use std::time::Duration;

use agent::CHANNELS_MAX;
use imgrun::{Exec, FaultCode, Status};
use real_agent::{Agent, run, shell, within};

#[tokio::test]
async fn a_command_has_its_streams_apart_and_its_code() {
    let agent = Agent::start();
    let guest = agent.greet().await;
    let (out, err, status) = run(&guest, shell("echo a; echo b >&2; exit 42"), vec![]).await;
    assert_eq!((&out[..], &err[..], status), (&b"a\n"[..], &b"b\n"[..], Status::Code(42)));
    let (_, _, status) = run(&guest, shell("kill -9 $$"), vec![]).await;
    assert_eq!(status, Status::Signal(9));
}

#[tokio::test]
async fn ten_megabytes_come_back_exactly() {
    let agent = Agent::start();
    let guest = agent.greet().await;
    // All byte values, and the first bytes of a greeting, which data must be able to carry.
    let mut input: Vec<u8> = (0..10_000_000u32).map(|i| (i.wrapping_mul(i) >> 11) as u8).collect();
    input[5_000_000..5_000_008].copy_from_slice(b"\xF5imgHEL\xFA");
    let exec = Exec { stdin: true, ..shell("cat") };
    let (out, _, status) = run(&guest, exec, input.clone()).await;
    assert!(out == input, "{} bytes came back", out.len());
    assert_eq!(status, Status::Code(0));
}

#[tokio::test]
async fn what_can_not_run_says_why() {
    let agent = Agent::start();
    let guest = agent.greet().await;
    let exec = Exec { argv: vec![b"/no/such".to_vec()], ..Exec::default() };
    assert_eq!(guest.exec(exec).await.unwrap_err().code, Some(FaultCode::NotFound));
    let exec = Exec { argv: vec![b"/etc/passwd".to_vec()], ..Exec::default() };
    assert_eq!(guest.exec(exec).await.unwrap_err().code, Some(FaultCode::NotExecutable));
}

#[tokio::test]
async fn many_commands_at_once_and_one_that_is_given_up() {
    let agent = Agent::start();
    let guest = agent.greet().await;
    let given_up = within(guest.exec(shell("sleep 1000"))).await.unwrap();
    drop(given_up);
    let commands: Vec<_> = (0..20).map(|i| format!("head -c {i}00000 /dev/zero")).collect();
    let all = commands.iter().map(|c| run(&guest, shell(c), vec![]));
    let mut lengths = Vec::new();
    for one in all {
        lengths.push(one.await.0.len());
    }
    assert_eq!(lengths, (0..20).map(|i| i * 100_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_command_given_up_with_its_window_full_frees_its_channel() {
    let agent = Agent::start();
    let guest = agent.greet().await;
    let mut flooding = Vec::new();
    for _ in 0..CHANNELS_MAX {
        flooding.push(within(guest.exec(shell("exec head -c 2000000 /dev/zero"))).await.unwrap());
    }
    // Until all windows and pipes are full.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(guest.exec(shell("true")).await.is_err());
    drop(flooding);
    within(async {
        let mut running = Vec::new();
        while running.len() < CHANNELS_MAX {
            match guest.exec(shell("sleep 1000")).await {
                Ok(one) => running.push(one),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
}
