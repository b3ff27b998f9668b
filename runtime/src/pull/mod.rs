//! From a depot into the store: fetch what is missing, check it, write it once.
//!
//! ```text
//! wanted    what the user names, and which entry of a catalog that is
//! sources   depots, tried in order; who sends a wrong byte is out
//! span      neighbouring missing frames: one request
//! supply    frames that have come and are waiting to be written; bounded
//! rate      bytes a second
//! ```
//! The manifest comes first, and is the one that the catalog signed; then the frame table that it
//! names. From then on every frame is known by its digests: those that a bundle in the store or the
//! draft of a killed pull holds are taken from there, the others come by a few parallel requests, in
//! about the order of the file, and [`Outline::assemble`] checks, unpacks and writes them.
//!
//! The packed file's digest, under which the bundle is kept, is taken from the catalog: whoever may
//! sign one that this host trusts says which manifest belongs to which digest.
//!
//! **Memory** is bounded by [`supply::WINDOW_BYTES_MAX`] and what `assemble` holds a thread.
//!
//! **A seam**: to start a machine before the last frame has come, its block device will have to ask
//! for frames out of order. Everything that is needed for that is by frame already: the draft tells
//! which frames it holds, [`span`]s are values in a queue whose order nobody relies on but for
//! memory, and [`sources::Sources::frame`] gets any one frame, checked.

mod rate;
mod sources;
mod span;
mod supply;
mod wanted;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bundle::{Digest, Form, Frame, Outline, Piece};

use crate::catalog::Entry;
use crate::depot::Depot;
use crate::store::{Claim, Draft, Origin, Place, threads};
use crate::{Cancel, Error, Progress, Result, Stage, Store, Stored, Unit};

use rate::Rate;
use sources::Sources;
use supply::Supply;

pub use rate::{RATE_MIN, parse_rate};
pub use wanted::{Wanted, Which, kernel_of};

/// Space that is left free, for the file system's own needs and other processes.
const SPARE_BYTES: u64 = 16 << 20;

/// How to pull.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Bytes a second from the network, at most; at least [`RATE_MIN`].
    pub limit_rate: Option<NonZeroU64>,
}

/// What a pull came to.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The bundle, now in the store.
    pub bundle: Stored,
    /// False where it was there already, or another process pulled it while we waited.
    pub new: bool,
    /// Bytes that were fetched, manifest and table too.
    pub fetched_bytes: u64,
    /// Packed bytes of frames that bundles in the store had.
    pub saved_bytes: u64,
    /// Packed bytes of frames that a pull before, which was cut, had fetched.
    pub resumed_bytes: u64,
}

/// Where a frame comes from.
#[derive(Clone, Debug)]
enum Whence {
    Hole,
    /// The draft has it.
    Draft,
    /// A bundle in the store has it.
    Local(Place),
    Depot,
}

