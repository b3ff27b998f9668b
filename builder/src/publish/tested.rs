//! Which bundles were tested: what a result must be to count.

use bundle::{Digest, TestResult};
use imgrun::catalog::Entry;
use imgrun::tuf::{PublicKey, Root};

use super::{Draft, Options, Publisher};
use crate::{Error, Result};

impl Publisher<'_> {
    /// Marks as tested those of `drafts` that are: an image by its own result, a kernel by that of
    /// an image which booted it. A result counts that is of these very bytes, passed, and is signed
    /// by a key at hand or of the catalog. What the catalog lists as tested stays so.
    ///
    /// # Errors
    /// Where one was not, unless `options` allow that.
    pub(super) fn tested(
        &self,
        mut drafts: Vec<Draft>,
        root: &Root,
        base: &[Entry],
        options: Options,
    ) -> Result<Vec<Draft>> {
        let at_hand = self.keys.iter().map(|known| known.public.clone());
        let keys: Vec<PublicKey> = at_hand.chain(root.keys.values().cloned()).collect();
        let mut booted: Vec<Digest> = Vec::new();
        let mut refused = None;
        for draft in &mut drafts {
            match verify(draft, &keys) {
                Ok(Some(result)) => {
                    booted.push(result.kernel);
                    draft.entry.about.tested = true;
                }
                Ok(None) => {}
                Err(e) => refused = refused.or(Some(e)),
            }
        }
        if let Some(error) = refused.filter(|_| !options.untested) {
            return Err(match error.hint_text() {
                Some(_) => error,
                None => error.hint("--untested publishes it as it is"),
            });
        }
        for draft in &mut drafts {
            let known = |e: &Entry| e.digest == draft.entry.digest && e.about.tested;
            let tested = booted.contains(&draft.entry.digest) || base.iter().any(known);
            draft.entry.about.tested |= tested;
        }
        match drafts.iter().find(|draft| !draft.entry.about.tested) {
            Some(draft) if !options.untested => {
                let file = draft.file.display();
                let more = match draft.entry.about.kernel {
                    Some(_) => "imgtool test does that",
                    None => "a kernel is tested by an image that boots it: name that, too",
                };
                Err(Error::input(format!("{file}: it was not tested"))
                    .hint(format!("{more}; --untested publishes it as it is")))
            }
            _ => Ok(drafts),
        }
    }
}

/// The result of `draft`, where there is one.
///
/// # Errors
/// Where it does not count.
fn verify<'d>(draft: &'d Draft, keys: &[PublicKey]) -> Result<Option<&'d TestResult>> {
    let Some(document) = &draft.result else { return Ok(None) };
    let result = document.verify(keys)?;
    let file = document.path().display();
    let (ours, theirs) = (draft.entry.digest, result.bundle);
    if ours != theirs {
        let (ours, theirs) = (ours.short(), theirs.short());
        return Err(Error::trust(format!("{file}: it is the result of {theirs}, not of {ours}")));
    }
    if draft.entry.about.kernel.as_ref().map(|kernel| kernel.digest) != Some(result.kernel) {
        return Err(Error::trust(format!("{file}: another kernel was booted than the image's")));
    }
    let failed: Vec<&str> =
        result.checks.iter().filter(|check| !check.passed).map(|check| &*check.name).collect();
    if !failed.is_empty() {
        return Err(Error::input(format!("{file}: it failed: {}", failed.join(", "))));
    }
    Ok(Some(result))
}
