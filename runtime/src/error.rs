//! One error type for both programs: what failed, whose fault it is, and at most one hint.

use std::error::Error as StdError;
use std::fmt;

/// Whose fault an error is: the one thing a caller can act on. Exit codes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The command line asks for something that does not exist or contradicts itself.
    Usage,
    /// A file, recipe, layer or bundle is wrong; the same input fails again.
    Input,
    /// A digest or a signature does not match what we accept.
    Trust,
    /// A server could not be reached or misbehaved; a later try may work.
    Network,
    /// This machine lacks something: a program, a permission, space, a device.
    Host,
    /// The guest did not do what it was asked to: it panicked, went silent, or broke the protocol.
    Guest,
    /// Ours.
    Bug,
    /// The user asked us to stop (Ctrl-C, SIGTERM).
    Interrupted,
}

impl Class {
    /// The exit code of a program that ends with an error of this class.
    ///
    /// `imgrun run` and `imgrun exec` pass the guest's own code instead and use
    /// [`EXIT_NOT_RUN`] for every error of ours, as `docker run` and `env` do.
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Usage => 2,
            Class::Input => 3,
            Class::Trust => 4,
            Class::Network => 5,
            Class::Host => 6,
            Class::Guest => 7,
            Class::Bug => 70,
            Class::Interrupted => 130,
        }
    }

    /// The class as one lower-case word, for `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Class::Usage => "usage",
            Class::Input => "input",
            Class::Trust => "trust",
            Class::Network => "network",
            Class::Host => "host",
            Class::Guest => "guest",
            Class::Bug => "bug",
            Class::Interrupted => "interrupted",
        }
    }

    /// The class of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        use Class::*;
        let all = [Usage, Input, Trust, Network, Host, Guest, Bug, Interrupted];
        all.into_iter().find(|class| class.name() == name)
    }
}

/// Exit code of `run` and `exec` when the command never ran in the guest.
pub const EXIT_NOT_RUN: u8 = 125;
/// Exit code of `run` and `exec` when the command was stopped by `--timeout`.
pub const EXIT_TIMED_OUT: u8 = 124;

/// What failed (naming the file, URL or command), its [`Class`], a hint, and the cause.
#[derive(Debug)]
pub struct Error {
    class: Class,
    message: String,
    hint: Option<String>,
    detail: Option<String>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// `Result` with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault it is that bytes are not a bundle.
impl From<bundle::Error> for Error {
    fn from(e: bundle::Error) -> Self {
        match e {
            bundle::Error::Digest { .. } => Error::trust(e.to_string()),
            bundle::Error::Io(cause) => Error::io("read", cause),
            other => Error::input(other.to_string()),
        }
    }
}

impl Error {
    /// An error of `class`; `message` names the thing that failed and says why.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Error { class, message: message.into(), hint: None, detail: None, cause: None }
    }

    /// Shorthand for [`Class::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Class::Usage, message)
    }

    /// Shorthand for [`Class::Input`].
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Class::Input, message)
    }

    /// Shorthand for [`Class::Trust`].
    pub fn trust(message: impl Into<String>) -> Self {
        Self::new(Class::Trust, message)
    }

    /// Shorthand for [`Class::Network`].
    pub fn network(message: impl Into<String>) -> Self {
        Self::new(Class::Network, message)
    }

    /// Shorthand for [`Class::Host`].
    pub fn host(message: impl Into<String>) -> Self {
        Self::new(Class::Host, message)
    }

    /// Shorthand for [`Class::Guest`].
    pub fn guest(message: impl Into<String>) -> Self {
        Self::new(Class::Guest, message)
    }

    /// Shorthand for [`Class::Bug`].
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Class::Bug, message)
    }

    /// What to say when the user stopped us.
    pub fn interrupted() -> Self {
        Self::new(Class::Interrupted, "interrupted")
    }

    /// An I/O error on `what` (a path, usually): a missing file is the user's input, a full disk
    /// or a denied permission is the host's.
    pub fn io(what: impl fmt::Display, cause: std::io::Error) -> Self {
        use std::io::ErrorKind::*;
        let class = match cause.kind() {
            NotFound | IsADirectory | NotADirectory | InvalidData | UnexpectedEof => Class::Input,
            _ => Class::Host,
        };
        let full = matches!(cause.kind(), StorageFull | QuotaExceeded);
        let error = Self::new(class, what.to_string()).because(cause);
        if full { error.hint("free some space, or choose another place") } else { error }
    }

    /// The same error for another who waited for the same thing.
    #[must_use]
    pub fn again(&self) -> Self {
        let error = Self::new(self.class, self.to_string());
        match &self.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        }
    }

    /// Adds the one line that tells the user what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds lines of evidence, printed before the message: a console's or a program's last output.
    #[must_use]
    pub fn detail(mut self, lines: impl Into<String>) -> Self {
        self.detail = Some(lines.into());
        self
    }

    /// Adds the cause; it is printed after the message, separated by a colon.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Puts `what` in front of the message: the file or step in which it happened.
    #[must_use]
    pub fn within(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Whose fault it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Evidence to print before the message, any number of lines.
    pub fn detail_text(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// What the user can do about it, one line.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    /// The whole chain on one line; a cause is not said twice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.message.clone();
        let mut cause: Option<&(dyn StdError + 'static)> =
            self.cause.as_deref().map(|c| c as &(dyn StdError + 'static));
        while let Some(next) = cause {
            let text = next.to_string();
            if !said.contains(&text) {
                said.push_str(": ");
                said.push_str(&text);
            }
            cause = next.source();
        }
        f.write_str(&said)
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let inner = Error::input("layer 3 is truncated");
        let outer = Error::input("image.tar: layer 3 is truncated").because(inner);
        assert_eq!(outer.to_string(), "image.tar: layer 3 is truncated");
    }

    #[test]
    fn the_whole_chain_is_one_line() {
        let cause = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::io("/var/x", cause);
        assert_eq!(error.class(), Class::Host);
        assert_eq!(error.to_string(), "/var/x: no storage space");
        assert!(error.hint_text().is_some());
    }
}
