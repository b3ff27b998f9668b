//! Tries a bundle: boots it as `imgrun` would, runs the tests that its manifest carries, says what
//! came of it. `trial/result.rs` keeps that beside the bundle, signed.

mod result;

use std::path::Path;
use std::time::{Duration, Instant};

use bundle::{Check, Digest, Kind, Test, TestResult};
use imgrun::tuf::time;
use imgrun::{
    AccelChoice, Cancel, Exec, Kernel, KvmEvidence, Machine, Progress, Spec, Status, Store, Stored,
    Tool, Unit, boot_max, choose_accel, interrupt, launch,
};

use crate::{Class, Error, Result};

pub use result::{Document, RESULT_BYTES_MAX, path_beside};

/// A test's output is at most this long; more is a failure.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// Past its timeout the agent kills a command; one that still does not end is left after this time.
const GRACE: Duration = Duration::from_secs(15);
/// How much of a wrong output a report shows.
const SHOWN_CHARS_MAX: usize = 200;
/// How often it is looked whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(50);
/// The VMM may take this long to say its version.
const VERSION_MAX: Duration = Duration::from_secs(10);

/// How to try.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Memory of the machine, MiB; imgrun's default where there is none.
    pub memory_mib: Option<u32>,
    /// How long the guest may take to answer; [`boot_max`] where there is none.
    pub boot_max: Option<Duration>,
}

/// Boots the image in `packed` and runs its tests, one after the other, all of them. It goes into
/// this user's store, as `imgrun run` would put it there, and its kernel from beside it, too.
///
/// # Errors
/// Where it is no image or has no kernel here, and [`Class::Guest`] where it does not boot or its
/// kernel panics under a test. A test that fails is no error: [`TestResult::passed`] tells.
pub fn run(packed: &Path, options: Options, progress: &Progress) -> Result<TestResult> {
    let store = Store::open(Store::default_home()?)?;
    let cancel = Cancel::new();
    let image = store.import(packed, progress, &cancel)?.bundle;
    if image.manifest.kind != Kind::Image {
        return Err(Error::usage(format!("{}: it is a kernel", packed.display()))
            .hint("test an image that boots it: its result speaks for its kernel, too"));
    }
    let beside = packed.parent();
    let kernel = store.kernel(&image, None, beside, progress, &cancel)?;
    interrupt::check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::io("a runtime for the machine", e))?;
    runtime.block_on(async {
        tokio::select! {
            result = perform(&store, &image, &kernel, options, progress) => result,
            e = interrupted() => Err(e),
        }
    })
}

