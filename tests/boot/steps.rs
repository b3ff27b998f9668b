//! Steps that run programs: what a command left is what the image has, and nothing of the machine
//! that it ran in.

use std::path::Path;
use std::process::Command;

use imgtool_tests::{Outcome, World, cache_directory, copy_kernels, finish, program, repository};

/// A world with Debian's smallest tree as a tarball, and a cache that has only kernels.
fn world() -> World {
    let world = World::new();
    std::fs::copy(bootstrap(), world.path("root.tar.zst")).unwrap();
    fresh_cache(&world);
    world
}

fn fresh_cache(world: &World) {
    let _ = std::fs::remove_dir_all(world.path("cache"));
    std::fs::create_dir(world.path("cache")).unwrap();
    let kernels = format!("{}/kernel", cache_directory());
    copy_kernels(world, &kernels, "cache/kernel");
}

/// The tar that `tests/run` made for the image debian-minimal, by the cache's own note: of those that
/// are called the same the smallest, which has no more packages than its variant.
fn bootstrap() -> std::path::PathBuf {
    let cache = cache_directory();
    let name = format!("debian bookworm minbase {}", std::env::consts::ARCH);
    let blob = |note: std::fs::DirEntry| {
        let text = std::fs::read(note.path()).ok()?;
        let note: serde_json::Value = serde_json::from_slice(&text).ok()?;
        let hex = note["blob"].as_str()?.trim_start_matches("sha256:").to_string();
        (note["name"] == name.as_str()).then_some(Path::new(&cache).join("blobs/sha256").join(hex))
    };
    let notes = std::fs::read_dir(Path::new(&cache).join("keys")).unwrap();
    let blobs = notes.filter_map(|note| blob(note.unwrap()));
    let sized = blobs.filter_map(|path| Some((path.metadata().ok()?.len(), path)));
    let (_, path) = sized.min().unwrap_or_else(|| panic!("no bootstrap in {cache}: run tests/run"));
    path
}

fn recipe(world: &World, steps: &str) {
    let head = "name = \"t\"\nversion = \"1\"\nsource_date_epoch = 1761955200\n";
    world.write("t.toml", format!("{head}[source]\ntarball = \"root.tar.zst\"\n{steps}"));
}

fn command(world: &World, verb: &str) -> Command {
    let mut command = world.command(program("imgtool"));
    command.args([verb, "-r", "t.toml", "--kernel-configs"]);
    command.arg(repository().join("kernel-configs"));
    command.env("IMGTOOL_CACHE", world.path("cache"));
    command
}

fn build(world: &World, more: &[&str]) -> Outcome {
    let mut command = command(world, "build");
    command.args(more);
    finish(command)
}

/// All that `find` can say of every file, and the sums of contents. Of directories not the size;
/// what a machine mounts or is given at boot is left out.
const LISTING: &str = r#"
list() {
    cd /
    find . -xdev -path ./listing -prune -o -path ./usr/lib/imgtool -prune -o \
        -path ./tmp/\* -prune -o -path ./run/\* -prune -o -path ./etc/hostname -prune -o \
        -type d -printf '%p d %m %U %G\n' -o \
        -type f -printf '%p f %m %U %G %n %s\n' -o -printf '%p %y %m %U %G %l\n' | sort
    find . -xdev -type f ! -path ./listing ! -path './usr/lib/imgtool/*' ! -path ./etc/hostname \
        -size -300k -exec cksum {} + | sort -k3
}
"#;

