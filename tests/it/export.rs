//! Bundles in other forms, each judged by other people's programs.

use imgtool_tests::{World, built_kernel, repository};

fn bundle(world: &World) -> String {
    world.write("tree/etc/os-release", "ID=test\n");
    world.write("tree/bin/tool", "#!/bin/true\n");
    world.write("tree/big", vec![7; 3 << 20]);
    world.run("ln", ["tree/bin/tool", "tree/bin/hard"]).ok();
    world.run("ln", ["-s", "tool", "tree/bin/soft"]).ok();
    world.run("chmod", ["4755", "tree/bin/tool"]).ok();
    world.run("mkfifo", ["tree/fifo"]).ok();
    let xattr = "import os; os.setxattr('tree/etc/os-release', 'user.colour', b'red')";
    world.run("python3", ["-c", xattr]).ok();
    let args = ["-cf", "root.tar", "--xattrs", "--owner=5", "--group=6", "-C", "tree", "."];
    world.run("tar", args).ok();
    world.write("t.toml", "name = \"t\"\nversion = \"1\"\n[source]\ntarball = \"root.tar\"\n");
    let configs = repository().join("kernel-configs");
    let configs = configs.to_str().unwrap();
    world.imgtool(["build", "-r", "t.toml", "--kernel-configs", configs]).ok().text()
}

fn export(world: &World, bundle: &str, form: &str) -> String {
    let path = world.imgtool(["export", bundle, "--as", form, "--upper-size", "64MiB"]).ok().text();
    world.run("sha256sum", ["-c", &format!("{path}.sha256")]).ok();
    let again = world.path("again");
    let to = ["--upper-size", "64MiB", "-o", again.to_str().unwrap()];
    world.imgtool(["export", bundle, "--as", form].into_iter().chain(to)).ok();
    world.run("cmp", [&path, "again"]).ok();
    path
}

/// Partitions by name: where they begin and how long they are, in sectors, and their UUIDs.
fn partitions(world: &World, disk: &str) -> Vec<(String, u64, u64, String)> {
    let judged = world.run("sgdisk", ["-v", disk]).ok().text();
    assert!(judged.contains("No problems found"), "{judged}");
    world.run("sfdisk", ["--verify", disk]).ok();
    let table = world.run("sfdisk", ["--json", disk]).ok().text();
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let all = table["partitiontable"]["partitions"].as_array().unwrap().iter();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_string();
    let number = |v: &serde_json::Value| v.as_u64().unwrap();
    all.map(|p| (text(&p["name"]), number(&p["start"]), number(&p["size"]), text(&p["uuid"])))
        .collect()
}

/// Copies the partition `name` to the file `name`.
fn cut(world: &World, disk: &str, name: &str) {
    let all = partitions(world, disk);
    let (_, start, size, _) = all.iter().find(|p| p.0 == name).unwrap();
    let cut = format!(
        "dd if={disk} of={name} bs=1M iflag=skip_bytes,count_bytes skip={} count={} conv=sparse \
         status=none && truncate -s {} {name}",
        start * 512,
        size * 512,
        size * 512
    );
    world.run("sh", ["-c", &cut]).ok();
}

#[test]
fn disks_are_right_by_the_tools_of_others() {
    let world = World::new();
    let bundle = bundle(&world);
    let ext4 = export(&world, &bundle, "ext4");
    world.run("e2fsck", ["-fn", &ext4]).ok();
    let raw = export(&world, &bundle, "raw");
    let names: Vec<_> = partitions(&world, &raw).into_iter().map(|p| p.0).collect();
    assert_eq!(names, ["root", "esp", "upper"]);
    for name in ["root", "esp", "upper"] {
        cut(&world, &raw, name);
    }
    world.run("sh", ["-c", &format!("truncate -r {ext4} root && cmp {ext4} root")]).ok();
    world.run("fsck.vfat", ["-n", "esp"]).ok();
    world.run("e2fsck", ["-fn", "upper"]).ok();
    let qcow2 = export(&world, &bundle, "qcow2");
    world.run("qemu-img", ["check", "-q", &qcow2]).ok();
    world.run("qemu-img", ["compare", "-q", &raw, &qcow2]).ok();
    let plain = world.imgtool(["export", &bundle, "--as", "raw", "--boot", "none", "-o", "plain"]);
    plain.ok();
    let (name, start, ..) = partitions(&world, "plain").remove(0);
    assert_eq!((name.as_str(), start, partitions(&world, "plain").len()), ("root", 2048, 1));
}

