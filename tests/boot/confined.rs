//! What a VMM can reach of its host, seen from outside: by what the kernel says of the process, and by
//! a program in QEMU's place that tries.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use imgtool_tests::finish;

use super::bare::Bare;

/// Tries to reach what the test has put up, and says what it could.
const PROBE: &str = r#"
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void reached(const char *what, int result)
{
	if (result >= 0)
		fprintf(stderr, "REACHED %s\n", what);
}

int main(void)
{
	struct sockaddr_in tcp = { .sin_family = AF_INET, .sin_port = htons(PORT) };
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	reached("a file to read", open(SECRET, O_RDONLY));
	reached("a file to write", open(SECRET, O_WRONLY));
	reached("a directory", opendir(DIRECTORY) ? 0 : -1);
	reached("a new file", open(DIRECTORY "/new", O_CREAT | O_RDWR, 0600));
	inet_aton("127.0.0.1", &tcp.sin_addr);
	reached("a service", connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&tcp, sizeof tcp));
	strcpy(name.sun_path + 1, ABSTRACT);
	reached("an abstract socket", connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&name,
		offsetof(struct sockaddr_un, sun_path) + 1 + strlen(ABSTRACT)));
	reached("a process", kill(getppid(), 0));
	fprintf(stderr, "probed\n");
	return 1;
}
"#;

#[test]
fn a_program_in_qemus_place_reaches_nothing_of_the_host() {
    let bare = Bare::new();
    let world = &bare.world;
    let secret = world.write("home/secret", "secret\n");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let abstract_name = format!("imgtool-confined-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let _socket = UnixListener::bind_addr(&address).unwrap();
    world.write("probe.c", PROBE);
    fs::create_dir(world.path("bin")).unwrap();
    let qemu = world.path(format!("bin/qemu-system-{}", std::env::consts::ARCH));
    let defined = [
        format!("-DPORT={}", tcp.local_addr().unwrap().port()),
        format!("-DSECRET=\"{}\"", secret.display()),
        format!("-DDIRECTORY=\"{}\"", secret.parent().unwrap().display()),
        format!("-DABSTRACT=\"{abstract_name}\""),
    ];
    let mut gcc = world.command("gcc");
    gcc.args(["-static", "-o"]).arg(&qemu).args(defined).arg("probe.c");
    finish(gcc).ok();

    // By itself it reaches everything: so it would be seen.
    let alone = world.run(&qemu, [""; 0]);
    assert_eq!(alone.stderr.matches("REACHED").count(), 7, "{alone:#?}");
    fs::remove_file(world.path("home/new")).unwrap();

    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap());
    let mut run = bare.run("--accel tcg", &[]);
    run.env("PATH", path).args(["--", "true"]);
    let run = finish(run);
    assert!(run.stderr.contains("probed"), "{run:#?}");
    // Older kernels keep it from less, and doctor says from what.
    let doctor = String::from_utf8(world.imgrun(["doctor", "--json"]).stdout).unwrap();
    let checks: Vec<serde_json::Value> = serde_json::from_str(&doctor).unwrap();
    let isolation = checks.iter().find(|check| check["name"] == "isolation").unwrap();
    let found = isolation["found"].as_str().unwrap();
    let claimed = if isolation["health"] == "good" { found } else { "" };
    if claimed.is_empty() {
        // Not by eprintln, which is shown of tests that fail only.
        let said = format!("SKIPPED: nothing is shown of Landlock: {found}\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    for (claim, reached) in [
        ("files", "a file to read"),
        ("files", "a file to write"),
        ("files", "a directory"),
        ("files", "a new file"),
        ("TCP", "a service"),
        ("signals", "a process"),
        ("abstract sockets", "an abstract socket"),
    ] {
        let kept = !run.stderr.contains(&format!("REACHED {reached}"));
        assert!(kept || !claimed.contains(claim), "{claimed}: {run:#?}");
    }
    assert!(!claimed.contains("files") || !world.path("home/new").exists());
}

#[test]
fn a_vmm_has_no_privileges_to_use_or_to_gain() {
    let bare = Bare::new();
    finish(bare.run("--accel tcg", &["-d", "--name", "bare"])).ok();
    let home = bare.world.path("imgrun").display().to_string();
    let pid = bare.world.run("pgrep", ["-f", &format!("^qemu.*{home}")]).ok().text();
    let about = |what: &str| fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap();
    let status = about("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{name}: {status}")).trim().to_string()
    };
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    // Of root's at most the one to open files of other users; Landlock says which.
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let held = u64::from_str_radix(&field(set), 16).unwrap();
        assert_eq!(held & !0b10, 0, "{set}: {status}");
    }
    let limits = about("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{limits}");
    // Its descriptors: what it was given and what it has opened of that.
    let opened: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().collect();
    let paths = opened.iter().filter_map(|fd| fs::read_link(fd.path()).ok());
    let files: Vec<_> = paths.filter(|path| path.starts_with("/") && path.exists()).collect();
    let allowed = |path: &std::path::PathBuf| {
        path.starts_with(&home) || path.starts_with("/dev") || path.starts_with("/usr")
    };
    assert!(files.iter().all(allowed), "{files:#?}");
}