impl Store {
    /// Brings the bundle of `entry` in from `depots`, which are tried in order. Blocks. Any number of
    /// processes may do so at once: each byte is fetched once.
    ///
    /// # Errors
    /// `Network` and `Trust` where no depot has it as it was signed, `Host` for a full disk,
    /// `Interrupted` after [`Cancel::cancel`]. What has come stays in a draft, which the next pull
    /// goes on with; nothing is to be seen of it under the bundle's name.
    pub fn pull(
        &self,
        entry: &Entry,
        depots: &[Arc<dyn Depot>],
        options: &Options,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Pulled> {
        if let Some(bundle) = self.by_digest(entry.digest)? {
            return Ok(Pulled::known(bundle));
        }
        let claim = self.claim(entry.digest, &entry.title(), progress, cancel)?;
        if let Some(bundle) = self.by_digest(entry.digest)? {
            claim.remove()?;
            return Ok(Pulled::known(bundle));
        }
        Pull::new(self, entry, depots, progress, cancel).run(claim, options)
    }

    /// Puts a whole bundle in the place of a damaged one, whose frames that are still right are
    /// taken over. Until it is whole the damaged one stays; machines that run from it keep its files.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub fn repair(
        &self,
        entry: &Entry,
        depots: &[Arc<dyn Depot>],
        options: &Options,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Pulled> {
        let claim = self.claim(entry.digest, &entry.title(), progress, cancel)?;
        let mut pull = Pull::new(self, entry, depots, progress, cancel);
        pull.is_repair = true;
        pull.run(claim, options)
    }

    /// The bytes that [`Store::pull`] or [`Store::repair`] would fetch now, but for the draft of a
    /// pull that was cut.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub fn cost(
        &self,
        entry: &Entry,
        depots: &[Arc<dyn Depot>],
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<u64> {
        let mut pull = Pull::new(self, entry, depots, progress, cancel);
        pull.is_repair = !matches!(self.by_digest(entry.digest), Ok(None));
        let outline = pull.sources.outline(progress)?;
        let plan = pull.plan(&outline, &vec![false; outline.pieces().len()])?;
        let spans = span::spans(&outline, &plan.lacking(), pull.sources.sends_parts());
        Ok(pull.sources.fetched() + spans.iter().map(|span| span.frame_bytes()).sum::<u64>())
    }

    /// The packed bytes of one frame of the bundle of `entry`, checked.
    ///
    /// # Errors
    /// Where no depot has them.
    pub fn packed_frame(
        &self,
        entry: &Entry,
        depots: &[Arc<dyn Depot>],
        piece: &Piece,
        progress: &Progress,
    ) -> Result<Vec<u8>> {
        Sources::new(entry, depots, progress).frame(piece)
    }
}

impl Pulled {
    fn known(bundle: Stored) -> Self {
        Pulled { bundle, new: false, fetched_bytes: 0, saved_bytes: 0, resumed_bytes: 0 }
    }
}

/// One pull.
struct Pull<'a> {
    store: &'a Store,
    entry: &'a Entry,
    sources: Arc<Sources>,
    progress: &'a Progress,
    cancel: &'a Cancel,
    /// The store's bundle of this name is damaged.
    is_repair: bool,
}

/// What is to be done.
struct Plan {
    from: Vec<Whence>,
    saved_bytes: u64,
    resumed_bytes: u64,
}

impl<'a> Pull<'a> {
    fn new(
        store: &'a Store,
        entry: &'a Entry,
        depots: &[Arc<dyn Depot>],
        progress: &'a Progress,
        cancel: &'a Cancel,
    ) -> Self {
        let sources = Arc::new(Sources::new(entry, depots, progress));
        Pull { store, entry, sources, progress, cancel, is_repair: false }
    }

    fn run(self, claim: Claim, options: &Options) -> Result<Pulled> {
        let done = self.perform(claim, Rate::new(options.limit_rate));
        done.map_err(|e| if self.cancel.is_cancelled() { Error::interrupted() } else { e })
    }

    fn perform(&self, claim: Claim, rate: Rate) -> Result<Pulled> {
        let (draft, outline) = self.draft(&claim)?;
        let held = self.held(&draft, &outline)?;
        let plan = claim.begin(self.store, self.progress, self.cancel, || {
            let plan = self.plan(&outline, &held)?;
            let missing = missing(&outline, &plan.from);
            Ok((plan, missing))
        })?;
        self.check_space(&outline, &plan.from, draft.shares())?;
        let spans = span::spans(&outline, &plan.lacking(), self.sources.sends_parts());
        let fetch_bytes = spans.iter().map(|span| span.frame_bytes()).sum();
        let title = format!("pull {}", self.entry.title());
        let stage = Arc::new(self.progress.stage(title, Unit::Bytes, Some(fetch_bytes)));
        let supply = Arc::new(Supply::new(spans, self.sources.sends_parts()));
        supply.start(&self.sources, &Arc::new(rate), &stage);
        let done = self.assemble(&draft, &outline, &plan, &supply);
        supply.stop();
        done?;
        let dir = draft.finish(self.cancel)?;
        let bundle = match self.is_repair {
            true => self.store.replace(&dir, self.entry.digest)?,
            false => self.store.publish(&dir, self.entry.digest)?.bundle,
        };
        claim.remove()?;
        let fetched_bytes = self.sources.fetched();
        let amount = |bytes| Unit::Bytes.amount(bytes);
        let mut summary = format!("{} fetched", amount(fetched_bytes));
        for (bytes, whence) in
            [(plan.saved_bytes, "saved"), (plan.resumed_bytes, "there from before")]
        {
            if bytes > 0 {
                summary.push_str(&format!(", {} {whence}", amount(bytes)));
            }
        }
        finish(stage, summary);
        let Plan { saved_bytes, resumed_bytes, .. } = plan;
        Ok(Pulled { bundle, new: true, fetched_bytes, saved_bytes, resumed_bytes })
    }