/// The program on the disk is systemd's stub with our kernel and the words that find the root.
#[test]
fn firmware_finds_the_kernel_and_the_kernel_its_root() {
    let world = World::new();
    let bundle = bundle(&world);
    let args = ["export", &bundle, "--as", "raw", "--upper-size", "64MiB", "-o", "disk"];
    world.imgtool(args).ok();
    cut(&world, "disk", "esp");
    world.run("mcopy", ["-i", "esp", "::/EFI/BOOT/BOOTX64.EFI", "program"]).ok();
    for (section, file) in [(".cmdline", "words"), (".linux", "kernel")] {
        let only = format!("--only-section={section}");
        world.run("objcopy", ["-O", "binary", &only, "program", file]).ok();
    }
    let words = std::fs::read_to_string(world.path("words")).unwrap();
    let root = partitions(&world, "disk").into_iter().find(|p| p.0 == "root").unwrap().3;
    let found = words.to_uppercase().contains(&format!("ROOT=PARTUUID={root}"));
    assert!(found && words.contains("imgtool.init=agent imgtool.upper=upper"), "{words} {root}");
    let kernel = "zstd -dc out/generic-6.1-*.tar.zst | tar -xO bzImage | cmp - kernel";
    world.run("sh", ["-c", kernel]).ok();
    // What firmware can not start is refused, and nothing is left.
    let micro = built_kernel("micro-6.1").display().to_string();
    let args = ["export", &bundle, "--as", "raw", "--kernel", &micro, "-o", "other"];
    world.imgtool(args).fails(3, "micro-6.1:6.1.192 is no program for UEFI firmware");
    let args = ["export", &bundle, "--as", "raw", "--upper-size", "1KiB", "-o", "other"];
    world.imgtool(args).fails(2, "the partition for what is written");
    std::fs::rename(world.path("out"), world.path("elsewhere")).unwrap();
    let bundle = bundle.replace("out/", "elsewhere/");
    world.run("sh", ["-c", "rm elsewhere/generic-*"]).ok();
    let args = ["export", &bundle, "--as", "raw", "-o", "other"];
    world.imgtool(args).fails(3, "the kernel of t:1, generic-6.1-6.1.192-x86_64.tar.zst");
    assert!(!world.files("").iter().any(|f| f.starts_with("other") || f.starts_with(".img")));
}

#[test]
fn an_oci_image_holds_the_same_tree_again() {
    let world = World::new();
    let bundle = bundle(&world);
    let ext4 = export(&world, &bundle, "ext4");
    let archive = export(&world, &bundle, "oci");
    let from = format!("oci-archive:{archive}:1");
    let shown = world.run("skopeo", ["inspect", &from]).ok().text();
    assert!(shown.contains("\"Os\": \"linux\""), "{shown}");
    world.run("skopeo", ["copy", "-q", &from, "oci:layout:1"]).ok();
    world.imgtool(["flatten", "oci-layout:layout:1", "-o", "flat.ext4"]).ok();
    let differ = world.imgtool(["inspect", "diff", &ext4, "flat.ext4"]);
    assert_eq!(differ.text(), "", "{differ:#?}");
}

#[test]
fn an_initramfs_is_read_by_cpio() {
    let world = World::new();
    let bundle = bundle(&world);
    let archive = export(&world, &bundle, "cpio");
    let list = world.run("sh", ["-c", &format!("cpio -itv --quiet -n < {archive}")]).ok().text();
    assert!(list.contains("usr/lib/imgtool/imgagent"), "{list}");
    assert!(list.lines().any(|line| line.contains("init -> /usr/lib/imgtool/imgagent")), "{list}");
    let unpack = format!(
        "mkdir out2; cd out2; cpio -id --quiet < ../{archive}; stat -c '%a %u %g %h' bin/hard; cmp big ../tree/big"
    );
    assert_eq!(world.run("sh", ["-c", &unpack]).ok().text(), "4755 5 6 2");
}

