//! What is to be done, before anything is.

use bundle::Kind;

use super::config::{Config, Follow};
use super::state::State;
use crate::catalog::Entry;
use crate::feed::Feed;
use crate::offer::Offer;
use crate::pull::{Wanted, Which, kernel_of};
use crate::{Cancel, Class, Damage, Error, Progress, Result, Store};

/// A step for each name that is followed.
#[derive(Debug)]
pub struct Plan {
    /// In the order of the configuration.
    pub steps: Vec<Step>,
}

/// What a name needs.
#[derive(Debug)]
pub struct Step {
    /// The name.
    pub follow: Follow,
    /// What it needs, or why that can not be found out.
    pub wanted: Result<Wish>,
}

/// What is to be here.
#[derive(Debug)]
pub struct Wish {
    /// The bundle.
    pub entry: Entry,
    /// Why it changes: a new version, one that was withdrawn, a file that is gone or damaged.
    pub why: Option<String>,
    /// The kernel, where it is an image, and then the bundle itself.
    pub items: Vec<Item>,
    pub(super) offer: Offer,
}

/// A bundle that is to be here.
#[derive(Debug)]
pub struct Item {
    /// The bundle.
    pub entry: Entry,
    /// What that takes.
    pub action: Action,
    /// Bytes to fetch: only found out where nothing shall be done.
    pub fetch_bytes: Option<u64>,
}

/// What it takes.
#[derive(Debug)]
pub enum Action {
    /// It is here and right.
    Keep,
    /// It is not here.
    Pull,
    /// It is here and damaged.
    Repair(Damage),
}

impl Action {
    /// `keep`, `pull`, `repair`.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Keep => "keep",
            Action::Pull => "pull",
            Action::Repair(_) => "repair",
        }
    }
}

impl Plan {
    /// Looks at the catalogs and at what is here; with `costs` also at what is to be fetched.
    pub(super) fn make(
        store: &Store,
        config: &Config,
        feeds: Vec<Feed>,
        state: &State,
        costs: bool,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Self> {
        let host = Host { store, costs, progress, cancel };
        let offers = host.offers(feeds)?;
        let steps = config.follow.iter().map(|follow| {
            cancel.check()?;
            let wanted = match &offers {
                Ok(offers) => host.wish(offers, follow, state),
                Err(e) => Err(e.again()),
            };
            match wanted {
                Err(e) if e.class() == Class::Interrupted => Err(e),
                wanted => Ok(Step { follow: follow.clone(), wanted }),
            }
        });
        Ok(Plan { steps: steps.collect::<Result<_>>()? })
    }
}

/// What a plan looks at.
struct Host<'a> {
    store: &'a Store,
    /// Find out how many bytes everything takes.
    costs: bool,
    progress: &'a Progress,
    cancel: &'a Cancel,
}

impl Host<'_> {
    /// Every catalog, read once. If one can not be read, names that it may have are not taken from
    /// those behind it.
    fn offers(&self, feeds: Vec<Feed>) -> Result<Result<Vec<Offer>>> {
        let mut offers = Vec::new();
        for feed in feeds {
            match Offer::open(feed, self.progress) {
                Ok(offer) => offers.push(offer),
                Err(e) if e.class() == Class::Interrupted => return Err(e),
                Err(e) => return Ok(Err(e)),
            }
            self.cancel.check()?;
        }
        Ok(Ok(offers))
    }

    fn wish(&self, offers: &[Offer], follow: &Follow, state: &State) -> Result<Wish> {
        let wanted = follow.wanted();
        let named = offers.iter().find(|offer| wanted.is_named_in(&offer.catalog));
        let offer = named.or(offers.last());
        let offer = offer.ok_or_else(|| Error::trust("no catalog is known here"))?;
        let entry = wanted.choose(&offer.catalog, follow.arch)?;
        let kernel = match (entry.about.kind, &follow.kernel, &entry.about.kernel) {
            (Kind::Image, Some(name), _) => {
                let wanted = Wanted { name: name.clone(), which: Which::Newest };
                Some(wanted.choose(&offer.catalog, follow.arch)?)
            }
            (Kind::Image, None, Some(reference)) => Some(kernel_of(&offer.catalog, reference)?),
            _ => None,
        };
        let items = kernel.into_iter().chain([entry]).map(|entry| self.item(offer, entry));
        let items = items.collect::<Result<Vec<_>>>()?;
        let why = why(offer, entry, &items, follow, state);
        Ok(Wish { entry: entry.clone(), why, items, offer: offer.clone() })
    }

    fn item(&self, offer: &Offer, entry: &Entry) -> Result<Item> {
        let entry = entry.clone();
        let is_here = !matches!(self.store.by_digest(entry.digest), Ok(None));
        let action = match is_here {
            false => Action::Pull,
            true => match self.store.verify(entry.digest, self.progress, self.cancel)? {
                damage if damage.is_none() => Action::Keep,
                damage => Action::Repair(damage),
            },
        };
        let fetch_bytes = match action {
            Action::Pull | Action::Repair(_) if self.costs => {
                Some(offer.cost(self.store, &entry, self.progress, self.cancel)?)
            }
            Action::Keep => Some(0),
            Action::Pull | Action::Repair(_) => None,
        };
        Ok(Item { entry, action, fetch_bytes })
    }
}

fn why(
    offer: &Offer,
    entry: &Entry,
    items: &[Item],
    follow: &Follow,
    state: &State,
) -> Option<String> {
    let old = state.find(follow);
    let listed = |old: &super::Reached| {
        offer.catalog.entries.iter().find(|e| e.digest == old.digest)?.about.yanked.clone()
    };
    match old {
        None => Some("new here".to_string()),
        Some(old) if old.digest != entry.digest => Some(match listed(old) {
            Some(reason) => format!("{}:{} was withdrawn: {reason}", old.name, old.version),
            None => format!("{}:{} is out", entry.name, entry.version),
        }),
        Some(_) => items.iter().find_map(|item| match &item.action {
            Action::Keep => None,
            Action::Pull => Some(format!("{} is gone", item.entry.title())),
            Action::Repair(damage) => {
                Some(format!("{} is damaged: {}", item.entry.title(), damage.faults.join(", ")))
            }
        }),
    }
}
