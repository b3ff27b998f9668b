//! `imgtool inspect`: what it says about images of ours and of `mke2fs`, judged by the kernel that
//! mounts them and by debugfs; and what it says about damaged ones.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use imgtool_tests::{Outcome, World, repository};
use serde_json::Value;

/// A tree with something of everything, as `tree` and as `tree.tar`.
fn tree(world: &World) {
    world.write("tree/etc/os-release", "ID=test\n");
    world.write("tree/etc/empty", "");
    world.write("tree/usr/bin/su", vec![7; 10_000]);
    world.write("tree/usr/share/esc\x1b[31m\nred\u{202e}", "x");
    world.write("tree/usr/share/back\\slash", "x");
    for i in 0..400 {
        world.write(&format!("tree/usr/share/doc/a package with a long name {i}/copyright"), "");
    }
    let script = r#"
        set -e
        ln -s usr/bin tree/bin
        ln -s "$(printf %0100d 7)" tree/long
        ln tree/usr/bin/su tree/usr/bin/sg
        chmod 4750 tree/usr/bin/su
        chown 70000:100000 tree/etc/empty
        truncate -s 3000000 tree/sparse
        printf middle | dd of=tree/sparse bs=1 seek=1500000 conv=notrunc status=none
        # mke2fs 1.47.0 cuts off a hole at the end where data may be inline.
        printf end | dd of=tree/sparse bs=1 seek=2999997 conv=notrunc status=none
        mknod tree/null c 1 3
        mknod tree/disk b 259 70000
        mkfifo tree/pipe
        touch -d 1950-01-02T03:04:05.123456789Z tree/old
        touch -d 2150-01-02T03:04:05.987654321Z tree/new
        python3 -c 'import os; os.setxattr("tree/old", "user.note", b"a note"); os.setxattr("tree/new", "trusted.bytes", bytes(range(200)))'
        tar -cf tree.tar --format=posix --xattrs --xattrs-include='*' -C tree .
    "#;
    world.run("sh", ["-c", script]).ok();
}

fn flatten(world: &World, tar: &str, image: &str) {
    world.imgtool(["flatten", &format!("tarball:{tar}"), "-o", image]).ok();
}

fn lines(outcome: &Outcome) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    outcome.text().lines().map(line).collect()
}

/// The path of a JSON object, exactly.
fn path_of(object: &Value, key: &str) -> Vec<u8> {
    match object[format!("{key}_hex")].as_str() {
        Some(hex) => (0..hex.len() / 2)
            .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
            .collect(),
        None => object[key].as_str().unwrap().as_bytes().to_vec(),
    }
}

