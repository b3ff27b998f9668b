//! Machines that go on from where another was saved.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use imgtool_tests::{World, program, repository};
use serde_json::Value;

use crate::machines::{Machines, within};

/// A host that has other things to do makes a guest wait.
const SOON: Duration = Duration::from_secs(180);
/// Another program may take a port that was free before a machine does.
const PORTS_MAX: usize = 10;

/// A machine in which a process counts, and another says what getrandom(2) gives it when asked.
fn golden(machines: &Machines, name: &str) {
    machines.imgrun(&format!("run -q -d --memory 256 --name {name} debian-micro")).ok();
    let script = r#"
        cd /tmp && mkfifo ask && echo golden >/before && echo 0 >count
        count='i=0; while :; do i=$((i+1)); echo $i >new; mv new count; sleep 0.05; done'
        setsid sh -c "$count" </dev/null >/dev/null 2>&1 &
        draw='while (open A, "<", "ask") { <A>; my $b = "\0" x 16; syscall(318, $b, 16, 0) == 16 or die;
            open S, ">", "drawn"; print S unpack("H*", $b); close S; rename "drawn", "said" }'
        setsid perl -e "$draw" </dev/null >/dev/null 2>&1 &
    "#;
    machines.sh(name, script).ok();
    within(SOON, "it counts", || count(machines, name) > 1);
}

fn count(machines: &Machines, name: &str) -> u64 {
    machines.sh(name, "cat /tmp/count").ok().text().parse().expect("a number")
}

