//! What only the owners of root keys do: make a catalog, and say whose keys count.

use std::collections::{BTreeMap, BTreeSet};

use imgrun::catalog::{Catalog, metadata_key};
use imgrun::tuf::{Clock, Envelope, PublicKey, Role, RoleKeys, Root, Signed, Time};

use super::Publisher;
use super::succession::named;
use crate::depot::{Body, Put};
use crate::{Error, Result};

const DAY: u64 = 86_400;

/// For how many seconds what `role` signs is believed, unless a root says otherwise.
pub fn lifetime_default(role: Role) -> u64 {
    match role {
        Role::Root => 365 * DAY,
        Role::Targets => 90 * DAY,
        Role::Snapshot => 7 * DAY,
        Role::Timestamp => 2 * DAY,
    }
}

/// The keys of each role, how many of them have to sign, and how long that is believed.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// Keys and threshold by role.
    pub roles: BTreeMap<Role, (Vec<PublicKey>, u32)>,
    /// Seconds by role; [`lifetime_default`] for those that are not named.
    pub lifetimes: BTreeMap<Role, u64>,
}

impl Owners {
    fn root(&self) -> Result<Root> {
        let mut root = Root {
            version: 1,
            expires: Time(0),
            consistent_snapshot: true,
            keys: BTreeMap::new(),
            roles: BTreeMap::new(),
            lifetimes: self.lifetimes.clone(),
            numbered_timestamps: true,
            succeeds: BTreeMap::new(),
        };
        for (role, (keys, threshold)) in &self.roles {
            root.keys.extend(keys.iter().map(|key| (key.id(), key.clone())));
            let keyids = keys.iter().map(PublicKey::id).collect();
            root.roles.insert(*role, RoleKeys { keyids, threshold: *threshold });
        }
        check(&root)?;
        Ok(root)
    }
}

/// Refuses a root under which nobody could sign.
fn check(root: &Root) -> Result<()> {
    Signed::check(root).map_err(|why| Error::usage(format!("the new root: {why}")))?;
    for role in Role::ALL {
        let (keys, threshold) = (root.keys_of(role).len(), root.threshold(role));
        if keys < threshold as usize {
            return Err(Error::usage(format!(
                "the role {role} would need {threshold} signatures and have {keys} keys"
            )));
        }
    }
    Ok(())
}

