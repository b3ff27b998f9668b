//! The depots of a pull, in order. One that has not got the bundle, or sends a wrong byte, is not
//! asked again.

use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bundle::{Digest, Frame, Manifest, Outline, Piece};

use super::rate::Rate;
use super::span::{Lot, Span};
use super::supply::Supply;
use crate::catalog::Entry;
use crate::depot::Depot;
use crate::{Class, Error, Progress, Result, Stage};

/// Where a bundle's bytes come from.
#[derive(Debug)]
pub(super) struct Sources {
    entry: Entry,
    key: String,
    depots: Vec<Arc<dyn Depot>>,
    /// The number of the first depot that has not failed, and what the last one said that has.
    failed: Mutex<(usize, Option<Error>)>,
    progress: Progress,
    fetched: AtomicU64,
}

impl Sources {
    pub(super) fn new(entry: &Entry, depots: &[Arc<dyn Depot>], progress: &Progress) -> Self {
        Sources {
            entry: entry.clone(),
            key: entry.key(),
            depots: depots.to_vec(),
            failed: Mutex::new((0, None)),
            progress: progress.clone(),
            fetched: AtomicU64::new(0),
        }
    }

    pub(super) fn titles(&self) -> Vec<String> {
        self.depots.iter().map(|depot| depot.title()).collect()
    }

    /// Bytes that have come so far.
    pub(super) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Whether the depot in use sends parts of files.
    pub(super) fn sends_parts(&self) -> bool {
        self.current().is_none_or(|(_, depot)| depot.sends_parts())
    }

    /// The manifest that the catalog signed, and the frame table that it names.
    pub(super) fn outline(&self, progress: &Progress) -> Result<Outline> {
        self.with_each(|depot| {
            let mut reader = Reader { depot, sources: self, at: 0 };
            let json = bundle::read_manifest(&mut reader).map_err(|e| reader.explain(e))?;
            let (found, expected) = (Digest::of(&json), self.entry.about.manifest);
            if found != expected {
                return Err(Error::trust(format!("manifest.json: {found}, signed was {expected}")));
            }
            let manifest = Manifest::parse(&json)?;
            self.entry.check(&manifest)?;
            if !depot.sends_parts() {
                let title = depot.title();
                progress.note(format!("{title} sends whole files only: it takes longer"));
            }
            let place = Outline::table_place(&manifest, json.len())?;
            let outline = Outline::new(json, &self.part(depot, place)?)?;
            if outline.packed_bytes() != self.entry.size {
                return Err(Error::trust("its manifest and its signed size disagree"));
            }
            Ok(outline)
        })
    }

    /// One frame, checked.
    pub(super) fn frame(&self, piece: &Piece) -> Result<Vec<u8>> {
        let Frame::Data { packed, packed_bytes, .. } = piece.frame else {
            return Err(Error::bug("a hole was to be fetched"));
        };
        let range = piece.packed_at..piece.packed_at + u64::from(packed_bytes);
        self.with_each(|depot| {
            let bytes = self.part(depot, range.clone())?;
            if Digest::of(&bytes) != packed { Err(wrong_bytes(range.start)) } else { Ok(bytes) }
        })
    }

    /// A span's frames into `supply`, each checked.
    pub(super) fn fetch(
        &self,
        span: &Span,
        supply: &Supply,
        rate: &Rate,
        stage: &Weak<Stage>,
    ) -> Result<()> {
        let mut done = 0;
        self.with_each(|depot| {
            let lots = &span.lots[done..];
            let range = Span::range(lots);
            let mut sink = Sink {
                sources: self,
                lots,
                next: 0,
                at: range.start,
                frame: Vec::new(),
                supply,
                rate,
                stage,
                fault: None,
            };
            let read = depot.read(&self.key, range, &mut sink);
            done += sink.next;
            if let Some(fault) = sink.fault.take() {
                return Err(fault);
            }
            match read? {
                None => Err(Error::network("it has not got it")),
                Some(_) if done < span.lots.len() => Err(Error::network("it is cut short")),
                Some(_) => Ok(()),
            }
        })
    }

