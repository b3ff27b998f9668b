//! Machines that have a name: they stay, whoever comes and goes.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Stdio;
use std::time::Duration;

use imgtool_tests::program;
use serde_json::Value;

use crate::machines::{Machines, within};

/// A host that has other things to do makes a guest wait.
const SOON: Duration = Duration::from_secs(180);

#[test]
fn a_machine_with_a_name_stays_and_keeps_what_it_has_written() {
    let machines = Machines::new();
    assert_eq!(machines.imgrun("run -q -d --name web debian-micro").ok().text(), "web");
    machines.imgrun("run -q -d --name web debian-micro").fails(125, "a machine web already");
    let outcome = machines.sh("web", "hostname; echo err >&2; exit 3");
    assert_eq!(
        (outcome.code, outcome.text(), &outcome.stderr[..]),
        (Some(3), "web".into(), "err\n")
    );
    assert_eq!(machines.imgrun("exec -q web -- /no/such").code, Some(127));
    let stats: Value = serde_json::from_str(&machines.imgrun("stats --json").ok().text()).unwrap();
    assert_eq!(stats[0]["name"], "web");
    let supervisor = stats[0]["supervisor_bytes"].as_u64().unwrap();
    assert!((1 << 20..32 << 20).contains(&supervisor), "{stats}");
    assert!(stats[0]["memory_bytes"].as_u64().unwrap() > 32 << 20, "{stats}");
    // Only this user can connect.
    let socket = machines.directory("web").join("socket").metadata().unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    machines.imgrun("rm web").fails(2, "web runs");

    // An orderly stop keeps what was not synced; a power cut what was.
    machines.sh("web", "echo first >/kept").ok();
    machines.imgrun("stop web").ok();
    // It was not killed.
    assert_eq!(machines.ps()[0]["end"]["error"], Value::Null);
    assert_eq!(machines.vmms(), [""; 0]);
    machines.imgrun("exec web -- true").fails(125, "web does not run");
    assert_eq!(machines.ps()[0]["running"], false);
    machines.imgrun("start web").ok();
    assert_eq!(machines.sh("web", "cat /kept").ok().text(), "first");
    machines.sh("web", "echo second >/kept; sync").ok();
    machines.imgrun("kill web").ok();
    assert_eq!(machines.vmms(), [""; 0]);
    machines.imgrun("start web").ok();
    assert_eq!(machines.sh("web", "cat /kept").ok().text(), "second");
    machines.imgrun("rm -f web").ok();
    assert!(!machines.directory("web").exists());
    assert_eq!(machines.vmms(), [""; 0]);
}

#[test]
fn a_machine_can_be_stopped_while_it_boots() {
    let machines = Machines::new();
    machines.imgrun("create -q --name early debian-micro").ok();
    let mut start = machines.world.command(program("imgrun"));
    let mut start = start.args(["start", "-q", "early"]).stderr(Stdio::null()).spawn().unwrap();
    let disk = machines.directory("early").join("upper.ext4");
    within(SOON, "its disk", || disk.exists());
    machines.imgrun("stop early").ok();
    start.wait().unwrap();
    assert_eq!(machines.ps()[0]["running"], false);
    assert_eq!(machines.vmms(), [""; 0]);
}

#[test]
fn a_detached_command_has_a_log_and_its_end_is_the_machines() {
    let machines = Machines::new();
    let script = "echo out; echo err >&2; sleep 1; echo late; exit 7";
    let args = ["run", "-q", "-d", "debian-micro", "--", "sh", "-c", script];
    let name = machines.world.imgrun(args).ok().text();
    assert_eq!(name, "debian-micro-1");
    let log = machines.imgrun(&format!("logs -f {name}")).ok().text();
    // Two pipes: either may be read first.
    let (said, erred): (Vec<_>, Vec<_>) = log.lines().partition(|line| *line != "err");
    assert_eq!((said, erred), (vec!["out", "late"], vec!["err"]));
    let ps = machines.ps();
    assert_eq!((&ps[0]["running"], &ps[0]["end"]["code"]), (&false.into(), &7.into()));
    // Its disk is as large as it was asked for.
    let args = ["run", "-q", "--upper-size", "100M", "debian-micro", "--", "df", "-BM", "/"];
    let df = machines.world.imgrun(args).ok().text();
    let size = df.lines().nth(1).unwrap().split_whitespace().nth(1).unwrap();
    assert!((80..=100).contains(&size.trim_end_matches('M').parse::<u32>().unwrap()), "{df}");
    let console = machines.imgrun(&format!("console {name}")).ok().text();
    assert!(console.contains("Restarting system"), "{console}");

    // One that is not to stay is gone with its command.
    let args = ["run", "-q", "-d", "--rm", "--name", "brief", "debian-micro", "--", "true"];
    machines.world.imgrun(args).ok();
    within(SOON, "its end", || !machines.directory("brief").exists());
    // One that could not be started was never there.
    let args = ["run", "-q", "-d", "--name", "never", "debian-micro", "--", "/no/such"];
    machines.world.imgrun(args).fails(125, "not found");
    assert!(!machines.directory("never").exists());
    assert_eq!(machines.vmms(), [""; 0]);
}

