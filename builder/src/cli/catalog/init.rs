//! `imgtool catalog init`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use imgrun::tuf::{PublicKey, Role};
use imgrun::{Error, Progress, Result};
use imgtool::publish::Owners;
use imgtool::sign::Keys;

use crate::cli::cache::parse_age;
use crate::cli::place::Sign;

/// Make an empty catalog in a store, and write its root of trust: the file that readers need.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The store.
    store: String,
    /// A key of every role that has none of its own below: a name, or the beginning of an id.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// A key of one role: root=me, timestamp=ci.
    #[arg(long, value_name = "ROLE=KEY", value_parser = role_text)]
    role_key: Vec<(Role, String)>,
    /// How many keys of a role have to sign: root=2. 1 by default.
    #[arg(long, value_name = "ROLE=N", value_parser = role_number)]
    threshold: Vec<(Role, u32)>,
    /// How long what a role signs is believed: timestamp=2d. By default root=365d, targets=90d,
    /// snapshot=7d, timestamp=2d.
    #[arg(long, value_name = "ROLE=AGE", value_parser = role_age)]
    lifetime: Vec<(Role, u64)>,
    /// Where to write the root of trust.
    #[arg(long, value_name = "FILE", default_value = "root.json")]
    root_out: PathBuf,
    #[command(flatten)]
    sign: Sign,
}

const EXAMPLES: &str = "\
Examples:
  imgtool catalog init file:/srv/images --key me
  imgtool catalog init s3://images --role-key root=anna --role-key root=ben --threshold root=2 \\
      --role-key targets=release --role-key snapshot=ci --role-key timestamp=ci";

fn role_text(text: &str) -> Result<(Role, String), String> {
    let (role, value) = text.split_once('=').ok_or("ROLE=… is wanted")?;
    Ok((role.parse().map_err(|e: Error| e.to_string())?, value.to_string()))
}

fn role_number(text: &str) -> Result<(Role, u32), String> {
    let (role, number) = role_text(text)?;
    Ok((role, number.parse().map_err(|_| "a number is wanted".to_string())?))
}

fn role_age(text: &str) -> Result<(Role, u64), String> {
    let (role, age) = role_text(text)?;
    Ok((role, parse_age(&age)?))
}

impl Args {
    /// Does it.
    pub(super) fn run(self, json: bool, progress: &Progress) -> Result<()> {
        let owners = self.owners(&self.sign.keys.load()?)?;
        let init = |publisher: &imgtool::publish::Publisher<'_>| publisher.init(&owners);
        let root = self.sign.publisher(&self.store, progress, init)?;
        write(&self.root_out, &root)?;
        if json {
            super::super::print(serde_json::json!({ "root": self.root_out, "store": self.store }));
        } else {
            super::super::print(self.root_out.display());
        }
        Ok(())
    }

    fn owners(&self, keys: &Keys) -> Result<Owners> {
        let find = |name: &str| keys.find(name).map(|known| known.public.clone());
        let mut roles = BTreeMap::new();
        for role in Role::ALL {
            let own = self.role_key.iter().filter(|(r, _)| *r == role).map(|(_, name)| name);
            let mut names: Vec<&String> = own.collect();
            if names.is_empty() {
                names = self.keys.iter().collect();
            }
            if names.is_empty() {
                return Err(Error::usage(format!("the role {role} has no key"))
                    .hint("--key NAME gives all roles one"));
            }
            let keys: Vec<PublicKey> = names.into_iter().map(|n| find(n)).collect::<Result<_>>()?;
            let threshold = self.threshold.iter().find(|(r, _)| *r == role);
            roles.insert(role, (keys, threshold.map_or(1, |(_, n)| *n)));
        }
        Ok(Owners { roles, lifetimes: self.lifetime.iter().copied().collect() })
    }
}

/// Writes the root as a whole, in place of an older file.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let about = |e| Error::io(path.display(), e);
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let draft = tempfile::Builder::new().permissions(mode).tempfile_in(dir);
    let mut draft = draft.map_err(about)?;
    draft.write_all(bytes).map_err(about)?;
    draft.as_file().sync_all().map_err(about)?;
    draft.persist(path).map_err(|e| about(e.error))?;
    Ok(())
}