impl Publisher<'_> {
    /// Makes an empty catalog that belongs to `owners`, and returns its `root.json`, the root of
    /// trust. Where an earlier try was cut, goes on with it.
    ///
    /// # Errors
    /// [`crate::Class::Usage`] where somebody else's catalog is there.
    pub fn init(&self, owners: &Owners) -> Result<Vec<u8>> {
        let mut root = owners.root()?;
        root.expires = self.expires(&root, Role::Root);
        let bytes = self.sign_root(&[&root], &root)?;
        let key = metadata_key(Role::Root, 1);
        let bytes = match self.depot.put_new(&key, Body::Bytes(&bytes))? {
            Put::Created => bytes,
            Put::Exists => {
                let there = self.depot.get(&key, Role::Root.bytes_max())?.unwrap_or_default();
                self.own(&there, &root)?;
                there
            }
        };
        self.memory.begin(&self.depot.title(), &bytes, &key)?;
        self.commit(&|targets| Ok((targets.version == 0).then(|| targets.clone())))?;
        Ok(bytes)
    }

    /// Whether the first root that is there is what `root` says, but for its date.
    fn own(&self, there: &[u8], root: &Root) -> Result<()> {
        let title = self.depot.title();
        let envelope = Envelope::parse(there, &title)?;
        let mut found = Root::read(&envelope, &title)?;
        found.verify(Role::Root, &envelope, &title)?;
        found.expires = root.expires;
        if found != *root {
            return Err(Error::usage(format!("{title}: there is a catalog, with other keys"))
                .hint("choose an empty place"));
        }
        Ok(())
    }

    /// `root` as a file, signed by the root keys of each of `signing`.
    fn sign_root(&self, signing: &[&Root], root: &Root) -> Result<Vec<u8>> {
        let mut envelope = Envelope { signatures: Vec::new(), signed: root.to_value() };
        for by in signing {
            for key in self.signers(by, Role::Root)? {
                key.sign(&mut envelope)?;
            }
        }
        envelope.signatures.sort_by(|a, b| a.keyid.cmp(&b.keyid));
        Ok(envelope.to_bytes())
    }

    /// Lets `role` have the key `new` in the place of `old` (or beside the others) and, where
    /// `threshold` is given, need so many signatures. Returns the new root's version. What was cut is
    /// finished by the same call.
    ///
    /// # Errors
    /// Where root keys are missing, or nobody could sign any more.
    pub fn rotate(
        &self,
        role: Role,
        old: Option<&PublicKey>,
        new: Option<&PublicKey>,
        threshold: Option<u32>,
    ) -> Result<u64> {
        self.change_root(&|root| {
            let mut keys: Vec<PublicKey> =
                root.keys_of(role).into_iter().map(|(_, key)| key.clone()).collect();
            if let Some(old) = old {
                let done = new.is_some_and(|new| keys.contains(new));
                if !keys.contains(old) && !done {
                    return Err(Error::usage(format!("{} is no key of the role {role}", old.id())));
                }
                keys.retain(|key| key != old);
            }
            keys.extend(new.filter(|new| !keys.contains(new)).cloned());
            set(root, role, &keys, threshold);
            Ok(())
        })
    }

    /// Takes `key` out of every role. Returns the new root's version.
    ///
    /// # Errors
    /// As [`Publisher::rotate`].
    pub fn expire(&self, key: &PublicKey) -> Result<u64> {
        self.change_root(&|root| {
            for role in Role::ALL {
                let keys = root.keys_of(role).into_iter().map(|(_, key)| key.clone());
                let keys: Vec<PublicKey> = keys.filter(|k| k != key).collect();
                set(root, role, &keys, None);
            }
            Ok(())
        })
    }

    /// The next root. Where other roles' keys change, their newest files are first signed anew by
    /// old and new keys, so that a reader finds a valid catalog at any moment.
    fn change_root(&self, edit: &dyn Fn(&mut Root) -> Result<()>) -> Result<u64> {
        let old = self.root()?;
        let mut new = old.clone();
        edit(&mut new)?;
        if new == old {
            return Ok(old.version);
        }
        self.put_root(&old, new)
    }

    /// The root that readers believe now.
    ///
    /// # Errors
    /// Where the catalog is not whole; a change of keys that was cut is told by a hint.
    pub fn root(&self) -> Result<Root> {
        let catalog = Catalog::open(self.depot, self.memory, Clock::Ignored);
        Ok(catalog.map_err(|e| self.hinted(e))?.trusted.root)
    }

    /// Signs the root anew as it is; where its keys are not at hand, that is said.
    pub(super) fn renew_root(&self, root: &Root) -> Result<()> {
        match self.signers(root, Role::Root) {
            Ok(_) => self.put_root(root, root.clone()).map(drop),
            Err(error) => {
                self.progress.note(format!("the root needs to be signed anew soon: {error}"));
                Ok(())
            }
        }
    }

    fn put_root(&self, old: &Root, mut new: Root) -> Result<u64> {
        new.version = old.version + 1;
        new.expires = self.expires(&new, Role::Root);
        let used: BTreeSet<_> = new.roles.values().flat_map(|r| r.keyids.clone()).collect();
        new.keys.retain(|id, _| used.contains(id));
        check(&new)?;
        let heads = match self.is_succession(old, &new)? {
            true => Some(self.heads()?),
            false => None,
        };
        new.succeeds = heads.as_ref().map(named).unwrap_or_default();
        let bytes = self.sign_root(&[old, &new], &new)?;
        if heads.is_none() {
            self.bridge.replace(Some(new.clone()));
            let bridged = self.sign_anew(old, &new);
            self.bridge.replace(None);
            bridged?;
        }
        let key = metadata_key(Role::Root, new.version);
        if self.depot.put_new(&key, Body::Bytes(&bytes))? == Put::Exists {
            return Err(Error::input(format!("{key}: somebody else changed the root just now"))
                .hint("look at it, then try again"));
        }
        if let Some(heads) = heads {
            self.succeed(&new, heads)?;
        }
        Catalog::open(self.depot, self.memory, Clock::Ignored)?;
        self.refresh()?;
        Ok(new.version)
    }

    /// Signs the newest file of each role whose keys change.
    fn sign_anew(&self, old: &Root, new: &Root) -> Result<()> {
        for role in [Role::Targets, Role::Snapshot, Role::Timestamp] {
            if old.roles.get(&role) != new.roles.get(&role) {
                self.renew(role)?;
            }
        }
        Ok(())
    }
}

fn set(root: &mut Root, role: Role, keys: &[PublicKey], threshold: Option<u32>) {
    root.keys.extend(keys.iter().map(|key| (key.id(), key.clone())));
    let threshold = threshold.unwrap_or(root.threshold(role));
    // Somebody else's key may have another id than we would give it.
    let id = |key: &PublicKey| {
        let known = root.keys.iter().find(|(_, known)| *known == key);
        known.map_or_else(|| key.id(), |(id, _)| id.clone())
    };
    let keyids = keys.iter().map(id).collect();
    root.roles.insert(role, RoleKeys { keyids, threshold });
}
