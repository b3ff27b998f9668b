//! `imgrun volume create`, `ls` and `rm`

use imgrun::volume::{VOLUME_BYTES_DEFAULT, Volume};
use imgrun::{Hostname, Result, Unit};
use serde_json::{Value, json};

use super::command::size;
use super::{Shell, lifecycle, say};

/// Disks that stay when the machines go that mount them: imgrun run --volume NAME:/path
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

const HELP: &str = "\
Examples:
  imgrun run --volume data:/srv/data debian -- sh -c 'date >> /srv/data/log'   made on demand
  imgrun run --volume data:/srv/data:ro debian -- cat /srv/data/log            many may read
  imgrun volume ls

One machine may write to a volume, or several may read it.";

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a volume; one that --volume names and that is not there is made with 8G
    Create {
        name: Hostname,
        /// Room in it: 500M, 20G; it takes what is used
        #[arg(long, value_name = "SIZE", value_parser = size)]
        size: Option<u64>,
    },
    /// List volumes
    Ls {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Remove volumes and all that is in them
    Rm {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Print a JSON array of what became of each
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<()> {
        match self.what {
            What::Create { name, size } => {
                let store = shell.store().await?;
                Volume::create(&store, &name, size.unwrap_or(VOLUME_BYTES_DEFAULT))?;
                say(&name.to_string())
            }
            What::Ls { json } => list(&Volume::all(&shell.store().await?)?, json),
            What::Rm { names, json } => {
                lifecycle::each(names, json, shell, async |_, store, name| {
                    Volume::get(store, name)?.remove()?;
                    Ok(name.to_string())
                })
                .await
            }
        }
    }
}

fn list(volumes: &[Volume], json: bool) -> Result<()> {
    if json {
        let object = |volume: &Volume| {
            json!({
                "name": volume.name.to_string(), "bytes": volume.bytes(),
                "written_bytes": volume.written_bytes(), "in_use": volume.is_in_use(),
            })
        };
        return say(&Value::from_iter(volumes.iter().map(object)).to_string());
    }
    let row = |name: &str, size: &str, written: &str, used: &str| {
        say(&format!("{name:<20} {size:>12} {written:>12} {used}"))
    };
    row("NAME", "SIZE", "WRITTEN", "IN USE")?;
    volumes.iter().try_for_each(|volume| {
        let amount = |bytes| Unit::Bytes.amount(bytes);
        let (size, written) = (amount(volume.bytes()), amount(volume.written_bytes()));
        let used = if volume.is_in_use() { "yes" } else { "no" };
        row(&volume.name.to_string(), &size, &written, used)
    })
}