/// What a process that runs since before the snapshot draws now.
fn drawn(machines: &Machines, name: &str) -> String {
    machines
        .sh(
            name,
            "cd /tmp; rm -f said; echo >ask; until test -e said; do sleep 0.05; done; cat said",
        )
        .ok()
        .text()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

#[test]
fn a_copy_goes_on_and_has_everything_of_its_own() {
    let machines = Machines::new();
    golden(&machines, "g");
    // A copy's clock is the host's, whatever time it was.
    machines.sh("g", "date -s @1000000000").ok();
    let taken = machines.imgrun("snapshot g --as s --json").ok().text();
    let taken: Value = serde_json::from_str(&taken).expect("JSON");
    assert!(taken["pause_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{taken}");
    machines.imgrun("snapshot g --as s").fails(2, "a snapshot s already");
    // The one that was saved goes on.
    let saved = count(&machines, "g");
    within(SOON, "the saved one counts", || count(&machines, "g") > saved);

    for copy in ["a", "b"] {
        assert_eq!(machines.imgrun(&format!("run -q -d --from s --name {copy}")).ok().text(), copy);
        let before = count(&machines, copy);
        assert!(before > 1, "{before}");
        within(SOON, "the copy counts", || count(&machines, copy) > before);
        assert_eq!(
            machines.sh(copy, "hostname; cat /etc/hostname").ok().text(),
            format!("{copy}\n{copy}")
        );
        let (began, text) = (now(), machines.sh(copy, "date +%s.%N").ok().text());
        let (clock, ended) = (text.parse::<f64>().expect("a time"), now());
        assert!((began - 60.0..=ended + 60.0).contains(&clock), "{clock}: {began} to {ended}");
    }
    let both = |script: &str| {
        let say = |name| machines.sh(name, script).ok().text();
        (say("a"), say("b"))
    };
    for script in ["cat /etc/machine-id", "head -c 16 /dev/urandom | od -An -tx1"] {
        let (a, b) = both(script);
        assert!(a.len() >= 32 && a != b, "{script}: {a} {b}");
    }
    let all = ["g", "a", "b"].map(|name| drawn(&machines, name));
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "{all:?}");
    // Each writes for itself, and all have what was there.
    machines.sh("a", "echo a >/mine; echo changed >/before; sync").ok();
    assert_eq!(machines.sh("b", "cat /before; test ! -e /mine").ok().text(), "golden");
    assert_eq!(machines.sh("g", "cat /before; test ! -e /mine").ok().text(), "golden");
    // Who is there does not need the snapshot, and starts again like any other.
    machines.imgrun("snapshot rm s").ok();
    machines.imgrun("stop a").ok();
    machines.imgrun("start a").ok();
    assert_eq!(machines.sh("a", "cat /mine /before; hostname").ok().text(), "a\nchanged\na");
    let before = count(&machines, "b");
    within(SOON, "the other still counts", || count(&machines, "b") > before);
    machines.imgrun("run --from s -- true").fails(125, "no snapshot s");
}

#[test]
fn the_command_of_a_machine_goes_on_in_its_copies_and_has_a_network() {
    let machines = Machines::new();
    let server = r#"$| = 1; use IO::Socket::INET;
        my $server = IO::Socket::INET->new(LocalPort => 80, Listen => 9, ReuseAddr => 1) or die;
        print "warm\n";
        for (my $n = 1; my $peer = $server->accept; $n++) { print $peer "$n\n"; print "$n\n" }"#;
    let args = [
        "run",
        "-q",
        "-d",
        "--name",
        "w",
        "--memory",
        "256",
        "--network",
        "user",
        "debian-micro",
        "--",
        "perl",
        "-e",
        server,
    ];
    machines.world.imgrun(args).ok();
    within(SOON, "it listens", || machines.imgrun("logs w").ok().text() == "warm");
    let mac = "cat /sys/class/net/eth0/address";
    let first = machines.sh("w", mac).ok().text();
    assert_eq!(machines.imgrun("snapshot w").ok().text(), "w-1");
    let begin = || {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let port = free.expect("a port").port();
        let run = machines.imgrun(&format!("run -q -d --from w-1 --name x -p {port}:80"));
        let taken = run.stderr.contains("forwarding rule");
        if taken { None } else { Some((run.ok(), port).1) }
    };
    let port = (0..PORTS_MAX).find_map(|_| begin()).expect("a port that stays free");
    // It is the same server, which had nobody before, at an address of its own.
    let ask = || -> Option<String> {
        let mut line = String::new();
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        BufReader::new(stream).read_line(&mut line).ok()?;
        Some(line.trim().to_string()).filter(|line| !line.is_empty())
    };
    let mut answers = Vec::new();
    within(SOON, "two answers", || {
        answers.extend(ask());
        answers.len() >= 2
    });
    assert_eq!(answers, ["1", "2"]);
    within(SOON, "it says so", || machines.imgrun("logs x").ok().text() == "1\n2");
    assert_ne!(machines.sh("x", mac).ok().text(), first);
    // A copy can be saved, too: one of its command's end.
    machines.imgrun("snapshot x --as again").ok();
    machines.imgrun("run -q -d --from again --name y").ok();
    machines.sh("y", "kill -TERM $(grep -lz '[s]erver' /proc/[0-9]*/cmdline | cut -d/ -f3)");
    within(SOON, "its end", || machines.ps()[2]["end"]["code"] == 143);
    // With a command of one's own, here one that ends.
    let own = machines.world.imgrun(["run", "-q", "--from", "again", "--", "sh", "-c", "exit 3"]);
    assert_eq!(own.code, Some(3), "{own:#?}");
    let names = machines.imgrun("snapshot ls --json").ok().text();
    let names: Vec<Value> = serde_json::from_str(&names).expect("JSON");
    assert_eq!(names.iter().map(|s| &s["snapshot"]).collect::<Vec<_>>(), ["again", "w-1"]);
    // What they began with stays in the store as long as they do.
    machines.imgrun("rm -f w x y").ok();
    assert_eq!(machines.imgrun("gc --keep 0").ok().text(), "");
    machines.imgrun("snapshot rm again w-1").ok();
    assert_eq!(machines.imgrun("gc --keep 0").ok().text().lines().count(), 2);
}

#[test]
fn what_is_not_what_it_was_does_not_begin() {
    let machines = Machines::new();
    golden(&machines, "g");
    machines.imgrun("snapshot g --as s --stop").ok();
    assert_eq!(machines.ps()[0]["running"], false);
    machines.imgrun("snapshot g").fails(2, "g does not run");
    let dir = machines.world.path("imgrun/snapshots/s");
    let begin = || machines.imgrun("run -q --from s -- cat /before");
    assert_eq!(begin().ok().text(), "golden");
    for file in ["memory", "state", "upper.ext4", "snapshot.json"] {
        let path = dir.join(file);
        flip(&path);
        begin().fails(125, "damaged");
        flip(&path);
        assert_eq!(begin().ok().text(), "golden", "{file}");
        fs::rename(&path, dir.join("away")).expect("a rename");
        begin().fails(125, file);
        fs::rename(dir.join("away"), &path).expect("a rename");
    }
    // The kernel's file is another one.
    let about: Value =
        serde_json::from_slice(&fs::read(dir.join("snapshot.json")).expect("a file"))
            .expect("JSON");
    let kernel = Path::new(about["intent"]["kernel"].as_str().expect("a path")).to_path_buf();
    flip(&kernel);
    begin().fails(125, "its kernel micro-6.1:6.1.192 is not what it was");
    flip(&kernel);
    // Another QEMU, another processor.
    for (key, words) in [
        ("vmm", "it was saved by qemu-system"),
        ("processor", "another processor"),
        ("cpu", "sees the processor"),
    ] {
        let mut other = about.clone();
        other[key] = "0.0.0".into();
        seal(&dir, &other);
        begin().fails(125, words);
    }
    seal(&dir, &about);
    assert_eq!(begin().ok().text(), "golden");
    let nothing: [&str; 0] = [];
    assert_eq!(machines.vmms(), nothing);
    assert_eq!(machines.world.files("imgrun/machines"), nothing);
    assert_eq!(machines.world.files("imgrun/staging"), nothing);
}

/// Changes a byte in the middle, and back.
fn flip(path: &Path) {
    // What is in the store is read-only.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("our own file");
    let file = fs::File::options().read(true).write(true).open(path).expect("a file");
    let at = file.metadata().expect("metadata").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
}

/// Writes what a snapshot says of itself, as who knows the format can.
fn seal(dir: &Path, about: &Value) {
    fs::write(dir.join("snapshot.json"), about.to_string()).expect("a file");
    let sum = World::new().run("sha256sum", [dir.join("snapshot.json")]).ok();
    fs::File::create(dir.join("snapshot.json.sha256"))
        .and_then(|mut f| f.write_all(&sum.stdout))
        .expect("a file");
}

/// Whoever is killed while machines are saved and copied, at any moment: what is left runs, or is
/// gone with the next program. IMGTOOL_CHURN says how often.
#[test]
fn forks_under_kills_leave_nothing() {
    let count: u64 = std::env::var("IMGTOOL_CHURN").map_or(6, |n| n.parse().expect("a number"));
    let machines = Machines::new();
    machines.imgrun("run -q -d --memory 256 --name g debian-micro").ok();
    let text = machines.imgrun("fork g -n 8 --json").ok().text();
    let forked: Value = serde_json::from_str(&text).expect("JSON");
    let names: Vec<String> = (1..=8).map(|n| format!("g-{n}")).collect();
    assert_eq!(forked["machines"], Value::from(names.clone()), "{forked}");
    for name in &names {
        assert_eq!(machines.sh(name, "hostname").ok().text(), *name);
    }
    machines.imgrun(&format!("rm -f {}", names.join(" "))).ok();
    for round in 0..count {
        let mut command = machines.world.command(program("imgrun"));
        let args = [["fork", "g", "-n", "3"], ["snapshot", "g", "--as", "s"]];
        command.args(args[(round % 2) as usize]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = command.spawn().expect("imgrun");
        std::thread::sleep(Duration::from_millis(round * 97 % 500));
        let copy = format!("qemu.*{}/kept/g-1/", machines.world.path("imgrun").display());
        let victims = match round % 3 {
            0 => client.id().to_string(),
            1 => machines.supervisor("g").unwrap_or_default(),
            _ => machines.world.run("pgrep", ["-f", &copy]).text(),
        };
        for pid in victims.lines() {
            machines.world.run("kill", ["-KILL", pid]);
        }
        client.wait().expect("its end");
        if round % 3 == 1 {
            // Its lock is free an instant before its VMM has let go of the disk.
            let vmm = format!("qemu.*{}/kept/g/", machines.world.path("imgrun").display());
            within(SOON, "its end", || {
                machines.supervisor("g").is_none()
                    && machines.world.run("pgrep", ["-f", &vmm]).text().is_empty()
            });
        }
        // Who was being started may still come up.
        within(SOON, "only machines that run, or were made to be started", || {
            machines.imgrun("gc").ok();
            let others: Vec<Value> =
                machines.ps().into_iter().filter(|m| m["name"] != "g").collect();
            for other in &others {
                machines.imgrun(&format!("rm -q -f {}", other["name"].as_str().expect("a name")));
            }
            others.is_empty() && machines.world.files("imgrun/staging").is_empty()
        });
        machines.imgrun("snapshot rm s");
        if machines.ps()[0]["running"] == false {
            machines.imgrun("start g").ok();
        }
        machines.sh("g", "true").ok();
    }
    machines.imgrun("rm -f g").ok();
    let nothing: [&str; 0] = [];
    within(SOON, "all are gone", || machines.vmms() == nothing);
    for place in ["kept", "machines", "staging", "snapshots"] {
        assert_eq!(machines.world.files(&format!("imgrun/{place}")), nothing, "{place}");
    }
}

#[test]
fn an_aarch64_machine_goes_on_too() {
    let machines = Machines::new();
    let image = repository().join("target/images/busybox-aarch64-12-aarch64.tar.zst");
    assert!(image.exists(), "{} is not built: run tests/run", image.display());
    let image = image.display().to_string();
    machines.world.imgrun(["run", "-q", "-d", "--memory", "128", "--name", "g", &image]).ok();
    let sh = |name: &str, script: &str| {
        let args =
            ["exec", "-q", "-e", "PATH=/bin", name, "--", "/bin/busybox", "sh", "-c", script];
        machines.world.imgrun(args).ok().text()
    };
    sh("g", "busybox mkdir -p /tmp; busybox mount -t tmpfs tmpfs /tmp; echo in memory >/tmp/file");
    machines.imgrun("snapshot g --as s").ok();
    machines.imgrun("fork g").ok();
    machines.imgrun("run -q -d --from s --name a").ok();
    for (name, who) in [("g", "g"), ("g-1", "g-1"), ("a", "a")] {
        let text = sh(name, "busybox cat /tmp/file; busybox hostname");
        assert_eq!(text, format!("in memory\n{who}"), "{name}");
    }
    let random = |name| sh(name, "busybox head -c 16 /dev/urandom | busybox od -An -tx1");
    assert_ne!(random("g-1"), random("a"));
}
