//! What must be so in a machine that booted an image, and what came of trying it.

use serde::{Deserialize, Serialize};

use crate::{Arch, Digest, Error, Name, Result, Version};

/// An image has at most this many tests.
pub const TESTS_MAX: usize = 256;
/// A test may take at most this long, in seconds.
pub const TEST_SECONDS_MAX: u32 = 3600;

/// A command that is run in a machine, and what it must do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// What it shows, in a few words, or the command itself.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The exit code that it must end with.
    #[serde(default)]
    pub exit: u8,
    /// What its standard output must be, but for one newline at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<String>,
    /// What must stand somewhere in its standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// It is killed after this time, and has failed; [`TEST_SECONDS_MAX`] at most.
    pub timeout_seconds: u32,
}

/// Refuses tests that nobody could run.
pub(crate) fn check(tests: &[Test]) -> Result<()> {
    let wrong = |test: &&Test| {
        test.command.is_empty() || !(1..=TEST_SECONDS_MAX).contains(&test.timeout_seconds)
    };
    if tests.len() > TESTS_MAX {
        let found = tests.len();
        return Err(Error::format(format!(
            "manifest.json has {found} tests ({TESTS_MAX} at most)"
        )));
    }
    match tests.iter().find(wrong) {
        Some(test) => Err(Error::format(format!(
            "manifest.json: the test {:?} needs a command and 1 to {TEST_SECONDS_MAX} seconds",
            test.name
        ))),
        None => Ok(()),
    }
}

/// What came of booting an image and running its tests: a document beside the packed file, whose
/// digest it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestResult {
    /// The digest of the packed file that was tested.
    pub bundle: Digest,
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// Its machine.
    pub arch: Arch,
    /// The digest of the kernel's packed file that it booted.
    pub kernel: Digest,
    /// How the guest was executed: `kvm`, `tcg`.
    pub accel: String,
    /// The program that tested: `imgtool 0.1.0`.
    pub tool: String,
    /// The program that ran the machine: `QEMU emulator version 7.2.22`.
    pub vmm: String,
    /// When it began: `2026-11-20T22:41:00Z`.
    pub began: String,
    /// From the start of the VMM to the agent's first answer, in milliseconds.
    pub boot_ms: u64,
    /// What was run, in order: all of the manifest's tests.
    pub checks: Vec<Check>,
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The test's name.
    pub name: String,
    /// Whether all was as it must be.
    pub passed: bool,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What was not, in a line; empty where it passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl TestResult {
    /// Whether the image booted and all of its tests passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}