/// The same names, kinds, modes, owners, times in seconds, targets, links and contents as in the file
/// system.
#[test]
fn a_squashfs_holds_the_same_tree() {
    let world = World::new();
    let bundle = bundle(&world);
    let ext4 = export(&world, &bundle, "ext4");
    let squashfs = export(&world, &bundle, "squashfs");
    world.run("unsquashfs", ["-quiet", "-no-progress", "-d", "unpacked", &squashfs]).ok();
    let list = "find . -mindepth 1 -type d -printf '%p %m %U %G %T@\\n' -o \
                -printf '%p %y %m %U %G %T@ %n %s %l\\n' | sort | \
                sed 's/[.][0-9]\\{10\\}/ /'; \
                find . -type f -exec sha256sum {} + | sort";
    let unpacked = world.run("sh", ["-c", &format!("cd unpacked; {list}")]).ok().text();
    let mounted =
        format!("mkdir m && mount -o loop,ro {ext4} m && cd m && {{ {list}; }}; cd .. && umount m");
    let mounted = world.run("sh", ["-c", &mounted]).ok().text();
    let other = |text: &str| text.lines().filter(|l| !l.contains("lost+found")).count();
    assert!(other(&unpacked) > 15 && unpacked.contains("./bin/tool f 4755 5 6"), "{unpacked}");
    let ours: Vec<_> = mounted.lines().filter(|l| !l.contains("lost+found")).collect();
    assert_eq!(unpacked.lines().collect::<Vec<_>>(), ours);
    let xattr = "import os; print(os.getxattr('unpacked/etc/os-release', 'user.colour'))";
    assert_eq!(world.run("python3", ["-c", xattr]).ok().text(), "b'red'");
}

#[test]
fn what_is_no_image_is_refused() {
    let world = World::new();
    bundle(&world);
    let kernel = world.files("out").into_iter().find(|f| f.starts_with("generic-6.1-")).unwrap();
    let kernel = format!("out/{kernel}");
    world.imgtool(["export", &kernel, "--as", "raw"]).fails(3, "it is a kernel");
    world.write("x.tar.zst", "no bundle");
    world.imgtool(["export", "x.tar.zst", "--as", "ext4"]).fails(3, "x.tar.zst");
    assert!(!world.files("").iter().any(|file| file.ends_with(".raw") || file.starts_with(".img")));
}

#[test]
fn texts_for_other_programs_are_theirs() {
    let world = World::new();
    let bundle = bundle(&world);
    let config = world.imgtool(["render", "firecracker", &bundle, "--memory", "256"]).ok().text();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["machine-config"]["mem_size_mib"], 256);
    assert!(config["boot-source"]["boot_args"].as_str().unwrap().contains("imgtool.init=agent"));
    let sum = world.run("sha256sum", [&bundle]).ok().text();
    let args =
        ["render", "systemd", &bundle, "--imgrun", "/bin/true", "--", "sh", "-c", "echo $A 5%"];
    let unit = world.imgtool(args).ok().text();
    assert!(unit.contains(&format!("{} sh -c \"echo $$A 5%%\"", &sum[..64])), "{unit}");
    world.write("t-machine.service", unit);
    world.run("systemd-analyze", ["verify", "--man=no", "./t-machine.service"]).ok();
    let job = world.imgtool(["render", "nomad", &bundle]).ok().text();
    assert!(job.contains(&sum[..64]) && job.contains("\"infinity\""), "{job}");
    assert_eq!(world.imgtool(["render", "nonesuch", &bundle]).code, Some(2));
}

fn judge(name: &str) -> String {
    repository().join("target/judges").join(name).display().to_string()
}

#[test]
fn a_deployment_is_what_kubernetes_takes() {
    let world = World::new();
    let bundle = bundle(&world);
    let image = format!("ghcr.io/me/imgrun@sha256:{}", "0".repeat(64));
    let tag = ["render", "kubernetes", &bundle, "--container", "ghcr.io/me/imgrun:latest"];
    world.imgtool(tag).fails(2, "kubernetes needs a container image");
    let args = ["render", "kubernetes", &bundle, "--container", &image, "--cpus", "2", "--"];
    let text =
        world.imgtool(args.into_iter().chain(["sh", "-c", "echo \"$$ $(A)\": 5%"])).ok().text();
    world.write("deployment.yaml", &text);
    let versions = ["--version", "1.30", "--strict", "deployment.yaml"];
    world.run(judge("python/bin/kubernetes-validate"), versions).ok();
    let sum = world.run("sha256sum", [&bundle]).ok().text();
    let said = "import sys, yaml; d = yaml.safe_load(open('deployment.yaml'))
print(d['spec']['template']['spec']['containers'][0]['args'])";
    let args = world.run(judge("python/bin/python"), ["-c", said]).ok().text();
    // Kubernetes makes `$` of `$$`, and would put a variable in place of `$(A)`.
    let sum = &sum[..64];
    let wanted = format!(
        "['run', '--cpus=2', '--memory=512', '{sum}', '--', 'sh', '-c', 'echo \"$$$$ $$(A)\": 5%']"
    );
    assert_eq!(args, wanted);
}