    /// The draft and what is to be in it: a killed pull's, or a new one.
    fn draft(&self, claim: &Claim) -> Result<(Draft, Outline)> {
        if let Some(outline) = Draft::outline(&claim.draft(), self.entry.about.manifest) {
            let draft = Draft::reopen(claim.draft(), &outline)?;
            return Ok((draft, outline));
        }
        claim.clear()?;
        let outline = self.sources.outline(self.progress)?;
        self.cancel.check()?;
        let origin = Origin::of(&outline, &self.sources.titles());
        let draft = Draft::create(claim.draft(), &outline, &origin)?;
        Ok((draft, outline))
    }

    /// Which pieces the draft holds as they must be.
    fn held(&self, draft: &Draft, outline: &Outline) -> Result<Vec<bool>> {
        let mut buffer = Vec::new();
        let held = outline.pieces().iter().map(|piece| {
            self.cancel.check()?;
            draft.holds(piece, &mut buffer)
        });
        held.collect()
    }

    fn plan(&self, outline: &Outline, held: &[bool]) -> Result<Plan> {
        let wanted: HashSet<Digest> = outline
            .pieces()
            .iter()
            .zip(held)
            .filter(|(_, held)| !**held)
            .filter_map(|(piece, _)| raw_digest(piece))
            .collect();
        let damaged = self.is_repair.then_some((self.entry.digest, outline));
        let mut places = self.store.places(&wanted, damaged)?;
        if self.is_repair {
            // Many may be wrong, and would be fetched one by one later on.
            let mut buffer = Vec::new();
            let bytes: HashMap<Digest, u64> = outline
                .pieces()
                .iter()
                .filter_map(|piece| Some((raw_digest(piece)?, piece.frame.raw_bytes())))
                .collect();
            places.retain(|digest, place| {
                place.read(bytes[digest], &mut buffer) && Digest::of(&buffer) == *digest
            });
        }
        let (mut saved_bytes, mut resumed_bytes) = (0, 0);
        let from = outline.pieces().iter().zip(held).map(|(piece, held)| {
            let Some(raw) = raw_digest(piece) else { return Whence::Hole };
            if *held {
                resumed_bytes += piece.frame.packed_bytes();
                return Whence::Draft;
            }
            match places.get(&raw) {
                Some(place) => {
                    saved_bytes += piece.frame.packed_bytes();
                    Whence::Local(place.clone())
                }
                None => Whence::Depot,
            }
        });
        let from = from.collect();
        Ok(Plan { from, saved_bytes, resumed_bytes })
    }