#[test]
fn what_a_command_left_is_what_the_image_has() {
    let world = world();
    world.write("token", "s3cr3t-0f-the-test");
    let script = r#"
        cat /proc/sys/kernel/hostname; test -s /run/secrets/token; echo $IMGTOOL_VERSION
        test $SOURCE_DATE_EPOCH = 1761955200; test "$CI" = yes
        # Every way to change a tree.
        rm -rf /usr/share/doc && mkdir /usr/share/doc && echo new > /usr/share/doc/new
        mv /usr/share/man /usr/share/handbook
        ln /etc/issue /etc/issue.hard; ln -s nowhere /etc/dangling; rm /etc/debian_version
        chmod 4711 /usr/bin/cut; chown 7:8 /usr/bin/cut; chmod 700 /var/spool
        mkfifo /var/fifo; mknod /var/device c 1 3; echo x > '/var/a name	with tab'
        head -c 3000000 /dev/urandom > /var/random; truncate -s 5M /var/sparse
        mkdir -p /var/many && for i in $(seq 2000); do echo $i > /var/many/$i; done
        rm /usr/bin/yes; mkdir /usr/bin/yes; echo 0123456789abcdef0123456789abcdef > /root/id
        rm /var/random
    "#;
    let step = format!(
        "[[step]]\nrun = '''{LISTING}{script}\nlist > /listing'''\nsecrets = [\"token\"]\n\
         env = {{ CI = \"yes\" }}\n"
    );
    recipe(&world, &step);
    build(&world, &[]).fails(2, "the secret token was not given");
    let bundle = build(&world, &["--secret", "token=token"]).ok().text();
    world.run("sh", ["-c", &format!("zstd -dcq {bundle} | tar xf - rootfs.ext4")]).ok();
    world.run("e2fsck", ["-fn", "rootfs.ext4"]).ok();
    let found = world.run("grep", ["-rlac", "s3cr3t-0f-the-test", "rootfs.ext4", "cache"]);
    assert_eq!(found.text(), "", "the secret left a trace");

    let script = format!("{LISTING}list > /run/now; diff /listing /run/now && echo same");
    let outcome = world.imgrun(["run", "-q", &bundle, "--", "sh", "-c", &script]).ok();
    assert_eq!(outcome.text(), "same");

    // The same in another cache, to the byte.
    let first = std::fs::read(world.path(&bundle)).unwrap();
    fresh_cache(&world);
    let again = build(&world, &["--secret", "token=token", "-o", "again"]).ok().text();
    assert!(std::fs::read(world.path(again)).unwrap() == first, "another build, other bytes");
}

/// A repository of one package, whose script leaves what packages' scripts leave.
fn repository_of_ours(world: &World) {
    world.write("deb/usr/bin/ours", "#!/bin/sh\necho ours\n");
    world.run("chmod", ["755", "deb/usr/bin/ours"]).ok();
    let control = "Package: ours\nVersion: 1.0-1\nArchitecture: all\nMaintainer: n <n@example>\n\
                   Depends: libc6\nDescription: ours\n";
    world.write("deb/DEBIAN/control", control);
    let script = "#!/bin/sh\nset -e\necho 0123456789abcdef0123456789abcdef >/etc/machine-id\n\
                  mkdir -p /var/lib/dbus\ncp /etc/machine-id /var/lib/dbus/machine-id\n\
                  if command -v invoke-rc.d; then invoke-rc.d nonesuch start || true; fi\n";
    world.write("deb/DEBIAN/postinst", script);
    world.run("chmod", ["755", "deb/DEBIAN/postinst"]).ok();
    std::fs::create_dir(world.path("repo")).unwrap();
    world.run("dpkg-deb", ["--root-owner-group", "-b", "deb", "repo/ours.deb"]).ok();
    let size = world.path("repo/ours.deb").metadata().unwrap().len();
    let sum = world.run("sha256sum", ["repo/ours.deb"]).ok().text();
    let sum = sum.split(' ').next().unwrap();
    let index = format!("{control}Filename: ./ours.deb\nSize: {size}\nSHA256: {sum}\n\n");
    world.write("repo/Packages", index);
}

const PACKAGES: &str = r#"
[[step]]
copy = "repo"
to = "/srv/repo"

[[step]]
remove = "/etc/apt/sources.list"

[[step]]
write = "/etc/apt/sources.list.d/ours.list"
content = "deb [trusted=yes] file:/srv/repo ./\n"

[[step]]
packages = ["ours"]
network = false

[[step]]
run = "ours; echo one >> /steps; su -s /bin/sh -c 'test ! -w /steps' daemon"

