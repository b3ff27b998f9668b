//! Several clients on one session with the real agent program: each has what is its own.

mod real_agent;

use std::time::Duration;

use agent::{Exec, Hello, Message};
use imgrun::{Guest, Status, Wish};
use real_agent::{Agent, run, shell, within};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// A client's end of a relay, and what becomes of the relay.
fn relay(owner: &Guest) -> (UnixStream, JoinHandle<Wish>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, tokio::spawn(owner.relay(theirs)))
}

async fn client(owner: &Guest) -> Guest {
    within(Guest::greet(relay(owner).0)).await.unwrap()
}

#[tokio::test]
async fn clients_and_the_owner_run_commands_at_once() {
    let agent = Agent::start();
    let owner = agent.greet().await;
    let clients = [client(&owner).await, client(&owner).await];
    let input: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(i) >> 11) as u8).collect();
    let cat = || Exec { stdin: true, ..shell("echo err >&2; cat; exit 9") };
    let all = tokio::join!(
        run(&clients[0], cat(), input.clone()),
        run(&clients[1], cat(), input.clone()),
        run(&owner, cat(), input.clone()),
    );
    for (out, err, status) in [all.0, all.1, all.2] {
        assert!(out == input, "{} bytes came back", out.len());
        assert_eq!((&err[..], status), (&b"err\n"[..], Status::Code(9)));
    }
    assert_eq!(clients[0].ack().version, owner.ack().version);
}

#[tokio::test]
async fn what_a_client_leaves_behind_is_killed_and_nobody_else_is() {
    let agent = Agent::start();
    let owner = agent.greet().await;
    let stays = client(&owner).await;
    let sleeper = within(stays.exec(shell("sleep 1000"))).await.unwrap();
    let goes = client(&owner).await;
    // One that is silent, and one whose window is full.
    let silent = within(goes.exec(shell("exec sleep 1000"))).await.unwrap().pid;
    let floods = within(goes.exec(shell("exec cat /dev/zero"))).await.unwrap().pid;
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(goes);
    let gone = format!("while kill -0 {silent} || kill -0 {floods}; do sleep 0.02; done 2>&-");
    let (_, _, status) = run(&owner, shell(&gone), vec![]).await;
    assert_eq!(status, Status::Code(0));
    let alive = run(&stays, shell(&format!("kill -0 {}", sleeper.pid)), vec![]).await;
    assert_eq!(alive.2, Status::Code(0));
}

#[tokio::test]
async fn what_a_client_had_not_read_keeps_no_channel_open() {
    let agent = Agent::start();
    let owner = agent.greet().await;
    let goes = client(&owner).await;
    let _floods = within(goes.exec(shell("exec cat /dev/zero"))).await.unwrap();
    // Until its window is full.
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(goes);
    let mut all = Vec::new();
    while all.len() < agent::CHANNELS_MAX {
        let started = async {
            loop {
                match owner.exec(shell("exec sleep 1000")).await {
                    Ok(running) => break running,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        all.push(within(started).await);
    }
}

#[tokio::test]
async fn a_client_that_sends_rubbish_hurts_only_itself() {
    let agent = Agent::start();
    let owner = agent.greet().await;
    let hello = Hello::new([7; 16], 0).encode();
    let mut oversize = hello.clone();
    oversize.extend([0xff; 64]);
    let mut unasked = hello.clone();
    for message in [Message::Signal { signo: 9 }, Message::Pong { token: 1 }] {
        let _ = message
            .encode(if matches!(message, Message::Pong { .. }) { 0 } else { 77 }, &mut unasked);
    }
    for bytes in [vec![0x55; 200_000], oversize, unasked] {
        let (mut stream, relay) = relay(&owner);
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(within(relay).await.unwrap(), Wish::Nothing);
        assert_eq!(run(&owner, shell("echo fine"), vec![]).await.0, b"fine\n");
    }
}

/// It gives the guest credit for gigabytes and takes none of them.
#[tokio::test]
async fn a_client_that_does_not_read_is_sent_away() {
    let agent = Agent::start();
    let owner = agent.greet().await;
    let (mut stream, relay) = relay(&owner);
    let mut bytes = Hello::new([7; 16], 0).encode();
    Message::Exec(shell("exec cat /dev/zero")).encode(1, &mut bytes).unwrap();
    let credit = Message::Credit { stream: agent::Stream::Stdout, bytes: u32::MAX };
    stream.write_all(&bytes).await.unwrap();
    // Until the channel is open.
    tokio::time::sleep(Duration::from_millis(300)).await;
    bytes.clear();
    credit.encode(1, &mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(within(relay).await.unwrap(), Wish::Nothing);
    assert_eq!(run(&owner, shell("echo fine"), vec![]).await.0, b"fine\n");
}

#[tokio::test]
async fn a_client_can_ask_for_the_end_and_hears_of_it() {
    let agent = Agent::start();
    let owner = agent.greet().await;
    let (stream, asks) = relay(&owner);
    let guest = within(Guest::greet(stream)).await.unwrap();
    guest.ask_shutdown().unwrap();
    assert_eq!(within(asks).await.unwrap(), Wish::Shutdown);
    let waits = client(&owner).await;
    drop(agent);
    within(waits.lost()).await;
    assert!(waits.exec(shell("true")).await.is_err());
}
