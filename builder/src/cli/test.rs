//! `imgtool test`.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use bundle::TestResult;
use imgrun::{Error, Progress, Result};
use imgtool::sign::{Keys, Known};
use imgtool::trial::{self, Document, Options};

use super::passphrase;
use super::place::KeyDir;

/// Boot images and run their recipes' tests; write the signed results beside them.
///
/// The tests travel in the bundle: each is a command and what it must do. The result goes into
/// BUNDLE.test.json; `imgtool publish` wants one that passed, of just these bytes, signed by a key
/// that it knows. An image without tests passes when it boots.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Packed images, each with its kernel's bundle beside it or imported before.
    #[arg(required = true, value_name = "BUNDLE")]
    bundles: Vec<PathBuf>,
    /// The key that signs the results. Not needed where only one is at hand.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Memory of the machine, MiB.
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    #[command(flatten)]
    keys: KeyDir,
}

const EXAMPLES: &str = "\
A recipe's tests:
  [[test]]
  name = \"systemd has nothing to complain of\"
  command = [\"systemctl\", \"is-system-running\", \"--wait\"]
  exit = 0               # that is the default
  equals = \"running\"     # standard output, but for one newline at its end
  contains = \"run\"       # or a part of it
  timeout = \"2m\"         # 60s by default

Examples:
  imgtool key new ci
  imgtool test out/debian-12-x86_64.tar.zst --key ci
  imgtool publish out/*.tar.zst --to file:/srv/images

Exit codes: 0 all passed, 1 a test failed, else as always.";

impl Args {
    /// Tests each; 1 where a test failed.
    pub(crate) fn run(self, json: bool, progress: &Progress) -> Result<ExitCode> {
        let keys = self.keys.load()?;
        // Before the machine is booted for nothing.
        let key = keys.open(self.signer(&keys)?, &passphrase::ask)?;
        let mut passed = true;
        for file in &self.bundles {
            // What was signed before must not speak for this try.
            let old = trial::path_beside(file);
            match fs::remove_file(&old) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(old.display(), e));
                }
                _ => {}
            }
            let options = Options { memory_mib: self.memory, boot_max: None };
            let result = trial::run(file, options, progress)?;
            let document = Document::create(file, result, &key)?;
            let result = document.claim();
            passed &= result.passed();
            if json {
                super::print(serde_json::json!({
                    "path": document.path(), "passed": result.passed(), "result": result,
                }));
            } else {
                text(result).into_iter().for_each(super::print);
                super::print(document.path().display());
            }
        }
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }

    fn signer<'k>(&self, keys: &'k Keys) -> Result<&'k Known> {
        if let Some(name) = &self.key {
            return keys.find(name);
        }
        let mut all = keys.iter();
        match (all.next(), all.next()) {
            (Some(key), None) => Ok(key),
            (None, _) => Err(Error::usage("there is no key to sign the result with")
                .hint("imgtool key new NAME makes one")),
            _ => {
                Err(Error::usage("several keys could sign the result").hint("name one: --key KEY"))
            }
        }
    }
}

fn text(result: &TestResult) -> Vec<String> {
    let TestResult { name, version, arch, boot_ms, accel, .. } = result;
    let mut lines = vec![format!("passed  boot {name}:{version} {arch}: {boot_ms} ms, {accel}")];
    for check in &result.checks {
        let (name, ms, why) = (&check.name, check.ms, &check.why);
        lines.push(match check.passed {
            true => format!("passed  {name}: {ms} ms"),
            false => format!("FAILED  {name}: {why}"),
        });
    }
    lines
}