    /// Better now than after a gigabyte.
    fn check_space(&self, outline: &Outline, from: &[Whence], shares: bool) -> Result<()> {
        let pieces = outline.pieces().iter().zip(from);
        let bytes = |(piece, from): (&Piece, &Whence)| match from {
            Whence::Hole | Whence::Draft => 0,
            Whence::Local(_) if shares => 0,
            Whence::Local(_) | Whence::Depot => piece.frame.raw_bytes(),
        };
        let needed = pieces.map(bytes).sum::<u64>() + SPARE_BYTES;
        let home = self.store.home();
        let stat = rustix::fs::statvfs(home).map_err(|e| Error::io(home.display(), e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= needed {
            return Ok(());
        }
        let amount = |bytes| Unit::Bytes.amount(bytes);
        Err(Error::host(format!(
            "{}: {} needs {}, and {} are free",
            home.display(),
            self.entry.title(),
            amount(needed),
            amount(free)
        ))
        .hint("free some space: imgrun gc, imgrun rm NAME"))
    }

    /// Writes all that is not in the draft.
    fn assemble(
        &self,
        draft: &Draft,
        outline: &Outline,
        plan: &Plan,
        supply: &Supply,
    ) -> Result<()> {
        let spoiled: Vec<AtomicBool> = plan.from.iter().map(|_| AtomicBool::new(false)).collect();
        let damaged = AtomicU64::new(0);
        let fetch = |index: usize, form: Form, buffer: &mut Vec<u8>| {
            self.cancel.check()?;
            let piece = &outline.pieces()[index];
            match (&plan.from[index], form) {
                (Whence::Draft, Form::Raw) => {
                    draft.read(piece, buffer)?;
                    return Ok(Form::Raw);
                }
                (Whence::Local(place), Form::Raw) => {
                    // What can not be read is not what it must be, and is fetched then.
                    place.read(piece.frame.raw_bytes(), buffer);
                    return Ok(Form::Raw);
                }
                (Whence::Depot | Whence::Hole, _) => supply.take(index, buffer, self.cancel)?,
                (Whence::Draft | Whence::Local(_), Form::Packed) => {
                    spoiled[index].store(true, Ordering::Relaxed);
                    damaged.fetch_add(1, Ordering::Relaxed);
                    *buffer = self.sources.frame(piece)?;
                }
            }
            Ok(Form::Packed)
        };
        let put = |piece: &Piece, raw: &[u8]| {
            let index = outline.pieces().partition_point(|p| p.packed_at < piece.packed_at);
            let spoiled = spoiled[index].load(Ordering::Relaxed);
            match &plan.from[index] {
                Whence::Draft if spoiled => draft.rewrite(piece, raw),
                Whence::Draft => Ok(()),
                Whence::Local(place) if !spoiled && draft.share(piece, &place.file, place.at) => {
                    Ok(())
                }
                Whence::Local(_) | Whence::Depot | Whence::Hole => draft.write(piece, raw),
            }
        };
        outline.assemble(threads(), fetch, put)?;
        let damaged = damaged.into_inner();
        if damaged > 0 {
            self.progress.note(format!(
                "{damaged} frames of bundles in the store are damaged, and were fetched: \
                 imgrun verify --repair"
            ));
        }
        Ok(())
    }
}

impl Plan {
    /// The numbers of the frames to fetch.
    fn lacking(&self) -> Vec<usize> {
        let numbered = self.from.iter().enumerate();
        numbered.filter(|(_, from)| matches!(from, Whence::Depot)).map(|(i, _)| i).collect()
    }
}

fn missing(outline: &Outline, from: &[Whence]) -> HashSet<Digest> {
    let pieces = outline.pieces().iter().zip(from);
    let lacking = pieces.filter(|(_, from)| matches!(from, Whence::Depot));
    lacking.filter_map(|(piece, _)| raw_digest(piece)).collect()
}

fn raw_digest(piece: &Piece) -> Option<Digest> {
    match piece.frame {
        Frame::Data { raw, .. } => Some(raw),
        Frame::Zero { .. } => None,
    }
}

/// Threads that fetch have let go of it by now, or will do so without a word.
fn finish(stage: Arc<Stage>, summary: String) {
    if let Ok(stage) = Arc::try_unwrap(stage) {
        stage.finish(summary);
    }
}
