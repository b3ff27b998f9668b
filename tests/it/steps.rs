//! Steps that only touch files, and what a build does not do again. The judge is debugfs.

use std::time::{Duration, Instant};

use imgtool_tests::{Outcome, World, cache_directory, copy_kernels, repository};

/// An unchanged build takes this long at most.
const UNCHANGED_MAX: Duration = Duration::from_millis(300);

/// A world with an image's tree, something to copy, and a cache of its own that has the kernel.
fn world() -> World {
    let world = World::new();
    let passwd = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\n";
    world.write("tree/etc/passwd", passwd);
    world.write("tree/etc/group", "root:x:0:\ndaemon:x:1:\nsudo:x:27:daemon\nvideo:x:44:\n");
    world.write("tree/etc/shadow", "root:*:1:0:99999:7:::\n");
    world.write("tree/etc/subuid", "daemon:100000:65536\n");
    world.write("tree/etc/skel/.profile", "umask 022\n");
    world.write("tree/etc/machine-id", "");
    world.write("tree/usr/bin/tool", "#!/bin/true\n");
    world.write("tree/usr/share/doc/a/copyright", "c\n");
    world.write("tree/etc/ssh/ssh_host_rsa_key.pub", "k\n");
    let unit = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nAlias=web.service\n";
    world.write("tree/usr/lib/systemd/system/webd.service", unit);
    world.run("ln", ["-s", "usr/bin", "tree/bin"]).ok();
    world.run("tar", ["-cf", "root.tar", "--owner=0", "--group=0", "-C", "tree", "."]).ok();
    world.write("app/run.sh", "#!/bin/sh\n");
    world.write("app/data/one", "1\n");
    world.run("chmod", ["700", "app/run.sh"]).ok();
    world.run("ln", ["-s", "data/one", "app/link"]).ok();
    let kernels = format!("{}/kernel", cache_directory());
    std::fs::create_dir(world.path("cache")).unwrap();
    copy_kernels(&world, &kernels, "cache/kernel");
    world
}

fn recipe(world: &World, steps: &str) {
    let head = "name = \"t\"\nversion = \"1.5\"\nsource_date_epoch = 1000000000\n";
    world.write("t.toml", format!("{head}[source]\ntarball = \"root.tar\"\n{steps}"));
}

fn imgtool(world: &World, verb: &str, more: &[&str]) -> Outcome {
    let configs = repository().join("kernel-configs");
    let mut command = world.command(imgtool_tests::program("imgtool"));
    command.args([verb, "-r", "t.toml", "--kernel-configs"]).arg(configs).args(more);
    command.env("IMGTOOL_CACHE", world.path("cache"));
    imgtool_tests::finish(command)
}

/// Builds and takes the image out of the bundle.
fn build(world: &World) {
    let path = imgtool(world, "build", &[]).ok().text();
    world.run("sh", ["-c", &format!("zstd -dcq {path} | tar xf - rootfs.ext4")]).ok();
    world.run("e2fsck", ["-fn", "rootfs.ext4"]).ok();
}

fn debugfs(world: &World, request: &str) -> String {
    world.run("debugfs", ["-R", request, "rootfs.ext4"]).ok().text()
}

/// `MODE UID GID` of a path, and that it is there.
fn owner(world: &World, path: &str) -> String {
    let stat = debugfs(world, &format!("stat {path}"));
    let field = |name: &str| {
        let (_, rest) = stat.split_once(name).unwrap_or_else(|| panic!("{path}: {stat}"));
        rest.split_whitespace().next().unwrap().to_string()
    };
    format!("{} {} {}", field("Mode:"), field("User:"), field("Group:"))
}

const STEPS: &str = r#"
[[step]]
user = "agent"
groups = ["sudo", "video"]

[[step]]
mkdir = "/home/agent/workspace"
owner = "agent"

[[step]]
copy = "app"
to = "/opt/app-{version}"
owner = "agent:daemon"

[[step]]
copy = "app/run.sh"
to = "/bin/"
mode = "4755"

[[step]]
write = "/etc/issue"
content = "version {version} for {arch}\n"
mode = "0640"

[[step]]
write = "/etc/app.json"
content = "{\"a\": {x}}"
raw = true

[[step]]
append = "/etc/issue"
content = "more\n"

[[step]]
symlink = "/usr/bin/app"
target = "/opt/app-{version}/run.sh"

[[step]]
remove = ["/usr/share/doc", "/etc/ssh/ssh_host_*", "/etc/none*"]

