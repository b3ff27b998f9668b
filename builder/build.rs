//! Builds the guest agent for this machine's architecture, so that `imgtool` carries it: one
//! program to install, and an agent that always fits its builder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("..");
    for input in ["crates/agent/src", "crates/agent/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    // A packager may bring an agent of their own.
    println!("cargo::rerun-if-env-changed=IMGTOOL_AGENT");
    let out = PathBuf::from(var("OUT_DIR"));
    let built = match env::var_os("IMGTOOL_AGENT") {
        Some(agent) => PathBuf::from(agent),
        None => build_agent(&root, &out.join("agent")),
    };
    fs::copy(&built, out.join("imgagent"))
        .unwrap_or_else(|e| panic!("copy the agent from {}: {e}", built.display()));
}

/// Runs cargo in a target directory of its own, so that it does not wait for the cargo above.
fn build_agent(root: &Path, target_dir: &Path) -> PathBuf {
    let triple = format!("{}-unknown-linux-gnu", var("CARGO_CFG_TARGET_ARCH"));
    let status = Command::new(var("CARGO"))
        .current_dir(root)
        .args(["build", "--quiet", "--package", "imgtool-agent", "--bin", "imgagent"])
        .args(["--profile", "agent", "--target", &triple, "--target-dir"])
        .arg(target_dir)
        // Static: it must run in any image. A target must be named for that, else the flags would
        // reach build scripts, too.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status();
    match status {
        Ok(status) if status.success() => target_dir.join(triple).join("agent/imgagent"),
        other => panic!("building the guest agent failed: {other:?}"),
    }
}

fn var(name: &str) -> String {
    env::var(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}