    /// Exactly these bytes.
    fn part(&self, depot: &dyn Depot, range: Range<u64>) -> Result<Vec<u8>> {
        let bytes = range.end - range.start;
        let mut part = Vec::new();
        let found = depot.read(&self.key, range, &mut part)?;
        self.fetched.fetch_add(part.len() as u64, Ordering::Relaxed);
        match found {
            None => Err(Error::network("it has not got it")),
            Some(found) if found < bytes => Err(Error::network("it is cut short")),
            Some(_) => Ok(part),
        }
    }

    fn current(&self) -> Option<(usize, &Arc<dyn Depot>)> {
        let number = self.failed.lock().unwrap_or_else(PoisonError::into_inner).0;
        Some((number, self.depots.get(number)?))
    }

    /// Lets `work` try one depot after the other.
    fn with_each<T>(&self, mut work: impl FnMut(&dyn Depot) -> Result<T>) -> Result<T> {
        let what = self.entry.path();
        let mut last = None;
        while let Some((number, depot)) = self.current() {
            let error = match work(depot.as_ref()) {
                Ok(done) => return Ok(done),
                Err(e) if e.class() == Class::Interrupted => return Err(e),
                Err(e) => e.within(format!("{}: {what}", depot.title())),
            };
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have found out before.
            if failed.0 == number {
                failed.0 += 1;
                if let Some(next) = self.depots.get(number + 1) {
                    self.progress.note(format!("{error}; going on with {}", next.title()));
                }
            }
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| Error::network(format!("{what}: no depot is left to ask"))))
    }
}

fn wrong_bytes(at: u64) -> Error {
    Error::trust(format!("the bytes at {at} are not those that were signed"))
}

/// Reads a packed file from its beginning: exactly what is asked for, so that nothing comes twice.
struct Reader<'a> {
    depot: &'a dyn Depot,
    sources: &'a Sources,
    at: u64,
}

impl Reader<'_> {
    /// The depot's own error, where there was one.
    fn explain(&self, e: bundle::Error) -> Error {
        match e {
            bundle::Error::Io(e) => match e.downcast::<Error>() {
                Ok(ours) => ours,
                Err(e) => Error::network("read").because(e),
            },
            // Whoever signed it has published a bundle: others have changed it.
            other => Error::trust(other.to_string()),
        }
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let end = (self.at + out.len() as u64).min(self.sources.entry.size);
        let part = self.sources.part(self.depot, self.at..end).map_err(io::Error::other)?;
        out[..part.len()].copy_from_slice(&part);
        self.at = end;
        Ok(part.len())
    }
}

/// Takes what comes apart into frames.
struct Sink<'a> {
    sources: &'a Sources,
    lots: &'a [Lot],
    /// The lot that is coming, or comes next.
    next: usize,
    /// Where in the packed file we are.
    at: u64,
    frame: Vec<u8>,
    supply: &'a Supply,
    rate: &'a Rate,
    stage: &'a Weak<Stage>,
    fault: Option<Error>,
}

impl Sink<'_> {
    fn accept(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            // Behind the last one nothing was asked for.
            let Some(lot) = self.lots.get(self.next) else { return Ok(()) };
            let gap = (lot.at + self.frame.len() as u64 - self.at).min(bytes.len() as u64);
            self.at += gap;
            bytes = &bytes[gap as usize..];
            let n = bytes.len().min(lot.bytes as usize - self.frame.len());
            self.frame.reserve_exact(lot.bytes as usize - self.frame.len());
            self.frame.extend_from_slice(&bytes[..n]);
            self.at += n as u64;
            bytes = &bytes[n..];
            if let Some(stage) = self.stage.upgrade() {
                stage.add(n as u64);
            }
            if self.frame.len() as u64 == lot.bytes {
                let frame = std::mem::take(&mut self.frame);
                if Digest::of(&frame) != lot.packed {
                    return Err(wrong_bytes(lot.at));
                }
                self.supply.deliver(lot.index, frame);
                self.next += 1;
            }
        }
        Ok(())
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.supply.is_stopped() {
            self.fault = Some(Error::interrupted());
            return Err(io::ErrorKind::Other.into());
        }
        self.rate.take(bytes.len() as u64);
        self.sources.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        match self.accept(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(fault) => {
                self.fault = Some(fault);
                Err(io::ErrorKind::Other.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
