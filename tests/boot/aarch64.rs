//! Machines for the other architecture than this host's: QEMU's emulation of an aarch64 machine,
//! with our kernel for it and the agent that was compiled for it.

use imgtool_tests::{World, program, repository};

fn busybox() -> String {
    let path = repository().join("target/images/busybox-aarch64-12-aarch64.tar.zst");
    assert!(path.exists(), "{} is not built: run tests/run", path.display());
    path.display().to_string()
}

#[test]
fn commands_run_on_an_aarch64_machine() {
    let world = World::new();
    let script = "
        busybox uname -m
        busybox cat /proc/1/comm
        busybox awk '$2 == \"/\" {print $3}' /proc/mounts
        busybox mkdir -p /srv && echo written >/srv/file && busybox cat /srv/file
        busybox head -c 300000 /dev/zero | busybox sha256sum
        echo apart >&2
        exit 42
    ";
    let outcome = world.imgrun([
        "run",
        "-e",
        "PATH=/bin",
        &busybox(),
        "--",
        "/bin/busybox",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(outcome.code, Some(42), "{outcome:#?}");
    let sum = world.run("sh", ["-c", "head -c 300000 /dev/zero | sha256sum"]).ok().text();
    let expected = ["aarch64", "imgagent", "overlay", "written", &sum];
    assert_eq!(outcome.text().lines().collect::<Vec<_>>(), expected, "{outcome:#?}");
    assert!(outcome.stderr.contains("apart\n"), "{outcome:#?}");
    assert!(outcome.stderr.contains("the guest is for aarch64"), "{outcome:#?}");
    let refused = world.imgrun(["run", "-q", "--accel", "kvm", &busybox(), "--", "/bin/busybox"]);
    assert_eq!(refused.code, Some(125), "{refused:#?}");
    assert!(refused.stderr.contains("the guest is for aarch64, this host is"), "{refused:#?}");
}

#[test]
fn an_aarch64_machine_takes_input_and_has_a_terminal_and_a_network() {
    let world = World::new();
    let run = format!("{} run -q -e PATH=/bin --network user", program("imgrun").display());
    let script = format!(
        "printf 'by standard input' | {run} {0} -- /bin/busybox cat; echo
         script -qec \"stty rows 7 cols 70; {run} -t {0} -- /bin/busybox sh -c \
             'busybox stty size; busybox ip -4 -o addr show eth0'\" /dev/null",
        busybox()
    );
    let outcome = world.run("sh", ["-c", &script]).ok();
    let text = outcome.text();
    for expected in ["by standard input", "7 70", "10.0.2.15/24"] {
        assert!(text.contains(expected), "{expected}: {outcome:#?}");
    }
}
