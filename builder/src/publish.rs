//! Publishing: how bundles and their catalog get into a depot, whoever else does the same.
//!
//! # Why nothing is lost
//!
//! Numbered metadata are created once and never change. Each publisher does this:
//!
//! 1. **Blobs** go up under their digest and are read back. Nothing points at them yet.
//! 2. **Targets**: take the newest `<n>.targets.json` (also one that no snapshot names yet: its
//!    publisher is on the way, or was killed), add to it, and create number n+1. Of any number of
//!    publishers one does; the others read that one, add to it, and try the next number. So each
//!    number holds all that was in the one before.
//! 3. **Snapshot** and **timestamp** likewise: number n+1 names the newest that was found, unless
//!    number n does already.
//! 4. **`timestamp.json`** is the one file that is overwritten: by the newest numbered timestamp,
//!    by everybody, and then everybody looks whether a newer one has come, and goes on until what
//!    is there is the newest. Who is overtaken and writes an older one last, writes again, because
//!    the newer number was there before. If it is killed in between, the next publisher or refresh
//!    mends that; a reader that has seen the newer one finds it under its number meanwhile.
//!
//! A kill leaves unused blobs, or numbers that the next publisher takes in. What a reader sees is
//! always what some timestamp names, and is whole: everything that it names was there before it.
//!
//! ```text
//! draft   a packed file, checked      commit  the steps 2 to 4        owner  roots: init, rotate
//! upload  the plan and step 1         head    where the numbers end   prune  what nobody needs
//! tested  which results count     succession  keys that are lost
//! chunked in pieces: only what is new is uploaded    notice  prunes beside publications
//! ```

mod chunked;
mod commit;
mod draft;
mod head;
mod notice;
mod owner;
mod prune;
mod succession;
mod tested;
mod upload;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use imgrun::Progress;
use imgrun::tuf::{KeyId, Memory, Role, Root};

use crate::depot::Writable;
use crate::sign::{Ask, KEYS_VARIABLE, Keys, SigningKey};
use crate::{Error, Result};

pub use draft::Draft;
pub use owner::{Owners, lifetime_default};
pub use prune::{Keep, Pruned};
pub use succession::Mending;
pub use upload::{Action, Item, Options, Report, examine};

/// Somebody who may sign, and a depot to publish to.
pub struct Publisher<'a> {
    depot: &'a dyn Writable,
    memory: &'a Memory,
    keys: &'a Keys,
    ask: &'a Ask<'a>,
    progress: &'a Progress,
    /// Private keys that were opened, so that nobody is asked twice.
    opened: RefCell<BTreeMap<KeyId, Rc<SigningKey>>>,
    /// The root that is about to follow: its keys sign, too.
    bridge: RefCell<Option<Root>>,
    /// Whether a `timestamp.json` that nobody may believe is passed over.
    repairing: Cell<bool>,
}

impl std::fmt::Debug for Publisher<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Publisher({})", self.depot.title())
    }
}

impl<'a> Publisher<'a> {
    /// Who publishes to `depot` with `keys`; `memory` is this host's of that catalog.
    pub fn new(
        depot: &'a dyn Writable,
        memory: &'a Memory,
        keys: &'a Keys,
        ask: &'a Ask<'a>,
        progress: &'a Progress,
    ) -> Self {
        Publisher {
            depot,
            memory,
            keys,
            ask,
            progress,
            opened: RefCell::default(),
            bridge: RefCell::default(),
            repairing: Cell::default(),
        }
    }

    /// The keys at hand that sign for `role` as `root` has it, and as the root has it that is about
    /// to follow.
    fn signers(&self, root: &Root, role: Role) -> Result<Vec<Rc<SigningKey>>> {
        let mut signers = self.signers_of(root, role)?;
        if let Some(bridge) = self.bridge.borrow().as_ref().filter(|_| role != Role::Root) {
            for key in self.signers_of(bridge, role)? {
                if !signers.iter().any(|s| s.id() == key.id()) {
                    signers.push(key);
                }
            }
        }
        Ok(signers)
    }

    fn signers_of(&self, root: &Root, role: Role) -> Result<Vec<Rc<SigningKey>>> {
        let mut signers = Vec::new();
        for (id, public) in root.keys_of(role) {
            let Some(known) = self.keys.iter().find(|k| k.public == *public) else { continue };
            let cached = self.opened.borrow().get(id).cloned();
            let key = match cached {
                Some(key) => key,
                None => Rc::new(self.keys.open(known, self.ask)?),
            };
            self.opened.borrow_mut().insert(id.clone(), key.clone());
            signers.push(key);
        }
        let (found, wanted) = (signers.len(), root.threshold(role));
        if found < wanted as usize {
            let dir = self.keys.dir().display();
            return Err(Error::trust(format!(
                "the role {role} needs {wanted} keys to sign, {found} of them are at hand"
            ))
            .hint(format!("keys are looked for in {dir} and in {KEYS_VARIABLE}")));
        }
        Ok(signers)
    }
}
