//! A Debian with systemd.

use imgtool_tests::World;

use crate::image_arg;

#[test]
fn systemd_reaches_running_and_the_agents_unit_is_active() {
    let world = World::new();
    let script = "
        set -e
        uname -sr
        . /etc/os-release; echo \"$ID $VERSION_ID\"
        systemctl is-system-running --wait || systemctl --failed --no-legend
        systemctl is-active imgagent
        cat /proc/1/comm
        findmnt -no FSTYPE /
        test -z \"$(cat /etc/machine-id 2>/dev/null | grep uninit)\" && echo has a machine-id
        systemctl is-active systemd-udevd dbus
    ";
    let outcome = world.imgrun(["run", &image_arg("debian"), "--", "sh", "-c", script]).ok();
    let text = outcome.text();
    let lines: Vec<&str> = text.lines().collect();
    let expected = [
        "Linux 6.1.192",
        "debian 12",
        "running",
        "active",
        "systemd",
        "overlay",
        "has a machine-id",
        "active",
        "active",
    ];
    assert_eq!(lines, expected, "{outcome:#?}");
}