[[step]]
run = ["/bin/sh", "-c", "echo two >> /steps; id -un >&2; test -s /etc/resolv.conf"]
network = true

[[step]]
run = ["test", "!", "-w", "/steps"]
as = "daemon:daemon"

[[step]]
write = "/etc/motd"
content = "done\n"
"#;

#[test]
fn packages_are_installed_and_only_what_changed_runs_again() {
    let world = world();
    repository_of_ours(&world);
    recipe(&world, PACKAGES);
    let bundle = build(&world, &[]).ok().text();
    world.run("sh", ["-c", &format!("zstd -dcq {bundle} | tar xf -")]).ok();
    world.run("e2fsck", ["-fn", "rootfs.ext4"]).ok();
    let manifest = std::fs::read_to_string(world.path("manifest.json")).unwrap();
    assert!(manifest.contains("\"ours\""), "the manifest names no package of ours");
    let cat = |path: &str| {
        let request = format!("cat {path}");
        world.run("debugfs", ["-R", &request, "rootfs.ext4"]).text()
    };
    assert_eq!((cat("/steps").as_str(), cat("/etc/machine-id").as_str()), ("one\ntwo", ""));
    let gone = ["/var/lib/dbus/machine-id", "/etc/resolv.conf", "/usr/sbin/policy-rc.d"];
    for path in gone.into_iter().chain(["/var/log/dpkg.log", "/var/cache/apt/pkgcache.bin"]) {
        let found = world.run("debugfs", ["-R", &format!("stat {path}"), "rootfs.ext4"]);
        assert!(found.stderr.contains("File not found"), "{path}: {found:#?}");
    }

    // The last of its commands changes: the others do not run.
    recipe(&world, &PACKAGES.replace("echo two", "echo 2"));
    let why = finish(command(&world, "explain")).ok().text();
    let outcome = build(&world, &[]).ok();
    let cached = outcome.stderr.matches("as before, from the cache").count();
    assert_eq!(cached, 3, "{outcome:#?}");
    assert!(why.contains("runs     step 6 (run /bin/sh -c echo 2 >> /steps"), "{why}");
    assert!(
        why.contains("two >> /steps") && why.contains("depends  step 8 (write /etc/motd)"),
        "{why}"
    );
}

#[test]
fn a_failing_command_shows_its_output_and_keeps_what_is_asked_for() {
    let world = world();
    let step = "[[step]]\nrun = \"echo said; echo wrote > /wrote; echo why >&2; exit 9\"\n";
    recipe(&world, step);
    let outcome = build(&world, &[]).fails(7, "it ended with code 9");
    assert!(outcome.stderr.contains("| said") && outcome.stderr.contains("| why"), "{outcome:#?}");
    assert!(outcome.stderr.contains("step 1 (run echo said"), "{outcome:#?}");
    assert!(!world.path("out/failed-step.tar.zst").exists());

    let outcome = build(&world, &["--on-error=keep"]).fails(7, "it ended with code 9");
    assert!(outcome.stderr.contains("out/failed-step.tar.zst"), "{outcome:#?}");
    let kept = "zstd -dcq out/failed-step.tar.zst | tar xOf - wrote";
    assert_eq!(world.run("sh", ["-c", kept]).ok().text(), "wrote");

    let mut shell = command(&world, "build");
    shell
        .arg("--on-error=shell")
        .stdin(std::fs::File::open(world.write("typed", "cat /wrote; exit\n")).unwrap());
    let outcome = finish(shell).fails(7, "it ended with code 9");
    assert!(outcome.stderr.contains("\nwrote\n"), "{outcome:#?}");

    recipe(&world, "[[step]]\nrun = \"sleep 1000\"\ntimeout = \"2s\"\n");
    build(&world, &[]).fails(7, "it took longer than 2 s");
    recipe(&world, "[[step]]\nrun = [\"/no/such\"]\n");
    build(&world, &[]).fails(7, "/no/such");
    let left: Vec<_> = world.files("cache/machines/machines");
    assert_eq!(left, [""; 0]);
}

