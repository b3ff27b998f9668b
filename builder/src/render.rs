//! What goes with a bundle: how other programs are told to run it, and a seed that tells cloud-init who
//! may come in. The templates are in
//! `templates/render/`; a name in one that nobody defined is an error, not an empty word.

mod seed;

use bundle::{Database, Digest, Init, Kind, Manifest};
use minijinja::{Environment, UndefinedBehavior, context};

use crate::{Error, Result};

pub use seed::{Login, seed};

/// What is told: its name, and its template.
const TEMPLATES: [(&str, &str); 5] = [
    ("firecracker", include_str!("../../templates/render/firecracker.json")),
    ("systemd", include_str!("../../templates/render/systemd.service")),
    ("nomad", include_str!("../../templates/render/nomad.hcl")),
    ("kubernetes", include_str!("../../templates/render/kubernetes.yaml")),
    ("lima", include_str!("../../templates/render/lima.yaml")),
];

/// The names of the templates.
pub const KINDS: [&str; 5] = ["firecracker", "systemd", "nomad", "kubernetes", "lima"];

/// DNS labels, which names in Kubernetes and hostnames are, have this many bytes at most (RFC 1123).
const LABEL_BYTES_MAX: usize = 63;

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
    /// For Lima: the exported disk, as it is to be fetched.
    pub disk: Option<Disk>,
    /// For Kubernetes: the container image that brings `imgrun`, by digest.
    pub container: Option<String>,
}

/// An exported disk.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Disk {
    /// A URL, or an absolute path.
    pub location: String,
    /// Of its bytes.
    pub digest: Digest,
}

/// The text `kind` for the bundle `digest` with `manifest`.
///
/// # Errors
/// Where it is no image, there is no such kind, or what the kind needs was not wished for.
pub fn render(kind: &str, manifest: &Manifest, digest: &Digest, wishes: &Wishes) -> Result<String> {
    let template = TEMPLATES.iter().find(|(name, _)| *name == kind);
    let (_, template) =
        template.ok_or_else(|| Error::usage(format!("{kind} is none of: {}", KINDS.join(", "))))?;
    check(kind, manifest, wishes)?;
    let init = manifest.boot.as_ref().map_or(Init::Agent, |boot| boot.init);
    let cmdline = format!(
        "root=/dev/vda ro rootfstype=ext4 init=/{} imgtool.init={} console=ttyS0 quiet panic=-1 reboot=k",
        crate::inject::AGENT_PATH,
        init.name(),
    );
    fill(
        template,
        context! {
            name => manifest.name.as_str(),
            version => manifest.version.as_str(),
            arch => manifest.arch.name(),
            goarch => manifest.arch.oci_name(),
            digest => digest.to_string(),
            hex => digest.hex(),
            cmdline,
            dir => wishes.dir,
            imgrun => wishes.imgrun,
            cpus => wishes.cpus,
            memory => wishes.memory_mib,
            command => wishes.command,
            disk => wishes.disk,
            container => wishes.container,
        },
    )
}

fn check(kind: &str, manifest: &Manifest, wishes: &Wishes) -> Result<()> {
    if manifest.kind != Kind::Image {
        return Err(Error::input(format!("{} is a kernel, not an image", manifest.name)));
    }
    if kind == "kubernetes" {
        let pinned = |image: &String| image.contains("@sha256:");
        if !wishes.container.as_ref().is_some_and(pinned) {
            return Err(Error::usage(
                "kubernetes needs a container image that holds imgrun and QEMU",
            )
            .hint("--container NAME@sha256:DIGEST; a tag would be another image tomorrow"));
        }
    }
    if kind == "lima" {
        if wishes.disk.is_none() {
            return Err(Error::usage("lima needs the disk that it boots")
                .hint("imgtool export BUNDLE --as qcow2, then --disk FILE"));
        }
        let mut packages = manifest.packages.iter();
        let known = packages.clone().any(|p| p.database == Database::Dpkg);
        if known && !packages.any(|package| package.name == "cloud-init") {
            return Err(Error::input(format!("{} has no cloud-init", manifest.name)).hint(
                "Lima sets machines up with it: install cloud-init, openssh-server and sudo",
            ));
        }
    }
    Ok(())
}

/// The template's text with `values`; a name that nobody defined is an error.
fn fill(template: &str, values: minijinja::Value) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    environment.add_filter("quoted", quoted);
    environment.add_filter("label", label);
    environment.add_filter("unexpanded", unexpanded);
    let failed = |e: minijinja::Error| Error::bug(format!("a template: {e:#}"));
    environment.render_str(template, values).map_err(failed)
}

/// A name as a DNS label: what is not allowed there becomes `-`.
fn label(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = name.chars().map(allowed).take(LABEL_BYTES_MAX).collect();
    label.trim_matches('-').to_string()
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

/// A word of a container's arguments as Kubernetes takes it: `$(NAME)` there is a variable, `$$` is `$`.
fn unexpanded(word: &str) -> String {
    word.replace('$', "$$")
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

    #[test]
    fn names_become_labels() {
        assert_eq!(label("debian"), "debian");
        assert_eq!(label("Web_1.x-"), "web-1-x");
        assert_eq!(label(&"a".repeat(99)).len(), LABEL_BYTES_MAX);
    }
}
