//! `imgrun export NAME -o FILE`

use std::path::PathBuf;

use bundle::Piece;
use imgrun::feed::Feed;
use imgrun::offer::Offer;
use imgrun::{Error, Result, Unit};

use super::pull::SourceArgs;
use super::{Shell, say};

/// Write the packed file that a bundle came from: for a machine without a network
///
/// It is the same file, byte for byte, and is checked before it has its name. Packed bytes are not
/// kept in the store: they are compressed again, which gives the same bytes where the same zstd
/// made them. What it does not give is fetched from the catalog that lists the bundle.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// name, name:version, or the first twelve or more digits of the digest
    name: String,
    /// The file to write; NAME-VERSION-ARCH.tar.zst here by default
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        let store = shell.store().await?;
        let work = shell.blocking(move |progress, cancel| {
            let stored = store.find(&self.name, None, progress)?;
            let out = self.output.unwrap_or_else(|| stored.manifest.file_name().into());
            let mut offer = None;
            let packed = |piece: &Piece| {
                if offer.is_none() {
                    if !self.source.is_given() && !Feed::is_any_known()? {
                        return Err(Error::input(
                            "another zstd made it: its bytes do not come again",
                        )
                        .hint("name the catalog that lists it: --from DEPOT --root FILE"));
                    }
                    offer = Offer::of_digest(self.source.feeds(&store)?, stored.digest, progress)?;
                }
                let offer = offer
                    .as_ref()
                    .ok_or_else(|| Error::input("another zstd made it, and no catalog lists it"))?;
                offer.frame(&store, stored.digest, piece, progress)
            };
            let bytes = store.export(&stored, &out, packed, progress, cancel)?;
            Ok((out, stored, bytes))
        });
        let (out, stored, bytes) = work.await?;
        let bytes = Unit::Bytes.amount(bytes);
        say(&format!("{} {} {} ({bytes})", out.display(), stored.title(), stored.digest))
    }
}