/// The same recipe in name spaces of this machine and in a machine of ours; and once more, every step
/// executed again.
#[test]
fn both_executors_leave_the_same() {
    let world = world();
    repository_of_ours(&world);
    world.write("token", "s3cr3t");
    let changes = "rm -rf /usr/share/doc; mkdir /usr/share/doc; mv /usr/share/man /usr/share/handbook
        ln /etc/issue /etc/issue.hard; chown 7:8 /usr/bin/cut; chmod 4711 /usr/bin/cut; mkfifo /var/fifo
        rm /usr/bin/yes; mkdir /usr/bin/yes; cat /run/secrets/token | wc -c > /size; hostname > /name";
    let more = format!("[[step]]\nrun = '''{changes}'''\nsecrets = [\"token\"]\n");
    recipe(&world, &format!("{PACKAGES}{more}"));
    let secret = ["--secret", "token=token"];
    let machine = build(&world, &[&secret[..], &["-o", "machine"]].concat()).ok().text();
    let rebuilt = |more: &[&str]| {
        let mut command = command(&world, "verify");
        command.args(["--rebuild", &machine, "--executor", "namespace"]).args(secret).args(more);
        finish(command)
    };
    let same = rebuilt(&[]).ok().text();
    assert!(same.starts_with("the same: sha256:"), "{same}");
    let digest = world.run("sha256sum", [&machine]).ok().text();
    assert_eq!(same.split(':').next_back(), digest.split(' ').next());

    recipe(&world, "[[step]]\nrun = \"echo said; sleep 0.1; exit 9\"\n");
    rebuilt(&[]).fails(3, "was not built of this text of t.toml");
    let fails = |words: &str| {
        let outcome = build(&world, &["--executor", "namespace"]).fails(7, words);
        assert!(words.contains("longer") || outcome.stderr.contains("| said"), "{outcome:#?}");
        assert!(!world.files("cache/images").iter().any(|f| f.starts_with(".img")));
    };
    fails("it ended with code 9");
    recipe(&world, "[[step]]\nrun = \"echo said; kill -9 $$\"\n");
    fails("signal 9 ended it");
    recipe(&world, "[[step]]\nrun = \"sleep 1000\"\ntimeout = \"2s\"\n");
    fails("it took longer than 2 s");
}

/// What an image has in place of its `/etc` leads nowhere but into the image; a user has the home that
/// the image says; and what is copied is what it was when the build began, or nothing is built.
#[test]
fn name_spaces_keep_to_the_image() {
    let world = world();
    let spaces = ["--executor", "namespace"];
    world.write("host/hostname", "the host's");
    let host = world.path("host").display().to_string();
    let away = format!("mv /etc /usr/etc; ln -s {host} /etc");
    let home = "test $HOME = /usr/sbin";
    recipe(
        &world,
        &format!(
            "[[step]]\nrun = '{home}'\nas = \"daemon\"\n\
             [[step]]\nrun = 'ln -s {host}/made /etc/.imgtool'\n\
             [[step]]\nrun = '{away}'\n[[step]]\nrun = \"true\"\n"
        ),
    );
    build(&world, &spaces).ok();
    assert_eq!(world.files("host"), ["hostname"]);
    assert_eq!(std::fs::read(world.path("host/hostname")).unwrap(), b"the host's");

    world.write("copied", "before");
    recipe(
        &world,
        "[[step]]\nrun = \"sleep 3.25\"\n[[step]]\ncopy = \"copied\"\nto = \"/copied\"\n",
    );
    let mut building = command(&world, "build");
    building.args(spaces).stderr(std::process::Stdio::piped());
    let building = building.spawn().unwrap();
    wait(|| processes("sleep 3.25").is_empty(), false);
    world.write("copied", "after");
    let outcome = building.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert!(said.contains("copied: it changed while the image was built"), "{said}");
}