#[test]
fn clients_share_a_machine_and_one_that_is_killed_takes_only_its_own() {
    let machines = Machines::new();
    machines.imgrun("run -q -d --name shared debian-micro").ok();
    let client = |script: &str| {
        let mut command = machines.world.command(program("imgrun"));
        command.args(["exec", "-q", "shared", "--", "sh", "-c", script]);
        command.stdout(Stdio::piped()).spawn().unwrap()
    };
    let stays = client("sleep 2; echo still here");
    let mut goes = client("exec sleep 4321");
    let sleeps = || {
        let script = r"cat /proc/[0-9]*/cmdline | tr '\0' ' ' | grep -q '[s]leep 4321'";
        machines.sh("shared", script).code == Some(0)
    };
    within(SOON, "its start", sleeps);
    goes.kill().unwrap();
    goes.wait().unwrap();
    within(SOON, "its command's end", || !sleeps());
    let output = stays.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "still here\n");
}

#[test]
fn files_go_in_and_out_as_they_are() {
    let machines = Machines::new();
    machines.imgrun("run -q -d --name files debian-micro").ok();
    let world = &machines.world;
    let make = "mkdir -p t/sub && cd t && printf 'a\\0b' >sub/bytes && chmod 640 sub/bytes &&
        touch -d 2001-02-03 sub/bytes && ln -s ../no/where link && mkfifo fifo &&
        truncate -s 300M sparse && echo end >>sparse && chmod 711 sub";
    world.run("sh", ["-c", make]).ok();
    let copied = machines.imgrun("cp --json t files:/srv").ok();
    assert_eq!(copied.text(), r#"{"bytes":7,"entries":5,"passed_over":1}"#, "{copied:#?}");
    // Once more, into what is there.
    machines.imgrun("cp t files:/srv").ok();
    machines.sh("files", "chmod 4755 /srv/t/sub/bytes; chown 7 /srv/t/sub/bytes").ok();
    machines.imgrun("cp files:/srv/t back").ok();
    let list = "cd $0 && find . -mindepth 1 ! -name fifo -printf '%P %y %m %s %T@ %l\\n' | sort";
    let list = |tree: &str| world.run("sh", ["-c", list, tree]).ok().text();
    assert_eq!(list("back"), list("t").replace("sub/bytes f 640", "sub/bytes f 755"));
    world.run("cmp", ["t/sparse", "back/sparse"]).ok();
    let blocks = world.run("stat", ["-c", "%b", "back/sparse"]).ok().text();
    assert!(blocks.parse::<u64>().unwrap() < 100, "{blocks} blocks");

    // What went wrong is said by the side that knows it.
    machines.imgrun("cp files:/no/such x").fails(7, "/no/such: No such file or directory");
    machines.imgrun("cp nothing files:/srv").fails(3, "nothing: No such file or directory");
    machines.imgrun("cp t files:/no/such/place").fails(7, "/no/such: No such file or directory");
    machines.imgrun("cp files:/srv/t no/such").fails(6, "no/such");
    machines.imgrun("cp t back").fails(2, "MACHINE:PATH");
    machines.imgrun("cp -u nobody t files:/root").fails(7, "Permission denied");
    // A guest that sends something else.
    let lie = "printf '#!/bin/sh\\nyes\\n' >/tmp/liar && chmod +x /tmp/liar &&
        mount --bind /tmp/liar /usr/lib/imgtool/imgagent";
    machines.sh("files", lie).ok();
    machines.imgrun("cp files:/srv/t liar").fails(7, "the guest sent what is not allowed");
    assert!(!world.path("liar").exists());
}

#[test]
fn whoever_is_killed_nothing_runs_on_and_nothing_is_lost() {
    let machines = Machines::new();
    machines.imgrun("run -q -d --name a debian-micro").ok();
    machines.sh("a", "echo safe >/file; sync").ok();
    for signal in ["-KILL", "-TERM"] {
        let supervisor = machines.supervisor("a").unwrap();
        machines.world.run("kill", [signal, &supervisor]).ok();
        within(SOON, "the end", || machines.vmms().is_empty());
        within(SOON, "the end", || machines.ps()[0]["running"] == false);
        machines.imgrun("start -q a").ok();
        assert_eq!(machines.sh("a", "cat /file").ok().text(), "safe");
    }
    // The VMM: its supervisor notices, and says so.
    machines.world.run("kill", ["-KILL", &machines.vmms()[0]]).ok();
    within(SOON, "the end", || machines.ps()[0]["running"] == false);
    let ps = machines.ps();
    assert_eq!(ps[0]["end"]["code"], 125);
    assert!(ps[0]["end"]["error"].as_str().unwrap().contains("SIGKILL"), "{ps:?}");
    // Who wanted it removed does not come back: the next program does that.
    machines.imgrun("run -q -d --rm --name b debian-micro").ok();
    machines.world.run("kill", ["-KILL", &machines.supervisor("b").unwrap()]).ok();
    within(SOON, "the sweep", || machines.ps().len() == 1);
    assert!(!machines.directory("b").exists());
}

/// Machines come and go while somebody kills supervisors, VMMs and clients at any moment.
/// IMGTOOL_CHURN says how many machines; 50 take a minute.
#[test]
fn churn_under_kills_leaves_nothing() {
    const LANES: usize = 8;
    let count: usize = std::env::var("IMGTOOL_CHURN").map_or(8, |n| n.parse().expect("a number"));
    let machines = Machines::new();
    let digests = || {
        let path = machines.world.path("imgrun/bundles").display().to_string();
        machines.world.run("sh", ["-c", &format!("sha256sum {path}/*/*")]).ok().text()
    };
    let before = digests();
    std::thread::scope(|threads| {
        for lane in 0..LANES {
            let machines = &machines;
            threads.spawn(move || {
                for number in (lane..count).step_by(LANES) {
                    let name = format!("m{number}");
                    let mut command = machines.world.command(program("imgrun"));
                    command.args(["run", "-q", "-d", "--name", &name, "debian-micro"]);
                    let mut starts =
                        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                    // A different moment for each: during the boot, and after it.
                    let moment = Duration::from_millis((number as u64 * 397) % 3000);
                    std::thread::sleep(moment);
                    let home = machines.world.path("imgrun").display().to_string();
                    let vmm = format!("qemu.*{home}/kept/{name}/");
                    let victims = match number % 4 {
                        0 => machines.world.run("pgrep", ["-f", &vmm]).text(),
                        1 => machines.supervisor(&name).unwrap_or_default(),
                        2 => starts.id().to_string(),
                        _ => String::new(),
                    };
                    for pid in victims.lines() {
                        machines.world.run("kill", ["-KILL", pid]);
                    }
                    let code = starts.wait().unwrap().code();
                    if number % 4 == 3 {
                        assert_eq!(code, Some(0), "{name}");
                        let text = machines.sh(&name, "hostname").ok().text();
                        assert_eq!(text, name);
                    }
                    // Whatever became of it, it can be used again or removed.
                    if machines.directory(&name).exists() {
                        machines.imgrun(&format!("rm -q -f {name}"));
                    }
                }
            });
        }
    });
    within(SOON, "all are gone", || {
        for kept in machines.ps() {
            machines.imgrun(&format!("rm -q -f {}", kept["name"].as_str().unwrap()));
        }
        machines.ps().is_empty() && machines.vmms().is_empty()
    });
    assert_eq!(machines.world.files("imgrun/kept"), [""; 0]);
    assert_eq!(machines.world.files("imgrun/machines"), [""; 0]);
    assert_eq!(machines.world.files("imgrun/staging"), [""; 0]);
    assert_eq!(digests(), before);
}