async fn interrupted() -> Error {
    loop {
        if let Err(e) = interrupt::check() {
            return e;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn perform(
    store: &Store,
    image: &Stored,
    kernel: &Kernel,
    options: Options,
    progress: &Progress,
) -> Result<TestResult> {
    let manifest = &image.manifest;
    let decision =
        choose_accel(AccelChoice::Auto, image.manifest.arch, || KvmEvidence::gather(false))?;
    if let Some(note) = decision.note {
        progress.note(note);
    }
    let mut spec = Spec::new(image, kernel, decision.accel);
    spec.memory_mib = options.memory_mib.unwrap_or(spec.memory_mib);
    let vmm = version(&launch(&spec, None).program)?;
    let stage = progress.stage(format!("boot {}", image.title()), Unit::Items, None);
    let began = time::to_text(time::now());
    let limit = options.boot_max.unwrap_or(boot_max(spec.accel));
    let mut machine = Machine::boot(store, &spec, limit).await?;
    let boot_ms = millis(machine.booted_in());
    stage.finish(format!("{boot_ms} ms, {}", spec.accel.name()));
    let mut checks = Vec::new();
    for test in &manifest.tests {
        let stage = progress.stage(format!("test {}", test.name), Unit::Items, None);
        let check = match try_one(&machine, test).await {
            Ok(check) => check,
            Err(e) if e.class() == Class::Guest => {
                return Err(machine.explain(e).await.within(format!("the test {:?}", test.name)));
            }
            Err(e) => return Err(e),
        };
        stage.finish(if check.passed { "passed" } else { "failed" });
        checks.push(check);
    }
    machine.kill();
    Ok(TestResult {
        bundle: image.digest,
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        arch: manifest.arch,
        kernel: kernel_of(image)?,
        accel: spec.accel.name().to_string(),
        tool: concat!("imgtool ", env!("CARGO_PKG_VERSION")).to_string(),
        vmm,
        began,
        boot_ms,
        checks,
    })
}

/// The kernel that the image names is the one that was booted: nobody chose another.
fn kernel_of(image: &Stored) -> Result<Digest> {
    let kernel = image.manifest.kernel.as_ref();
    Ok(kernel.ok_or_else(|| Error::bug("an image without a kernel"))?.digest)
}

fn version(program: &str) -> Result<String> {
    let output = Tool::new(program).arg("--version").timeout(VERSION_MAX).run()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_string())
}

/// What a command did.
struct Answer {
    status: Status,
    timed_out: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

async fn try_one(machine: &Machine, test: &Test) -> Result<Check> {
    let began = Instant::now();
    let limit = Duration::from_secs(test.timeout_seconds.into()) + GRACE;
    let answered = tokio::select! {
        answered = tokio::time::timeout(limit, ask(machine, test)) => answered,
        e = machine.panicked() => return Err(e),
    };
    let why = match answered {
        Ok(answer) => match answer? {
            Ok(answer) => judge(test, &answer),
            Err(why) => Some(why),
        },
        Err(_) => Some(overdue(test)),
    };
    let passed = why.is_none();
    let (name, why) = (test.name.clone(), why.unwrap_or_default());
    Ok(Check { name, passed, ms: millis(began.elapsed()), why })
}

/// Runs the command; the inner error says why there is nothing to judge.
async fn ask(machine: &Machine, test: &Test) -> Result<Result<Answer, String>> {
    let exec = Exec {
        argv: test.command.iter().map(|word| word.clone().into_bytes()).collect(),
        timeout_ms: Some(u64::from(test.timeout_seconds) * 1000),
        ..Exec::default()
    };
    let mut running = match machine.exec(exec).await {
        Ok(running) => running,
        Err(not_run) if not_run.code.is_some() => return Ok(Err(not_run.error.to_string())),
        Err(not_run) => return Err(not_run.error),
    };
    // Too much on one of the streams is the end of it: the command may never end by itself.
    let output = tokio::try_join!(read(&mut running.stdout), read(&mut running.stderr));
    let (stdout, stderr) = match output {
        Ok(both) => both,
        Err(Some(e)) => return Err(e),
        Err(None) => return Ok(Err(format!("it wrote more than {OUTPUT_BYTES_MAX} bytes"))),
    };
    let exit = running.wait().await?;
    Ok(Ok(Answer { status: exit.status, timed_out: exit.timed_out, stdout, stderr }))
}

/// Everything up to the end. An error that is none: it is too much.
async fn read(output: &mut imgrun::Output) -> Result<Vec<u8>, Option<Error>> {
    let mut all = Vec::new();
    while let Some(bytes) = output.read().await? {
        if all.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(None);
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// What is not as `test` wants it; `None` where all is.
fn judge(test: &Test, answer: &Answer) -> Option<String> {
    if answer.timed_out {
        return Some(overdue(test));
    }
    let ended = match answer.status {
        Status::Code(code) if code == test.exit => None,
        Status::Code(code) => Some(format!("it ended with {code} instead of {}", test.exit)),
        Status::Signal(signal) => Some(format!("signal {signal} ended it")),
    };
    let stdout = answer.stdout.strip_suffix(b"\n").unwrap_or(&answer.stdout);
    if let Some(ended) = ended {
        let said = [stdout, b"\n", &answer.stderr].concat();
        return Some(format!("{ended}: {}", shown(&said)));
    }
    if let Some(wanted) = test.equals.as_ref().filter(|wanted| wanted.as_bytes() != stdout) {
        let wanted = shown(wanted.as_bytes());
        return Some(format!("it wrote {} instead of {wanted}", shown(stdout)));
    }
    let has = |part: &&String| {
        let part = part.as_bytes();
        part.is_empty() || answer.stdout.windows(part.len()).any(|window| window == part)
    };
    let missing = test.contains.as_ref().filter(|part| !has(part))?;
    Some(format!("it wrote {}, without {}", shown(stdout), shown(missing.as_bytes())))
}

fn overdue(test: &Test) -> String {
    format!("it did not end in {} s", test.timeout_seconds)
}

/// What a guest wrote, in one harmless line.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    let cut: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    let more = if cut.len() < text.len() { " …" } else { "" };
    format!("{cut:?}{more}")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test() -> Test {
        Test {
            name: "t".into(),
            command: vec!["t".into()],
            exit: 0,
            equals: None,
            contains: None,
            timeout_seconds: 7,
        }
    }

    fn judged(test: &Test, status: Status, stdout: &str) -> Option<String> {
        let (stdout, stderr) = (stdout.as_bytes().to_vec(), b"oh\x1b[31m".to_vec());
        judge(test, &Answer { status, timed_out: false, stdout, stderr })
    }

    #[test]
    fn an_answer_is_right_only_where_all_of_it_is() {
        let ok = Status::Code(0);
        assert_eq!(judged(&test(), ok, "anything"), None);
        let equals = Test { equals: Some("a\nb".into()), ..test() };
        assert_eq!(judged(&equals, ok, "a\nb\n"), None);
        assert_eq!(judged(&equals, ok, "a\nb"), None);
        for wrong in ["a\nb\n\n", "a\nb ", "", "xa\nb"] {
            assert!(judged(&equals, ok, wrong).is_some(), "{wrong:?}");
        }
        let empty = Test { equals: Some(String::new()), ..test() };
        assert_eq!(judged(&empty, ok, ""), None);
        assert_eq!(judged(&empty, ok, "x").unwrap(), "it wrote \"x\" instead of \"\"");
        let contains = Test { contains: Some("jq-1".into()), ..test() };
        assert_eq!(judged(&contains, ok, "a jq-1.6"), None);
        assert_eq!(judged(&contains, ok, "").unwrap(), "it wrote \"\", without \"jq-1\"");
    }

    #[test]
    fn an_end_is_as_wanted_or_said() {
        let three = Test { exit: 3, ..test() };
        assert_eq!(judged(&three, Status::Code(3), ""), None);
        let why = judged(&three, Status::Code(0), "x\n").unwrap();
        assert_eq!(why, r#"it ended with 0 instead of 3: "x\noh\u{1b}[31m""#);
        assert!(judged(&test(), Status::Signal(9), "").unwrap().starts_with("signal 9 ended it"));
        let answer = |timed_out| Answer {
            status: Status::Code(0),
            timed_out,
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        assert_eq!(judge(&test(), &answer(true)).unwrap(), "it did not end in 7 s");
        assert_eq!(judge(&test(), &answer(false)), None);
    }
}
