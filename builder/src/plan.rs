//! A recipe with every input a digest: what decides the image's bytes, and nothing else.

use bundle::{Arch, Digest, Init, Name, Reference, Source, Test, Version};

use crate::image::Layout;
use crate::inject::{self, Agent};
use crate::recipe::Recipe;
use crate::source::{Layer, Resolved};
use crate::{Error, Result};

/// What to build, all of it pinned.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The bundle's name.
    pub name: Name,
    /// The bundle's version.
    pub version: Version,
    /// The machine to build for.
    pub arch: Arch,
    /// What runs as process 1.
    pub init: Init,
    /// No time in the image is later.
    pub epoch: Option<u64>,
    /// The image's size, where it is not computed.
    pub size_bytes: Option<u64>,
    /// Free space to leave.
    pub reserve_bytes: u64,
    /// The file system's label.
    pub label: String,
    /// The layers, the bottom one first.
    pub layers: Vec<Layer>,
    /// The source, for the manifest.
    pub source: Source,
    /// The digest of the recipe's text.
    pub recipe: Digest,
    /// The digest of the lock's text, where the build is held to one.
    pub lock: Option<Digest>,
    /// The recipe's tests, for the manifest.
    pub tests: Vec<Test>,
    /// The kernel that the image is built to run on.
    pub kernel: Reference,
    /// The agent to put in.
    pub agent: Agent,
}

impl Plan {
    /// The plan for `recipe` on `arch` with what its inputs turned out to be.
    pub fn new(
        recipe: &Recipe,
        arch: Arch,
        source: Resolved,
        kernel: Reference,
        agent: Agent,
    ) -> Plan {
        Plan {
            name: recipe.name.clone(),
            version: recipe.version.clone(),
            arch,
            init: recipe.init,
            epoch: recipe.source_date_epoch,
            size_bytes: recipe.size,
            reserve_bytes: recipe.reserve.unwrap_or(0),
            label: recipe.label.clone().unwrap_or_else(|| recipe.name.to_string()),
            layers: source.layers,
            source: Source { name: source.name, digest: source.digest },
            recipe: recipe.digest,
            lock: None,
            tests: recipe.tests.clone(),
            kernel,
            agent,
        }
    }

    /// What decides the root file system's bytes. The kernel is not part of it: it lies beside the
    /// image, not in it.
    ///
    /// # Errors
    /// Only where memory is short.
    pub fn layout(&self) -> Result<Layout> {
        let made = self.epoch.unwrap_or(0);
        let about = |e| Error::io("the agent's layer", e);
        Ok(Layout {
            layers: self.layers.clone(),
            above: self.agent.layer(self.init, made).map_err(about)?,
            mount_points: &inject::MOUNT_POINTS,
            epoch: self.epoch,
            size_bytes: self.size_bytes,
            reserve_bytes: self.reserve_bytes,
            label: self.label.clone(),
        })
    }
}
