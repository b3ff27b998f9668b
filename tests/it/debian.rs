//! A whole Debian, judged inode by inode: the image against the tar that mmdebstrap wrote.

use std::path::PathBuf;

use imgtool_tests::{World, cache_directory, repository};

/// The entries that the builder adds to every image with systemd.
const ADDED: [&str; 6] = [
    "usr/lib/imgtool",
    "usr/lib/imgtool/imgagent",
    "usr/lib/systemd/system/imgagent.service",
    "usr/lib/systemd/system/sysinit.target.wants/imgagent.service",
    "usr/lib/systemd/system/sysinit.target.wants",
    "usr/lib/systemd/system",
];

/// The cached tar whose decompressed digest is `digest`.
fn layer(world: &World, digest: &str) -> PathBuf {
    let blobs = PathBuf::from(cache_directory()).join("blobs/sha256");
    for blob in std::fs::read_dir(&blobs).expect("imgtool's cache").flatten() {
        let script = "zstd -dcq \"$0\" 2>/dev/null | sha256sum";
        let found = world.run("sh", ["-c".as_ref(), script.as_ref(), blob.path().as_os_str()]);
        if found.text().starts_with(digest) {
            return blob.path();
        }
    }
    panic!("no tar with the digest {digest} in {}", blobs.display());
}

/// What the recipe's steps come to, as a layer made by GNU tar: no host keys, and when to make them.
fn steps(world: &World) {
    for key in ["ecdsa", "ed25519", "rsa"] {
        world.write(&format!("steps/etc/ssh/.wh.ssh_host_{key}_key"), "");
        world.write(&format!("steps/etc/ssh/.wh.ssh_host_{key}_key.pub"), "");
    }
    let service = "[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\n\
                   ExecStartPre=/usr/sbin/sshd -t\n";
    world.write("steps/etc/systemd/system/ssh.service.d/host-keys.conf", service);
    let script = "find . -type f -printf '%P\\0' | tar -cf ../steps.tar --null -T - --owner=0 \
                  --group=0 --mode=0644 --mtime=@1761955200";
    world.run("sh", ["-c", &format!("cd steps && {script}")]).ok();
}

#[test]
fn every_inode_is_as_the_tar_says() {
    let world = World::new();
    let arch = std::env::consts::ARCH;
    let bundle = repository().join(format!("target/images/debian-12-{arch}.tar.zst"));
    assert!(bundle.exists(), "{} is not built: run tests/run", bundle.display());
    let unpack = "zstd -dcq \"$0\" | tar x";
    world.run("sh", ["-c".as_ref(), unpack.as_ref(), bundle.as_os_str()]).ok();
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.path("manifest.json")).unwrap()).unwrap();
    let digest = manifest["sources"][0]["digest"].as_str().unwrap();
    let layer = layer(&world, digest.strip_prefix("sha256:").unwrap());

    world.run("e2fsck", ["-fn", "rootfs.ext4"]).ok();
    steps(&world);
    std::fs::create_dir(world.path("mounted")).unwrap();
    // The judge reads through the kernel, so this needs root and a loop device.
    world.run("mount", ["-o", "ro,loop", "rootfs.ext4", "mounted"]).ok();
    let judge = repository().join("tests/judge/tree.py");
    let layer = layer.display().to_string();
    let mut args = vec![judge.display().to_string(), "mounted".into(), layer, "steps.tar".into()];
    // mmdebstrap's tar has no times after the recipe's, so none was clamped.
    for added in ADDED {
        args.extend(["--ignore".into(), added.into()]);
    }
    let judged = world.run("python3", args);
    world.run("umount", ["mounted"]).ok();
    let text = judged.ok().text();
    let entries: u32 = text.split(' ').next().unwrap().parse().unwrap();
    assert!(entries > 10_000, "{text}");
}
