//! Does a depot keep its promise? Found out by trying, never by its name.
//!
//! Some servers do not know `If-None-Match: *` and overwrite; some know it and look before they
//! write, so that of several writers at once more than one is told that it won. Either would lose
//! what somebody published. So: create twice, one after the other; then from many threads at once,
//! a few rounds.

use std::sync::Barrier;

use imgrun::tuf::to_hex;

use super::{Body, Put, Writable};
use crate::{Error, Result};

/// Where the trial files go.
const PREFIX: &str = "probe";
/// Rounds of a race; the loosest server that we know gives itself away in the first.
const ROUNDS: usize = 4;
/// Writers in a race.
const WRITERS: usize = 12;

/// Whether any number may publish to `depot` at once.
///
/// # Errors
/// Where it can not be reached. A broken promise is [`Verdict`], no error.
pub fn probe(depot: &dyn Writable) -> Result<Verdict> {
    match depot.exclusive() {
        Some(true) => return Ok(Verdict::Exclusive),
        Some(false) => return Ok(Verdict::Broken("it can only overwrite".to_string())),
        None => {}
    }
    let mut keys = Vec::new();
    let verdict = try_all(depot, &mut keys);
    for key in keys {
        depot.delete(&key)?;
    }
    verdict
}

/// What a probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One of many wins.
    Exclusive,
    /// What the depot did instead.
    Broken(String),
}

fn try_all(depot: &dyn Writable, keys: &mut Vec<String>) -> Result<Verdict> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::host("no random numbers"))?;
    let random = to_hex(&random);
    let key = format!("{PREFIX}/{random}-twice");
    keys.push(key.clone());
    let first = depot.put_new(&key, Body::Bytes(b"1"))?;
    let second = depot.put_new(&key, Body::Bytes(b"2"))?;
    let there = depot.get(&key, 1)?;
    if first != Put::Created || second != Put::Exists || there.as_deref() != Some(b"1") {
        return Ok(Verdict::Broken("it overwrites what is there".to_string()));
    }
    for round in 0..ROUNDS {
        let key = format!("{PREFIX}/{random}-race-{round}");
        keys.push(key.clone());
        let barrier = Barrier::new(WRITERS);
        let winners = std::thread::scope(|threads| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|n| {
                    let (key, barrier) = (&key, &barrier);
                    threads.spawn(move || {
                        barrier.wait();
                        depot.put_new(key, Body::Bytes(&[n as u8]))
                    })
                })
                .collect();
            let results = writers.into_iter().map(|w| w.join().unwrap_or(Ok(Put::Exists)));
            let results: Result<Vec<_>> = results.collect();
            Ok::<_, Error>(results?.into_iter().filter(|put| *put == Put::Created).count())
        })?;
        if winners != 1 {
            let why =
                format!("of {WRITERS} who create a file at once, {winners} were told they did");
            return Ok(Verdict::Broken(why));
        }
    }
    Ok(Verdict::Exclusive)
}
