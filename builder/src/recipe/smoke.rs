//! The recipe's tests, `[[test]]`: commands, and what they must do in a machine that booted the image.

use bundle::{TEST_SECONDS_MAX, TESTS_MAX, Test};

use super::fault::Faults;
use super::wire::{At, WireTest};

/// A test takes at most this long, where the recipe says nothing else.
const TIMEOUT_SECONDS_DEFAULT: u32 = 60;
/// A name is shown in a line of its own.
const NAME_CHARS_MAX: usize = 100;

/// The tests that are right; of the others a fault was recorded.
pub(super) fn check(wires: Vec<At<WireTest>>, faults: &mut Faults) -> Vec<Test> {
    if let Some(at) = wires.get(TESTS_MAX) {
        faults.add(at.span.clone(), format!("a recipe has at most {TESTS_MAX} tests"));
    }
    let mut tests: Vec<Test> = Vec::new();
    for at in wires {
        let span = at.span.clone();
        let Some(test) = check_one(at, faults) else { continue };
        if tests.iter().any(|other| other.name == test.name) {
            faults.add(span, format!("a second test {:?}; `name` tells them apart", test.name));
        }
        tests.push(test);
    }
    tests
}

fn check_one(at: At<WireTest>, faults: &mut Faults) -> Option<Test> {
    let At { value: wire, span } = at;
    let Some(command) = wire.command else {
        if !faults.is_broken() {
            faults.add(span, "`command` is missing, as in command = [\"uname\", \"-r\"]");
        }
        return None;
    };
    if command.value.first().is_none_or(|program| program.value.is_empty()) {
        faults.add(command.span, "a command has a program, as in [\"uname\", \"-r\"]");
        return None;
    }
    for word in command.value.iter().filter(|word| word.value.contains('\0')) {
        faults.add(word.span.clone(), "no argument holds a zero byte");
    }
    let command: Vec<String> = command.value.into_iter().map(|word| word.value).collect();
    let exit = wire.exit.map_or(Some(0), |at| {
        let code = u8::try_from(at.value);
        code.map_err(|_| faults.add(at.span, "an exit code is 0 to 255")).ok()
    });
    let timeout = wire.timeout.map_or(Some(TIMEOUT_SECONDS_DEFAULT), |at| {
        let seconds = parse_seconds(&at.value);
        if seconds.is_none() {
            let rule = "a time is wanted, as in \"90s\" or \"5m\", an hour at most";
            faults.add(at.span, rule);
        }
        seconds
    });
    let name = wire.name.map(|at| {
        if at.value.is_empty() || at.value.chars().any(char::is_control) {
            faults.add(at.span, "a name is one line of text");
        }
        at.value
    });
    let name = name.unwrap_or_else(|| command.join(" ").replace(char::is_control, " "));
    Some(Test {
        name: name.chars().take(NAME_CHARS_MAX).collect(),
        command,
        exit: exit?,
        equals: wire.equals.map(|at| at.value),
        contains: wire.contains.map(|at| at.value),
        timeout_seconds: timeout?,
    })
}

/// `90s`, `5m`, `1h` in seconds: more than none, [`TEST_SECONDS_MAX`] at most.
fn parse_seconds(text: &str) -> Option<u32> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let seconds = number.parse::<u32>().ok()?.checked_mul(factor)?;
    (1..=TEST_SECONDS_MAX).contains(&seconds).then_some(seconds)
}