[[step]]
mkdir = "/usr/share/doc/new"

[[step]]
truncate = "/etc/skel/.profile"

[[step]]
set = ["/usr/bin/tool"]
mode = "0750"
owner = "daemon"

[[step]]
service = "webd"

[[step]]
write = "/never"
content = ""
arch = ["aarch64"]
"#;

#[test]
fn file_steps_do_what_they_say() {
    let world = world();
    recipe(&world, STEPS);
    build(&world);
    let cat = |path: &str| debugfs(&world, &format!("cat {path}"));
    let arch = std::env::consts::ARCH;
    assert!(cat("/etc/passwd").ends_with("\nagent:x:1000:1000::/home/agent:/bin/sh"));
    assert!(cat("/etc/group").contains("sudo:x:27:daemon,agent\nvideo:x:44:agent\nagent:x:1000:"));
    // Day 11574 is 2001-09-09, the recipe's epoch.
    assert!(cat("/etc/shadow").ends_with("\nagent:*:11574:0:99999:7:::"));
    assert!(cat("/etc/subuid").ends_with("\nagent:165536:65536"));
    assert_eq!(owner(&world, "/home/agent"), "0750 1000 1000");
    assert_eq!(owner(&world, "/home/agent/.profile"), "0644 1000 1000");
    assert_eq!(owner(&world, "/home/agent/workspace"), "0755 1000 1000");
    assert_eq!(owner(&world, "/opt/app-1.5/run.sh"), "0755 1000 1");
    assert_eq!(owner(&world, "/opt/app-1.5/data/one"), "0644 1000 1");
    assert!(debugfs(&world, "stat /opt/app-1.5/link").contains("Fast link dest: \"data/one\""));
    assert!(debugfs(&world, "stat /usr/bin/app").contains("/opt/app-1.5/run.sh"));
    assert!(debugfs(&world, "stat /bin").contains("Fast link dest: \"usr/bin\""));
    assert_eq!(owner(&world, "/usr/bin/run.sh"), "04755 0 0");
    assert_eq!(cat("/etc/issue"), format!("version 1.5 for {arch}\nmore"));
    assert_eq!(owner(&world, "/etc/issue"), "0640 0 0");
    assert_eq!(cat("/etc/app.json"), "{\"a\": {x}}");
    assert_eq!(cat("/etc/skel/.profile"), "");
    assert_eq!(owner(&world, "/usr/bin/tool"), "0750 1 1");
    for gone in ["/usr/share/doc/a", "/etc/ssh/ssh_host_rsa_key.pub"] {
        let found = world.run("debugfs", ["-R", &format!("stat {gone}"), "rootfs.ext4"]);
        assert!(found.stderr.contains("File not found"), "{found:#?}");
    }
    assert_eq!(owner(&world, "/usr/share/doc/new"), "0755 0 0");
    for link in ["multi-user.target.wants/webd.service", "web.service"] {
        let stat = debugfs(&world, &format!("stat /etc/systemd/system/{link}"));
        assert!(stat.contains("/usr/lib/systemd/system/webd.service"), "{stat}");
    }
    let never = world.run("debugfs", ["-R", "stat /never", "rootfs.ext4"]);
    assert!(arch == "aarch64" || never.stderr.contains("File not found"), "{never:#?}");
    assert!(debugfs(&world, "stat /etc/issue").contains("2001"));
}

#[test]
fn what_did_not_change_is_not_done_again() {
    let world = world();
    recipe(&world, STEPS);
    build(&world);
    let first = std::fs::read(world.path("rootfs.ext4")).unwrap();
    let quickest = (0..5)
        .map(|_| {
            let began = Instant::now();
            let outcome = imgtool(&world, "build", &[]).ok();
            assert!(outcome.stderr.contains("nothing changed since"), "{outcome:#?}");
            began.elapsed()
        })
        .min()
        .unwrap();
    assert!(quickest <= UNCHANGED_MAX, "an unchanged build took {quickest:?}");
    let plan = imgtool(&world, "plan", &[]).ok().text();
    assert!(plan.contains("cached   steps 1-13 (files)") && plan.contains("unchanged"), "{plan}");

    // A touched bundle is made again, and comes out the same.
    let bundle = format!("out/t-1.5-{}.tar.zst", std::env::consts::ARCH);
    let before = std::fs::read(world.path(&bundle)).unwrap();
    world.write(&bundle, "damaged");
    let outcome = imgtool(&world, "build", &[]).ok();
    assert!(outcome.stderr.contains("as before, from the cache"), "{outcome:#?}");
    assert!(std::fs::read(world.path(&bundle)).unwrap() == before);

    // So it is in another cache: nothing but the inputs decides.
    std::fs::rename(world.path("cache"), world.path("cache.old")).unwrap();
    std::fs::create_dir(world.path("cache")).unwrap();
    copy_kernels(&world, "cache.old/kernel", "cache/kernel");
    world.run("touch", ["app/data/one"]).ok();
    build(&world);
    assert!(std::fs::read(world.path("rootfs.ext4")).unwrap() == first);

    // A copied file: its step runs again, and why is said.
    world.write("app/data/one", "2\n");
    let why = imgtool(&world, "explain", &[]).ok().text();
    assert!(why.contains("runs     steps 1-13 (files)"), "{why}");
    assert!(why.contains("step 3's files: sha256:"), "{why}");
    assert!(!why.contains("step 1:"), "{why}");
    build(&world);
    assert_eq!(debugfs(&world, "cat /opt/app-1.5/data/one"), "2");
}

