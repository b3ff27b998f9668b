//! Builds the guest agent, so that `imgtool` carries it: one program to install, and an agent that
//! always fits its builder. Always for this machine's architecture; for the other one where this
//! machine can: with Rust's standard library and a C compiler for it. Without, imgtool carries none
//! for it and says so when one is wanted.
//!
//! A packager may bring agents of their own: `IMGTOOL_AGENT_X86_64`, `IMGTOOL_AGENT_AARCH64`, or
//! `IMGTOOL_AGENT` for this machine's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const ARCHES: [&str; 2] = ["x86_64", "aarch64"];
/// Debian's, which may know architectures that the one in use does not.
const OTHER_RUSTC: &str = "/usr/bin/rustc";

fn main() {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("..");
    for input in ["crates/agent/src", "crates/agent/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(var("OUT_DIR"));
    for arch in ARCHES {
        let place = out.join(format!("imgagent-{arch}"));
        let is_host = arch == var("CARGO_CFG_TARGET_ARCH");
        let brought = from_env(&format!("IMGTOOL_AGENT_{}", arch.to_uppercase()))
            .or_else(|| from_env("IMGTOOL_AGENT").filter(|_| is_host));
        let target_dir = out.join("agent");
        let built = match brought {
            Some(agent) => Some(agent),
            None if is_host => Some(
                build(&root, arch, None, &target_dir)
                    .unwrap_or_else(|e| panic!("building the guest agent failed: {e}")),
            ),
            None => cross(&root, arch, &target_dir),
        };
        let written = match &built {
            Some(agent) => fs::copy(agent, &place).map(drop),
            None => fs::write(&place, b""),
        };
        written.unwrap_or_else(|e| panic!("copy the agent from {built:?}: {e}"));
    }
}

fn from_env(name: &str) -> Option<PathBuf> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var_os(name).map(PathBuf::from)
}

/// The agent for another architecture than this machine's, if all that it takes is here.
fn cross(root: &Path, arch: &str, target_dir: &Path) -> Option<PathBuf> {
    let rustc = [var("RUSTC"), OTHER_RUSTC.to_string()].into_iter().find(|rustc| {
        let library = print(rustc, &["--print", "target-libdir", "--target", &triple(arch)]);
        let library = library.map(PathBuf::from);
        // Where another target's library would come, so that it is noticed then.
        if let Some(targets) = library.as_ref().and_then(|l| l.ancestors().nth(2))
            && targets.is_dir()
        {
            println!("cargo::rerun-if-changed={}", targets.display());
        }
        library.is_some_and(|library| library.is_dir())
    })?;
    // It is linked statically: that takes the other architecture's libc.a.
    let libc = print(&linker(arch), &["-print-file-name=libc.a"])?;
    if !Path::new(&libc).is_absolute() {
        return None;
    }
    match build(root, arch, Some(&rustc), target_dir) {
        Ok(agent) => Some(agent),
        Err(e) => {
            println!("cargo::warning=no guest agent for {arch}: building it failed: {e}");
            None
        }
    }
}

/// Runs cargo in a target directory of its own, so that it does not wait for the cargo above.
fn build(
    root: &Path,
    arch: &str,
    rustc: Option<&str>,
    target_dir: &Path,
) -> Result<PathBuf, String> {
    let triple = triple(arch);
    let mut cargo = Command::new(var("CARGO"));
    cargo
        .current_dir(root)
        .args(["build", "--quiet", "--package", "imgtool-agent", "--bin", "imgagent"])
        .args(["--profile", "agent", "--target", &triple, "--target-dir"])
        .arg(target_dir)
        // Static: it must run in any image. A target must be named for that, else the flags would
        // reach build scripts, too.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    if let Some(rustc) = rustc {
        let key = triple.to_uppercase().replace('-', "_");
        cargo.env("RUSTC", rustc).env(format!("CARGO_TARGET_{key}_LINKER"), linker(arch));
    }
    match cargo.status() {
        Ok(status) if status.success() => Ok(target_dir.join(triple).join("agent/imgagent")),
        Ok(status) => Err(status.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

fn triple(arch: &str) -> String {
    format!("{arch}-unknown-linux-gnu")
}

fn linker(arch: &str) -> String {
    format!("{arch}-linux-gnu-gcc")
}

/// What a program prints, if it runs.
fn print(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}