/// By Lima's own definition of a template, pkg/limatype/lima_yaml.go: no package carries its schema.
#[test]
fn a_lima_template_names_one_disk_by_digest() {
    let world = World::new();
    let bundle = bundle(&world);
    world.imgtool(["render", "lima", &bundle]).fails(2, "lima needs the disk");
    let disk = world.imgtool(["export", &bundle, "--as", "qcow2"]).ok().text();
    let args = ["render", "lima", &bundle, "--disk", &disk, "--location", "https://a.example/d"];
    world.write("lima.yaml", world.imgtool(args).ok().text());
    let said = "import json, yaml; print(json.dumps(yaml.safe_load(open('lima.yaml'))))";
    let text = world.run(judge("python/bin/python"), ["-c", said]).ok().text();
    let template: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sum = world.run("sha256sum", [&disk]).ok().text();
    let wanted = serde_json::json!({
        "minimumLimaVersion": "2.0.0", "arch": "x86_64", "cpus": 1, "memory": "512MiB",
        "images": [{
            "location": "https://a.example/d", "arch": "x86_64",
            "digest": format!("sha256:{}", &sum[..64]),
        }],
        "mounts": [], "containerd": { "system": false, "user": false },
    });
    assert_eq!(template, wanted);
}

/// What cloud-init itself finds. The disk's files are copied to where it looks first: not every
/// kernel that tests run on mounts ISO 9660.
const CLOUD_INIT: &str = r#"
import sys
sys.path.insert(0, sys.argv[1])
from cloudinit import helpers, util
from cloudinit.sources.DataSourceNoCloud import DataSourceNoCloud
source = DataSourceNoCloud({}, None, helpers.Paths({"cloud_dir": "cloud", "run_dir": "run"}))
source._get_devices = lambda label: []
assert source.get_data(), "no seed"
print(source.get_instance_id(), source.metadata["local-hostname"])
config = util.load_yaml(source.get_userdata_raw())
print(config["users"][0]["name"], config["users"][0]["ssh_authorized_keys"], config["ssh_pwauth"])
"#;

#[test]
fn cloud_init_reads_the_seed() {
    let world = World::new();
    let bundle = bundle(&world);
    world.write("key.pub", "# mine\nssh-ed25519 AAAAC3NzaC1lZDI1 me@\"home\"\n");
    world.write("key", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    let seed = |key: &str, out: &str| {
        let more = ["--hostname", "web_1", "--ssh-key", key, "-o", out];
        world.imgtool(["render", "cloud-init", &bundle].into_iter().chain(more))
    };
    seed("key", "seed.iso").fails(2, "not a public ssh key");
    assert!(!world.path("seed.iso").exists());
    seed("key.pub", "seed.iso").ok();
    seed("key.pub", "again.iso").ok();
    world.run("cmp", ["seed.iso", "again.iso"]).ok();
    let label = world.run("blkid", ["-o", "value", "-s", "LABEL", "seed.iso"]).ok().text();
    assert_eq!(label, "cidata");
    let unpack = "mkdir -p cloud/seed/nocloud && bsdtar -xf seed.iso -C cloud/seed/nocloud";
    world.run("sh", ["-c", unpack]).ok();
    let program = judge("cloud-init/usr/lib/python3/dist-packages");
    // Debian's Python has what Debian's cloud-init needs.
    let found = world.run("/usr/bin/python3", ["-c", CLOUD_INIT, &program]);
    let sum = world.run("sha256sum", [&bundle]).ok().text();
    let wanted = format!(
        "web-1-{} web-1\nagent ['ssh-ed25519 AAAAC3NzaC1lZDI1 me@\"home\"'] False",
        &sum[..12]
    );
    assert_eq!(found.ok().text(), wanted);
}