#[test]
fn a_step_that_can_not_be_done_says_which_and_why() {
    let world = world();
    let fails = |step: &str, words: &str| {
        recipe(&world, &format!("[[step]]\nmkdir = \"/a\"\n[[step]]\n{step}\n"));
        let outcome = imgtool(&world, "build", &[]);
        assert_eq!(outcome.code, Some(3), "{outcome:#?}");
        assert!(outcome.stderr.contains(words), "{words}: {outcome:#?}");
        let left: Vec<_> =
            world.files("out").into_iter().filter(|f| !f.starts_with("generic-")).collect();
        assert!(left.is_empty(), "{left:?}");
    };
    fails("remove = \"/nonesuch\"", "steps 1-2 (files): /nonesuch: it is not in the image");
    fails("truncate = \"/etc\"", "/etc: it is no file");
    fails("write = \"/etc\"\ncontent = \"\"", "/etc: a directory is there");
    fails("write = \"/etc/passwd/x\"\ncontent = \"\"", "through something that is no directory");
    fails("mkdir = \"/etc/passwd\"", "something that is no directory is there");
    fails("copy = \"app/run.sh\"\nto = \"/etc\"", "/etc: a directory is there");
    fails("copy = \"nonesuch\"\nto = \"/etc/\"", "step 2: copy");
    fails("set = \"/etc\"\nowner = \"nobody\"", "there is no user nobody in the image's");
    fails("user = \"daemon\"", "/etc/passwd has it already");
    fails("user = \"a\"\nuid = 1", "the number 1 is taken");
    fails("user = \"a\"\ngroups = [\"wheel\"]", "there is no group wheel");
    fails("first_boot = [\"curl\"]", "the image has neither systemd nor OpenRC to start it");
    fails("service = \"nonesuch\"", "the image has no such unit");
    // The second would take the place of the first.
    let systemd = "write = \"/usr/lib/systemd/systemd\"\ncontent = \"\"\n";
    let twice = "[[step]]\nfirst_boot = [\"a\"]\n[[step]]\nfirst_boot = [\"b\"]";
    fails(&format!("{systemd}{twice}"), "first_boot: the image has such a step already");
}

/// A mask is an answer that a later step may take back; one that the image's packages give stays.
#[test]
fn a_masked_unit_is_enabled_or_refused() {
    let world = world();
    let mask = "[[step]]\nservice = \"webd\"\nstate = \"masked\"\n";
    recipe(&world, &format!("{mask}[[step]]\nservice = \"webd\"\n"));
    let bundle = imgtool(&world, "build", &[]).ok().text();
    world.imgtool(["export", &bundle, "--as", "ext4", "-o", "i.ext4"]).ok();
    let list = world.imgtool(["inspect", "ls", "i.ext4", "/etc/systemd/system"]).ok().text();
    assert!(!list.contains("webd.service"), "{list}");
    let link = "/etc/systemd/system/multi-user.target.wants/webd.service";
    world.imgtool(["inspect", "stat", "i.ext4", link]).ok();
    let vendor =
        "[[step]]\nsymlink = \"/usr/lib/systemd/system/webd.service\"\ntarget = \"/dev/null\"\n";
    recipe(&world, &format!("{vendor}[[step]]\nservice = \"webd\"\n"));
    imgtool(&world, "build", &[]).fails(3, "/usr/lib/systemd/system/webd.service masks it");
}

