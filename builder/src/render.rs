//! Texts that go with a bundle: how other programs are told to run it. The templates are in
//! `templates/render/`; a name in one that nobody defined is an error, not an empty word.

use bundle::{Digest, Init, Kind, Manifest};
use minijinja::{Environment, UndefinedBehavior, context};

use crate::{Error, Result};

/// What is told: its name, and its template.
const TEMPLATES: [(&str, &str); 3] = [
    ("firecracker", include_str!("../../templates/render/firecracker.json")),
    ("systemd", include_str!("../../templates/render/systemd.service")),
    ("nomad", include_str!("../../templates/render/nomad.hcl")),
];

/// The names of the templates.
pub const KINDS: [&str; 3] = ["firecracker", "systemd", "nomad"];

/// What a text says besides what the manifest knows.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Where the opened bundle's files are (`rootfs.ext4`), and its kernel's (`vmlinux`).
    pub dir: String,
    /// The program `imgrun`.
    pub imgrun: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// The command and its arguments.
    pub command: Vec<String>,
}

/// The text `kind` for the bundle `digest` with `manifest`.
///
/// # Errors
/// Where it is no image, or there is no such kind.
pub fn render(kind: &str, manifest: &Manifest, digest: &Digest, wishes: &Wishes) -> Result<String> {
    let template = TEMPLATES.iter().find(|(name, _)| *name == kind);
    let (_, template) =
        template.ok_or_else(|| Error::usage(format!("{kind} is none of: {}", KINDS.join(", "))))?;
    if manifest.kind != Kind::Image {
        return Err(Error::input(format!("{} is a kernel, not an image", manifest.name)));
    }
    let init = manifest.boot.as_ref().map_or(Init::Agent, |boot| boot.init);
    let cmdline = format!(
        "root=/dev/vda ro rootfstype=ext4 init=/{} imgtool.init={} console=ttyS0 quiet panic=-1 reboot=k",
        crate::inject::AGENT_PATH,
        init.name(),
    );
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    environment.add_filter("quoted", quoted);
    let failed = |e: minijinja::Error| Error::bug(format!("the template {kind}: {e:#}"));
    environment.add_template("text", template).map_err(failed)?;
    let text = environment.get_template("text").map_err(failed)?;
    text.render(context! {
        name => manifest.name.as_str(),
        version => manifest.version.as_str(),
        digest => digest.to_string(),
        hex => digest.hex(),
        cmdline,
        dir => wishes.dir,
        imgrun => wishes.imgrun,
        cpus => wishes.cpus,
        memory => wishes.memory_mib,
        command => wishes.command,
    })
    .map_err(failed)
}

/// A word of a command line as systemd takes it (`systemd.service(5)`, "Command lines").
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    // `%` begins a specifier, `$` a variable.
    format!("\"{}\"", escaped.replace('%', "%%").replace('$', "$$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_systemds() {
        assert_eq!(quoted("sleep"), "sleep");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("$HOME 5%\"\\"), "\"$$HOME 5%%\\\"\\\\\"");
        assert_eq!(KINDS, TEMPLATES.map(|(name, _)| name));
    }
}
