//! How a prune and a publication keep out of each other's way.
//!
//! A prune removes files that no catalog names. A publication relies on such files: on what a cut one
//! has left, on frames of versions that were taken out. No store removes a file only if something
//! else is as it was, so each of the two first writes and then looks at what the other has written:
//!
//! ```text
//! prune                                             publication
//! 1 gives notice: prunes/<random>.json lists        1 commits: the catalog names its files
//!   all files that it may remove                    2 waits while a notice lists one of them
//! 2 reads the catalog, and spares what it names     3 looks whether they are there, and uploads
//! 3 removes the others                                what is not
//! 4 withdraws its notice
//! ```
//! Where the commit came before the prune's look, the files are spared. Where it came after, the notice
//! was there before the publication's look, which therefore sees what the prune has left. No clock
//! matters. Only a prune that is killed leaves its notice, so that a notice is believed as long as it
//! is renewed: then a prune that sleeps longer than that before it goes on is not noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use imgrun::interrupt;
use imgrun::tuf::{time, to_hex};

use super::Publisher;
use crate::depot::{Body, Listed, Put, Writable};
use crate::{Error, Result};

/// Where notices are.
const PREFIX: &str = "prunes/";
/// A notice is at most this long: some 400,000 files.
const NOTICE_BYTES_MAX: u64 = 64 << 20;
/// A prune renews its notice where this has passed, before it removes the next file.
const RENEWED_AFTER: Duration = Duration::from_secs(5);
/// Where it could not for so long, it removes nothing more.
const RENEWED_MAX: Duration = Duration::from_secs(45);
/// A notice that was not renewed for so long is a dead prune's.
const DEAD_AFTER: Duration = Duration::from_secs(75);
/// How often a publication looks again.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The next prune removes notices that are so old by the store's clock.
const FORGOTTEN_SECONDS: u64 = 86_400;

/// What a prune may remove.
pub(super) struct Notice<'d> {
    depot: &'d dyn Writable,
    key: String,
    keys: BTreeSet<String>,
    renewed: Instant,
    /// The store's time when it was given, in seconds since 1970.
    pub(super) given: u64,
}

impl<'d> Notice<'d> {
    /// Gives notice that `keys` may be removed.
    ///
    /// # Errors
    /// Where it can not be written.
    pub(super) fn give(depot: &'d dyn Writable, keys: BTreeSet<String>) -> Result<Self> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::host("no random numbers"))?;
        let key = format!("{PREFIX}{}.json", to_hex(&random));
        let mut notice = Notice { depot, key, keys, renewed: Instant::now(), given: 0 };
        let bytes = notice.bytes()?;
        if depot.put_new(&notice.key, Body::Bytes(&bytes))? == Put::Exists {
            return Err(Error::host("two random numbers are equal"));
        }
        let all = depot.list(PREFIX)?;
        let own = all.iter().find(|listed| listed.key == notice.key);
        notice.given = own.map_or_else(time::now, |listed| listed.modified);
        let dead = |old: &&Listed| old.modified.saturating_add(FORGOTTEN_SECONDS) < notice.given;
        for old in all.iter().filter(dead) {
            depot.delete(&old.key)?;
        }
        Ok(notice)
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(&self.keys).unwrap_or_default();
        if json.len() as u64 > NOTICE_BYTES_MAX {
            return Err(Error::input("too many files to remove at once"));
        }
        Ok(json)
    }

    /// Whether it was said that `key` may be removed.
    pub(super) fn lists(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Has to be called before each removal, and often while it is found out what to remove.
    ///
    /// # Errors
    /// Where others may take the notice for a dead prune's.
    pub(super) fn renew(&mut self) -> Result<()> {
        if self.renewed.elapsed() < RENEWED_AFTER {
            return Ok(());
        }
        let now = Instant::now();
        self.depot.replace(&self.key, &self.bytes()?)?;
        if self.renewed.elapsed() > RENEWED_MAX {
            return Err(Error::network(format!("{}: it answers too slowly", self.depot.title()))
                .hint("the same command goes on where this one has stopped"));
        }
        self.renewed = now;
        Ok(())
    }

    /// Takes it back.
    ///
    /// # Errors
    /// Where it can not be removed.
    pub(super) fn withdraw(self) -> Result<()> {
        self.depot.delete(&self.key)
    }
}

impl Publisher<'_> {
    /// Waits while a prune may remove one of `keys`.
    ///
    /// # Errors
    /// Where the depot can not be read.
    pub(super) fn outlast_prunes(&self, keys: &BTreeSet<String>) -> Result<()> {
        // Where only one writes at a time, nobody prunes meanwhile.
        if self.depot.exclusive() == Some(false) {
            return Ok(());
        }
        let mut seen = BTreeMap::new();
        loop {
            interrupt::check()?;
            let mut under_way = false;
            for notice in self.depot.list(PREFIX)? {
                let (modified, since) =
                    seen.entry(notice.key.clone()).or_insert((notice.modified, Instant::now()));
                if *modified != notice.modified {
                    (*modified, *since) = (notice.modified, Instant::now());
                }
                let alive = since.elapsed() < DEAD_AFTER;
                under_way |= alive && self.concerns(&notice.key, keys)?;
            }
            if !under_way {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether the notice under `key` is there and lists one of `keys`.
    fn concerns(&self, key: &str, keys: &BTreeSet<String>) -> Result<bool> {
        let Some(json) = self.depot.get(key, NOTICE_BYTES_MAX)? else { return Ok(false) };
        let Ok(listed) = serde_json::from_slice::<BTreeSet<String>>(&json) else {
            self.progress.note(format!("{key}: it is no notice of a prune, passed over"));
            return Ok(false);
        };
        Ok(listed.intersection(keys).next().is_some())
    }
}