/// A link in place of `/etc` is followed, so what the machine is called there is no change of the image;
/// and what means something to overlayfs may be in the cache's path.
#[test]
fn the_builders_name_stays_out_of_an_etc_that_is_a_link() {
    let world = world();
    std::fs::rename(world.path("cache"), world.path("ca,c:h\\e")).unwrap();
    recipe(
        &world,
        "[[step]]\nrun = \"mv /etc /usr/etc; ln -s usr/etc /etc; echo image >/etc/hostname\"\n\
         [[step]]\nrun = \"hostname >/name\"\n",
    );
    let mut building = command(&world, "build");
    building.args(["--executor", "namespace"]).env("IMGTOOL_CACHE", world.path("ca,c:h\\e"));
    let bundle = finish(building).ok().text();
    world.imgtool(["export", &bundle, "--as", "ext4", "-o", "i.ext4"]).ok();
    let cat = |path: &str| world.imgtool(["inspect", "cat", "i.ext4", path]).ok().text();
    assert_eq!((cat("/name"), cat("/usr/etc/hostname")), ("build".into(), "image".into()));
}

/// What a machine does at its first boot, here as a step: it fails without its repository and leaves no
/// mark, succeeds with it (knowing the distribution by what it is like), and does nothing any more.
#[test]
fn a_first_boot_is_tried_until_it_succeeds() {
    let world = world();
    repository_of_ours(&world);
    let script = r#"
        done=/var/lib/imgtool/first-boot.done
        sed -i '/^ID/d' /usr/lib/os-release
        printf 'ID=ours\nID_LIKE="x debian"\n' >>/usr/lib/os-release
        mv /srv/repo /srv/later
        if /usr/lib/imgtool/first-boot; then exit 1; fi
        test ! -e $done
        mv /srv/later /srv/repo
        /usr/lib/imgtool/first-boot
        test -e $done && test "$(ours)" = ours
        rm -r /srv/repo
        /usr/lib/imgtool/first-boot
        sed -i s/debian/y/ /usr/lib/os-release; rm $done
        if /usr/lib/imgtool/first-boot 2>/said; then exit 1; fi
        grep 'no package manager is known for "ours" (like "x y")' /said
        apt-get clean; rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin
    "#;
    let before = PACKAGES.split("[[step]]\npackages").next().unwrap();
    // So it looks as if systemd was there.
    let systemd = "[[step]]\nwrite = \"/usr/lib/systemd/systemd\"\ncontent = \"\"\n";
    let step = "[[step]]\nfirst_boot = [\"ours\"]\n";
    recipe(&world, &format!("{before}{systemd}{step}[[step]]\nrun = '''{script}'''\n"));
    let bundle = build(&world, &["--executor", "namespace"]).ok().text();
    world.imgtool(["export", &bundle, "--as", "ext4", "-o", "i.ext4"]).ok();
    let unit = "/etc/systemd/system/multi-user.target.wants/imgtool-first-boot.service";
    let unit = world.imgtool(["inspect", "cat", "i.ext4", unit]).ok().text();
    world.write("first-boot.service", unit.replace("/usr/lib/imgtool/first-boot", "/bin/true"));
    world.run("systemd-analyze", ["verify", "--man=no", "./first-boot.service"]).ok();
}

/// A build that is killed leaves no step running.
#[test]
fn steps_in_name_spaces_end_with_the_build() {
    let world = world();
    recipe(&world, "[[step]]\nrun = \"sleep 54321\"\n");
    let mut building = command(&world, "build");
    let mut building = building.args(["--executor", "namespace"]).spawn().unwrap();
    wait(|| processes("sleep 54321").is_empty(), false);
    building.kill().unwrap();
    building.wait().unwrap();
    wait(|| processes("sleep 54321").is_empty(), true);
}

/// Waits for `now` to be as `wanted`.
fn wait(now: impl Fn() -> bool, wanted: bool) {
    let began = std::time::Instant::now();
    while now() != wanted {
        assert!(began.elapsed().as_secs() < 120, "it takes too long");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// The processes with this very command line.
fn processes(words: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap();
    let all = all.map(|entry| entry.unwrap().path().join("cmdline"));
    let lines = all.filter_map(|path| std::fs::read(path).ok());
    let lines =
        lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ").trim().to_string());
    lines.filter(|line| line == words).collect()
}
