//! A Debian whose init is the agent: what a run promises.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use imgtool_tests::{World, finish, program};

use crate::image_arg;

fn run(world: &World, script: &str) -> imgtool_tests::Outcome {
    world.imgrun(["run", "-q", &image_arg("debian-minimal"), "--", "sh", "-c", script])
}

#[test]
fn streams_are_apart_and_byte_exact_and_the_exit_code_is_the_guests() {
    let world = World::new();
    let script = "
        head -c 10000000 /dev/zero | tr '\\0' '\\377'
        printf 'a\\0b\\r\\n' ; printf 'only here' >&2 ; exit 42";
    let outcome = run(&world, script);
    assert_eq!(outcome.code, Some(42), "{}", outcome.stderr);
    assert_eq!(outcome.stderr, "only here");
    let (most, end) = outcome.stdout.split_at(10_000_000);
    assert!(most.iter().all(|&b| b == 0xff));
    assert_eq!(end, b"a\0b\r\n");
}

#[test]
fn standard_input_reaches_the_command_and_ends() {
    let world = World::new();
    let mut command = world.command(program("imgrun"));
    command.args(["run", "-q", &image_arg("debian-minimal"), "--", "sha256sum"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(i) >> 11) as u8).collect();
    world.write("bytes", &bytes);
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    let expected = world.run("sh", ["-c", "sha256sum < bytes"]).ok().text();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected);
}

/// What was read so far may look whole to the command, but the run has failed.
#[test]
fn an_error_of_standard_input_is_not_its_end() {
    let world = World::new();
    let mut command = world.command(program("imgrun"));
    command.args(["run", "-q", &image_arg("debian-minimal"), "--", "cat"]);
    command.stdin(std::fs::File::open("/").unwrap());
    finish(command).fails(125, "reading standard input: ");
}

#[test]
fn what_the_image_says_is_what_runs() {
    let world = World::new();
    let script = "
        stat -c '%u:%g %a' /usr/bin/passwd
        cat /proc/1/comm; cat /proc/sys/kernel/hostname
        touch /new && echo writable
        awk '$2 == \"/\" {print $3}' /proc/mounts
        id -un; echo $$ | grep -qv '^1$' && echo not process 1";
    let text = run(&world, script).ok().text();
    assert_eq!(text, "0:0 4755\nimgagent\ndebian-minimal\nwritable\noverlay\nroot\nnot process 1");
    // Nothing of it was kept: the next machine starts from the image.
    run(&world, "test ! -e /new").ok();
}

#[test]
fn endings_have_their_codes() {
    let world = World::new();
    let image = image_arg("debian-minimal");
    let began = Instant::now();
    let args = ["run", "-q", "--timeout", "1s", &image, "--", "sleep", "600"];
    assert_eq!(world.imgrun(args).code, Some(124));
    assert!(began.elapsed() < Duration::from_secs(100));
    assert_eq!(world.imgrun(["run", "-q", &image, "--", "/no/such"]).code, Some(127));
    assert_eq!(world.imgrun(["run", "-q", &image, "--", "/etc/passwd"]).code, Some(126));
    assert_eq!(run(&world, "kill -9 $$").code, Some(137));
}

/// The command ends in time; it is our reader who takes longer.
#[test]
fn a_timeout_does_not_cut_what_a_slow_reader_has_not_taken() {
    let world = World::new();
    let script = format!(
        "{{ {} run -q --timeout 5s {} -- head -c 600000 /dev/zero; echo $? >code; }} |
         {{ sleep 18; wc -c; }}",
        program("imgrun").display(),
        image_arg("debian-minimal")
    );
    assert_eq!(world.run("sh", ["-c", &script]).ok().text(), "600000");
    assert_eq!(std::fs::read_to_string(world.path("code")).unwrap(), "0\n");
}

#[test]
fn a_panic_under_a_command_is_an_error_that_shows_the_console() {
    let world = World::new();
    let began = Instant::now();
    let outcome = run(&world, "echo c >/proc/sysrq-trigger; sleep 1000");
    assert_eq!(outcome.code, Some(125), "{outcome:#?}");
    assert!(outcome.stderr.contains("Kernel panic - not syncing"), "{outcome:#?}");
    assert!(began.elapsed() < Duration::from_secs(100));
}

/// The words alone are no panic.
#[test]
fn a_panic_on_the_console_is_believed_only_where_nothing_else_comes() {
    let world = World::new();
    let outcome = run(&world, "echo Kernel panic - not syncing: no >/dev/ttyS0; echo lives");
    assert_eq!(outcome.ok().text(), "lives");
    let began = Instant::now();
    let outcome = run(&world, "echo Kernel panic - not syncing: no >/dev/ttyS0; sleep 1000");
    assert_eq!(outcome.code, Some(125), "{outcome:#?}");
    assert!(began.elapsed() < Duration::from_secs(100));
}

#[test]
fn a_terminal_resized_during_the_boot_has_its_new_size() {
    let world = World::new();
    let command = format!(
        "stty rows 33 cols 99; (sleep 0.5; stty rows 44 cols 111 </dev/tty) &
         {} run -q -it {} -- sh -c 'sleep 2; stty size'",
        program("imgrun").display(),
        image_arg("debian-minimal")
    );
    let outcome = world.run("script", ["-qec", &command, "/dev/null"]);
    assert!(outcome.text().contains("44 111"), "{outcome:#?}");
}

#[test]
fn a_terminal_is_one() {
    let world = World::new();
    let imgrun = program("imgrun");
    let image = image_arg("debian-minimal");
    let command = format!("stty rows 33 cols 99; {} run -q -it {image} -- bash", imgrun.display());
    let mut child = world
        .command("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"tty && stty size && exit 7\n").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(input);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/dev/pts/0") && text.contains("33 99"), "{text}");
    assert_eq!(output.status.code(), Some(7), "{text}");
}

/// Interrupts at moments from the import to the running command.
#[test]
fn an_interrupt_at_any_moment_leaves_nothing() {
    let world = World::new();
    world.imgrun(["import", &image_arg("debian-minimal")]).ok();
    for tenths in [1u64, 3, 6, 10, 15, 20, 30, 45, 70] {
        let mut command = world.interruptible("imgrun");
        command.args(["run", "-q", &image_arg("debian-minimal"), "--", "sleep", "1000"]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100 * tenths));
        let signal = if tenths % 2 == 0 { "-TERM" } else { "-INT" };
        world.run("kill", [signal, &child.id().to_string()]).ok();
        let began = Instant::now();
        let code = child.wait().unwrap().code();
        assert!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
        assert_ne!(code, Some(0));
        let home = world.path("imgrun");
        let left = world.run("pgrep", ["-f", &home.display().to_string()]);
        assert_eq!(left.text(), "", "after {tenths} tenths of a second");
        assert_eq!(world.files("imgrun/machines"), [""; 0], "after {tenths} tenths of a second");
        assert_eq!(world.files("imgrun/staging"), [""; 0]);
    }
}