#[test]
fn what_should_not_be_given_to_others_fails_the_build() {
    let world = world();
    let steps = r#"
[[step]]
write = "/etc/machine-id"
content = "0123456789abcdef0123456789abcdef\n"
[[step]]
write = "/etc/ssh/ssh_host_rsa_key"
content = "key"
[[step]]
write = "/root/.ssh/id_rsa"
content = "-----BEGIN RSA PRIVATE KEY-----\n"
[[step]]
append = "/etc/shadow"
content = "eve:$6$abc$def:1:0:99999:7:::\nbob::1::::::\n"
[[step]]
write = "/srv/all"
content = "x"
mode = "0666"
[[step]]
write = "/etc/resolv.conf"
content = "nameserver 192.0.2.1\n"
[[step]]
write = "/var/lib/apt/lists/deb.example_Packages"
content = "x"
[[step]]
write = "/usr/local/bin/made"
content = "cd HERE/app\n"
"#;
    let here = world.path("").canonicalize().unwrap().display().to_string();
    let steps = &steps.replace("HERE", here.trim_end_matches('/'));
    recipe(&world, steps);
    let outcome = imgtool(&world, "build", &[]);
    assert_eq!(outcome.code, Some(3), "{outcome:#?}");
    let expected = [
        "machine-id: /etc/machine-id",
        "ssh-host-keys: /etc/ssh/ssh_host_rsa_key",
        "resolv-conf: /etc/resolv.conf",
        "passwords: /etc/shadow: eve has a password",
        "passwords: /etc/shadow: bob needs no password",
        "credentials: /root/.ssh/id_rsa: a private key",
        "world-writable: /srv/all",
        "package-caches: /var/lib/apt/lists/deb.example_Packages",
        "host-paths: /usr/local/bin/made: it names",
        "the image has 9 things in it that should not be given to others",
    ];
    for line in expected {
        assert!(outcome.stderr.contains(line), "{line}: {outcome:#?}");
    }
    let some = "[lint]\nallow = [\"machine-id\", \"ssh-host-keys\", \"resolv-conf\", \"passwords\", \
                \"credentials\", \"world-writable\", \"host-paths\"]\n";
    recipe(&world, &format!("{some}{steps}"));
    let outcome = imgtool(&world, "build", &[]);
    assert!(outcome.stderr.contains("one thing in it"), "{outcome:#?}");
    recipe(&world, &format!("{}{steps}", some.replace("\"]\n", "\", \"package-caches\"]\n")));
    imgtool(&world, "build", &[]).ok();
}

#[test]
fn a_locked_build_is_the_locked_image_or_none() {
    let world = world();
    recipe(&world, STEPS);
    imgtool(&world, "build", &["--locked"]).fails(3, "t.lock: there is no lock");
    imgtool(&world, "lock", &[]).ok();
    let lock = std::fs::read_to_string(world.path("t.lock")).unwrap();
    assert!(lock.contains("generic-6.1") && lock.contains("steps 1-13 (files)"), "{lock}");
    let bundle = imgtool(&world, "build", &["--locked"]).ok().text();
    let manifest = format!("zstd -dcq {bundle} | tar xOf - manifest.json");
    let manifest = world.run("sh", ["-c", &manifest]).ok().text();
    let digest = world.run("sha256sum", ["t.lock"]).ok().text();
    assert!(manifest.contains(&format!("\"lock\": \"sha256:{}\"", &digest[..64])), "{manifest}");
    assert_eq!(imgtool(&world, "outdated", &[]).ok().text(), "");

    world.write("app/data/one", "2\n");
    imgtool(&world, "build", &["--locked"]).fails(4, "steps 1-13 (files): the lock has sha256:");
    world.write("tree/new", "new\n");
    world.run("tar", ["-cf", "root.tar", "--owner=0", "--group=0", "-C", "tree", "."]).ok();
    imgtool(&world, "build", &["--locked"]).fails(4, "the source: the lock has sha256:");
    let outcome = imgtool(&world, "outdated", &[]);
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    let text = outcome.text();
    assert!(text.contains(": source root.tar: ") && text.contains("the layer of steps"), "{text}");
    imgtool(&world, "build", &["--locked", "--arch", "m68k"]);
    imgtool(&world, "lock", &[]).ok();
    imgtool(&world, "build", &["--locked"]).ok();
    recipe(&world, "");
    imgtool(&world, "build", &["--locked"])
        .fails(3, "the lock is of 1 stages of steps, here are 0");
    world.write("t.lock", "version = 9\n");
    imgtool(&world, "build", &["--locked"]).fails(3, "version 9 of locks");
}
