//! A catalog that has what is wanted, and bringing it in: what verbs do that need a bundle.

use bundle::{Arch, Digest, Kind, Piece};

use crate::catalog::{Catalog, Entry};
use crate::feed::{Feed, Flags};
use crate::pull::{Options, Pulled, Wanted, kernel_of};
use crate::store::no_default;
use crate::tuf::Clock;
use crate::{Cancel, Class, Error, KERNEL_DEFAULT, Progress, Result, Store, Stored};

/// A catalog that has what was asked for.
#[derive(Clone, Debug)]
pub struct Offer {
    feed: Feed,
    /// What it lists.
    pub catalog: Catalog,
}

impl Offer {
    /// What `feed` lists today.
    ///
    /// # Errors
    /// As [`Feed::catalog`].
    pub fn open(mut feed: Feed, progress: &Progress) -> Result<Self> {
        let catalog = feed.catalog(Clock::now(), progress)?;
        Ok(Offer { feed, catalog })
    }

    /// Each of `feeds`, opened; but of guesses only the first that is right, or the last one's error.
    fn all(feeds: Vec<Feed>, progress: &Progress) -> impl Iterator<Item = Result<Self>> {
        let (mut left, mut found) = (feeds.len(), false);
        feeds.into_iter().filter_map(move |feed| {
            let is_guess = feed.is_guess;
            left -= 1;
            if is_guess && found {
                return None;
            }
            match Offer::open(feed, progress) {
                Err(e) if is_guess && e.class() == Class::Trust && left > 0 => None,
                opened => {
                    found = true;
                    Some(opened)
                }
            }
        })
    }

    /// The bytes that a pull or a repair of `entry` would fetch now.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub fn cost(
        &self,
        store: &Store,
        entry: &Entry,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<u64> {
        store.cost(entry, &self.feed.depots, progress, cancel)
    }

    /// The first of `feeds` that has the name, in whatever version; else the last one, whose own
    /// error will say what there is.
    ///
    /// # Errors
    /// Where a catalog can not be read: its names are not taken from another one then.
    pub fn find(feeds: Vec<Feed>, wanted: &Wanted, progress: &Progress) -> Result<Self> {
        let mut last = None;
        for offer in Self::all(feeds, progress) {
            let offer = offer?;
            if wanted.is_named_in(&offer.catalog) {
                return Ok(offer);
            }
            last = Some(offer);
        }
        last.ok_or_else(|| Error::trust("no catalog is known here"))
    }

    /// The first of `feeds` that lists the bundle with this digest; what was withdrawn, too.
    ///
    /// # Errors
    /// As [`Offer::find`].
    pub fn of_digest(
        feeds: Vec<Feed>,
        digest: Digest,
        progress: &Progress,
    ) -> Result<Option<Self>> {
        for offer in Self::all(feeds, progress) {
            let offer = offer?;
            if offer.entry(digest).is_ok() {
                return Ok(Some(offer));
            }
        }
        Ok(None)
    }

    /// Repairs a bundle that the catalog lists.
    ///
    /// # Errors
    /// As [`Store::repair`].
    pub fn repair(
        &self,
        store: &Store,
        digest: Digest,
        options: &Options,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Pulled> {
        let entry = self.entry(digest)?;
        store.repair(entry, &self.feed.depots, options, progress, cancel)
    }

    /// The packed bytes of one frame of a bundle that the catalog lists.
    ///
    /// # Errors
    /// As [`Store::packed_frame`].
    pub fn frame(
        &self,
        store: &Store,
        digest: Digest,
        piece: &Piece,
        progress: &Progress,
    ) -> Result<Vec<u8>> {
        store.packed_frame(self.entry(digest)?, &self.feed.depots, piece, progress)
    }

    fn entry(&self, digest: Digest) -> Result<&Entry> {
        let entry = self.catalog.entries.iter().find(|e| e.digest == digest);
        entry.ok_or_else(|| Error::bug(format!("{digest} is not listed")))
    }

    /// Brings a bundle of the catalog in.
    ///
    /// # Errors
    /// As [`Store::pull`].
    pub fn pull(
        &self,
        store: &Store,
        entry: &Entry,
        options: &Options,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Pulled> {
        store.pull(entry, &self.feed.depots, options, progress, cancel)
    }
}

/// The image that `reference` names: one that is here, or else one that a configured catalog has,
/// which is then pulled; `progress` hears of that.
///
/// # Errors
/// [`Class::Input`] where neither is, and as [`Store::pull`].
pub fn image(
    store: &Store,
    reference: &str,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Stored> {
    let missing = match store.find(reference, Some(Kind::Image), progress) {
        Err(e) if e.class() == Class::Input => e,
        found => return found,
    };
    let Ok(wanted) = reference.parse::<Wanted>() else { return Err(missing) };
    if !Feed::is_any_known()? {
        let error = Error::input(format!("{missing}, and no catalog is configured"));
        return Err(error.hint(missing.hint_text().unwrap_or_default()));
    }
    progress.note(format!("{reference} is not here: looking for it in the catalogs"));
    let offer = Offer::find(Feed::all(&Flags::default(), store)?, &wanted, progress)?;
    let entry = wanted.choose(&offer.catalog, Arch::host())?;
    Ok(offer.pull(store, entry, &Options::default(), progress, cancel)?.bundle)
}

/// Makes sure that the kernel for images that name none is here, where a configured catalog has it.
///
/// # Errors
/// As [`Store::pull`]; [`Class::Input`] where it is nowhere.
pub fn default_kernel(
    store: &Store,
    arch: Arch,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<()> {
    if store.default_kernel(arch, progress)?.is_some() {
        return Ok(());
    }
    if !Feed::is_any_known()? {
        return Err(no_default(arch));
    }
    progress
        .note(format!("the kernel {KERNEL_DEFAULT} is not here: looking for it in the catalogs"));
    let wanted: Wanted = KERNEL_DEFAULT.parse()?;
    let offer = Offer::find(Feed::all(&Flags::default(), store)?, &wanted, progress)?;
    if !wanted.is_named_in(&offer.catalog) {
        return Err(no_default(arch));
    }
    let entry = wanted.choose(&offer.catalog, arch)?;
    offer.pull(store, entry, &Options::default(), progress, cancel)?;
    Ok(())
}

/// Makes sure that the kernel which `image` names is here, if a configured catalog has it.
///
/// # Errors
/// As [`Store::pull`]; that no catalog has it is none.
pub fn kernel(store: &Store, image: &Stored, progress: &Progress, cancel: &Cancel) -> Result<()> {
    let Some(reference) = &image.manifest.kernel else {
        return default_kernel(store, image.manifest.arch, progress, cancel);
    };
    if store.by_digest(reference.digest)?.is_some() || !Feed::is_any_known()? {
        return Ok(());
    }
    let feeds = Feed::all(&Flags::default(), store)?;
    if let Some(offer) = Offer::of_digest(feeds, reference.digest, progress)? {
        let entry = kernel_of(&offer.catalog, reference)?;
        offer.pull(store, entry, &Options::default(), progress, cancel)?;
    }
    Ok(())
}