/// Every field of every file, as the kernel has it that mounts the image; how many files there were.
fn judge(world: &World, image: &str) -> usize {
    fs::create_dir_all(world.path("mounted")).unwrap();
    world.run("mount", ["-o", "ro,loop,noatime", image, "mounted"]).ok();
    let listed = world.imgtool(["inspect", "ls", "-R", "--json", image]).ok();
    let mut seen: HashMap<Vec<u8>, Value> = HashMap::new();
    for object in lines(&listed) {
        seen.insert(path_of(&object, "path"), object);
    }
    let count = seen.len();
    let mut ahead = vec![world.path("mounted")];
    let mut wrong = Vec::new();
    while let Some(path) = ahead.pop() {
        let inside = path.strip_prefix(world.path("mounted")).unwrap();
        let name = [b"/", inside.as_os_str().as_bytes()].concat();
        let meta = fs::symlink_metadata(&path).unwrap();
        let Some(object) = seen.remove(&name) else {
            wrong.push(format!("{path:?} is not listed"));
            continue;
        };
        let time = |key: &str| {
            let field = |part: &str| object[key][part].as_i64().unwrap();
            (field("seconds"), field("nanoseconds"))
        };
        let device = &object["device"];
        let device = device.as_array().map_or(0, |numbers| {
            let [major, minor] = [0, 1].map(|i| numbers[i].as_u64().unwrap());
            (major & 0xfff) << 8 | minor & 0xff | (minor & !0xff) << 12
        });
        let target = fs::read_link(&path).ok().map(|t| t.into_os_string().into_encoded_bytes());
        let number = |key: &str| object[key].as_u64().unwrap();
        let is_same = number("mode") == u64::from(meta.mode() & 0o7777)
            && (number("uid"), number("gid")) == (meta.uid().into(), meta.gid().into())
            && (number("inode"), number("links")) == (meta.ino(), meta.nlink())
            && number("size") == meta.size()
            // The kernel tells of a sector where data is inline and takes none.
            && (number("disk_bytes") == meta.blocks() * 512 || number("disk_bytes") == 0)
            && time("mtime") == (meta.mtime(), meta.mtime_nsec())
            && time("ctime") == (meta.ctime(), meta.ctime_nsec())
            && time("atime") == (meta.atime(), meta.atime_nsec())
            && device == meta.rdev()
            && target == object.get("target").map(|_| path_of(&object, "target"));
        if !is_same {
            wrong.push(format!("{object} is not {meta:?}"));
        }
        if meta.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    wrong.extend(seen.keys().map(|path| format!("{:?} is not there", path.escape_ascii())));
    contents(world, image, &mut wrong);
    world.run("umount", ["mounted"]).ok();
    assert!(wrong.is_empty(), "{} differences: {:#?}", wrong.len(), &wrong[..wrong.len().min(9)]);
    count
}

/// Bytes of a few files, as the kernel and debugfs read them.
fn contents(world: &World, image: &str, wrong: &mut Vec<String>) {
    for path in ["/etc/os-release", "/sparse", "/bin/su", "/usr/bin/sg", "/etc/empty"] {
        let mounted = world.path(format!("mounted{path}"));
        if !mounted.exists() {
            continue;
        }
        let cat = world.imgtool(["inspect", "cat", image, path]).ok().stdout;
        // debugfs follows no link at the end, and shows what lies behind inline data, too.
        let debugfs = world.run("debugfs", ["-R", &format!("cat {path}"), image]).stdout;
        let agrees = mounted.is_symlink() || debugfs.starts_with(&cat);
        if cat != fs::read(&mounted).unwrap() || !agrees {
            wrong.push(format!("{path} has another content"));
        }
    }
}

#[test]
fn it_says_what_the_kernel_says() {
    let world = World::new();
    tree(&world);
    flatten(&world, "tree.tar", "ours.ext4");
    assert!(judge(&world, "ours.ext4") > 800);
    // e2fsck makes lost+found in the way of ext2.
    world.run("cp", ["ours.ext4", "repaired.ext4"]).ok();
    world.run("e2fsck", ["-fy", "repaired.ext4"]);
    judge(&world, "repaired.ext4");
    let differ = world.imgtool(["inspect", "diff", "ours.ext4", "repaired.ext4"]).text();
    assert!(differ.ends_with("+ /lost+found (directory)"), "{differ}");
    for (i, features) in
        ["inline_data", "^metadata_csum,^64bit", "metadata_csum_seed"].iter().enumerate()
    {
        let image = format!("theirs{i}.ext4");
        let size = if i == 1 { "4096" } else { "1024" };
        let args = ["-q", "-t", "ext4", "-b", size, "-O", features, "-d", "tree", &image, "64M"];
        world.run("mke2fs", args).ok();
        assert!(judge(&world, &image) > 800);
        // What mke2fs drops: parts of seconds, and the root's time.
        let args = ["inspect", "diff", "ours.ext4", &image, "--ignore", "mtime"];
        let differ = world.imgtool(args);
        let expected = ["+ /lost+found (directory)"];
        assert_eq!(differ.text().lines().collect::<Vec<_>>(), expected, "{features}");
        assert_eq!(differ.code, Some(1));
    }
    for (path, xattr) in [("/old", "user.note=\"a note\""), ("/new", "trusted.bytes=0x000102")] {
        let stat = world.imgtool(["inspect", "stat", "ours.ext4", path]).ok().text();
        assert!(stat.contains(xattr), "{stat}");
    }
    let stat = world.imgtool(["inspect", "stat", "ours.ext4", "/old"]).ok().text();
    assert!(stat.contains("1950-01-02 03:04:05.123456789"), "{stat}");
    let summary = world.imgtool(["inspect", "ours.ext4", "--json"]).ok();
    let summary = &lines(&summary)[0];
    assert_eq!((&summary["further_links"], &summary["clean"]), (&1.into(), &true.into()));
    assert!(world.imgtool(["inspect", "ours.ext4"]).ok().text().contains("metadata_csum"));
}

/// A whole Debian, if a slower way than the tar's judge.
#[test]
fn a_debian_as_the_kernel_sees_it() {
    let world = World::new();
    let name = format!("target/images/debian-12-{}.tar.zst", std::env::consts::ARCH);
    let bundle = repository().join(name);
    assert!(bundle.exists(), "{} is not built: run tests/run", bundle.display());
    let unpack = "zstd -dcq \"$0\" | tar x rootfs.ext4";
    world.run("sh", ["-c".as_ref(), unpack.as_ref(), bundle.as_os_str()]).ok();
    assert!(judge(&world, "rootfs.ext4") > 10_000);
    let same = world.imgtool(["inspect", "diff", "rootfs.ext4", "rootfs.ext4"]).ok();
    assert_eq!(same.text(), "");
}

#[test]
fn names_do_nothing_to_terminals() {
    let world = World::new();
    tree(&world);
    flatten(&world, "tree.tar", "root.ext4");
    for args in [&["ls", "root.ext4", "/usr/share"][..], &["ls", "-lR", "root.ext4"]] {
        let text = world.imgtool(["inspect"].iter().chain(args)).ok().text();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{text}");
        assert!(text.contains("esc\\x1b[31m\\nred\\u{202e}") && text.contains("back\\\\slash"));
    }
    let text = world.imgtool(["inspect", "ls", "-l", "root.ext4"]).ok().text();
    assert!(text.contains("bin -> usr/bin") && text.contains("259:70000"), "{text}");
    world.imgtool(["inspect", "ls", "root.ext4", "/bin/su"]).ok();
    // A reader that goes away is no error.
    let imgtool = imgtool_tests::program("imgtool").display().to_string();
    let script = format!(
        "set -o pipefail; {imgtool} inspect ls -lR root.ext4 | head -1; \
         {imgtool} inspect cat root.ext4 /sparse | head -c 1 | wc -c"
    );
    let outcome = world.run("bash", ["-c", &script]).ok();
    assert_eq!((outcome.text().lines().count(), &outcome.stderr[..]), (2, ""));
}

#[test]
fn a_diff_tells_every_kind_of_change() {
    let world = World::new();
    tree(&world);
    let script = r#"
        set -e
        cp -a tree next
        cd next
        rm etc/empty
        mkdir -p opt/tool && echo new >opt/tool/file
        printf X | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none
        touch -r ../tree/sparse sparse
        echo ID=other >>etc/os-release; touch -r ../tree/etc/os-release etc/os-release
        chmod 755 usr/bin/su
        chown 5:6 new
        touch -h -d 2000-01-01 pipe
        ln -sfn usr/sbin bin; touch -h -r ../tree/bin bin
        rm null; mknod null c 1 5; touch -r ../tree/null null
        rm disk; mkdir disk; touch -r ../tree/disk disk
        rm usr/bin/sg; cp -p usr/bin/su usr/bin/sg
        python3 -c 'import os; os.setxattr("old", "user.note", b"another"); os.removexattr("new", "trusted.bytes")'
        for d in etc usr/bin .; do touch -r ../tree/$d $d; done
        cd ..
        tar -cf next.tar --format=posix --xattrs --xattrs-include='*' -C next .
    "#;
    world.run("sh", ["-c", script]).ok();
    flatten(&world, "tree.tar", "old.ext4");
    flatten(&world, "next.tar", "new.ext4");
    let outcome = world.imgtool(["inspect", "diff", "old.ext4", "new.ext4"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("1 removed, 3 added, 10 changed"), "{}", outcome.stderr);
    let text = outcome.text();
    let bytes: String = (0..200).map(|b| format!("{b:02x}")).collect();
    let expected = [
        "~ /bin: target usr/bin -> usr/sbin",
        "~ /disk: type block device -> directory; mode 0644 -> 0755",
        "- /etc/empty (file)",
        "~ /etc/os-release: content 8 bytes -> 17 bytes",
        &format!("~ /new: owner 0:0 -> 5:6; xattrs trusted.bytes=0x{bytes} -> none"),
        "~ /null: device 1:3 -> 1:5",
        "~ /old: xattrs user.note=\"a note\" -> user.note=\"another\"",
        "+ /opt (directory)",
        "+ /opt/tool (directory)",
        "+ /opt/tool/file (file)",
        "~ /sparse: content 3000000 bytes -> others from byte 2000000 on",
        "~ /usr/bin/sg: mode 4750 -> 0755",
        "~ /usr/bin/su: link /usr/bin/sg -> a file of its own; mode 4750 -> 0755",
    ];
    let got: Vec<_> = text.lines().filter(|line| !line.contains("/pipe")).collect();
    assert_eq!(got, expected);
    assert!(text.contains("~ /pipe: mtime ") && text.contains(" -> 2000-01-01 00:00:00.000000000"));

    let outcome = world.imgtool(["inspect", "diff", "--json", "old.ext4", "new.ext4"]);
    let objects = lines(&outcome);
    assert_eq!((outcome.code, objects.len()), (Some(1), got.len() + 1));
    assert_eq!(objects[3]["details"][0]["what"], "content");
    let all = "type,mode,owner,mtime,content,target,device,xattrs,link";
    let args = ["inspect", "diff", "old.ext4", "new.ext4", "--ignore", all];
    assert_eq!(world.imgtool(args).text().lines().count(), 4);
    world.imgtool(["inspect", "diff", "old.ext4", "old.ext4"]).ok();
    assert_eq!(
        world.imgtool(["inspect", "diff", "old.ext4", "new.ext4", "--ignore", "x"]).code,
        Some(2)
    );
}

#[test]
fn what_is_no_image_or_damaged_is_an_error() {
    let world = World::new();
    tree(&world);
    flatten(&world, "tree.tar", "root.ext4");
    let fails = |args: &[&str], code, words: &str| {
        world.imgtool(["inspect"].iter().chain(args)).fails(code, words);
    };
    world.write("text", "no image");
    fails(&["text"], 3, "text: there is no ext4");
    fails(&["nowhere.ext4"], 3, "nowhere.ext4");
    fails(&["ls", "root.ext4", "/nowhere"], 3, "nowhere");
    fails(&["cat", "root.ext4", "/etc"], 3, "no regular file");
    fails(&["cat", "root.ext4", "/pipe"], 3, "no regular file");
    fails(&["stat", "root.ext4", "/etc/os-release/x"], 3, "no directory");
    fails(&["diff", "root.ext4", "text"], 3, "text: there is no ext4");
    assert_eq!(world.imgtool(["inspect"]).code, Some(2));

    let good = fs::read(world.path("root.ext4")).unwrap();
    world.write("cut.ext4", &good[..good.len() - 1]);
    fails(&["cut.ext4"], 3, "cut.ext4: it is cut");
    damage(&world, &good, &world.path("bad.ext4"));
}

/// Flips bytes in blocks of metadata, from outside: an error of one line, or an answer.
fn damage(world: &World, good: &[u8], path: &Path) {
    const BLOCK: usize = 4096;
    let mut image = good.to_vec();
    let mut state = 1u64;
    let mut errors = 0;
    for _ in 0..60 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (state >> 16) as usize % image.len();
        let block = at / BLOCK * BLOCK;
        if image[block..block + BLOCK].iter().all(|&b| b == 0) {
            continue;
        }
        image[at] ^= 1 << (state >> 60 & 7);
        fs::write(path, &image).unwrap();
        let outcome = world.imgtool(["inspect", "ls", "-lR", "bad.ext4"]);
        assert!(matches!(outcome.code, Some(0 | 3)), "byte {at}: {outcome:?}");
        errors += u32::from(outcome.code == Some(3));
        image[at] = good[at];
    }
    assert!(errors > 5, "only {errors}");
}

/// A directory that Linux made a tree of while it grew: its first block still ends as a leaf does.
#[test]
fn a_directory_that_grew_is_listed() {
    let world = World::new();
    let script = "truncate -s 32M grown.ext4 && mke2fs -q -t ext4 grown.ext4 && mkdir m &&
        mount -o loop grown.ext4 m && mkdir m/many && cd m/many &&
        for i in $(seq 1500); do : > name-of-some-length-$i; done; cd ../.. && umount m";
    world.run("sh", ["-ec", script]).ok();
    let listed = world.imgtool(["inspect", "ls", "grown.ext4", "/many"]).ok().text();
    assert_eq!(listed.lines().count(), 1500);
}
