//! Programs that keep log-ins: `docker-credential-NAME get`.
//!
//! Protocol: docker-credential-helpers' README, "Development": the server's name on standard input,
//! a JSON object on standard output. What comes on standard output is never shown.

use std::io::Read;
use std::time::Duration;

use crate::{Error, Result, Tool};
use serde::Deserialize;

use super::credentials::Login;

/// A helper may ask a person for a passphrase; longer than this nobody waits.
const TIME_MAX: Duration = Duration::from_secs(60);
/// An answer is at most this long.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// A helper's name is at most this long.
const NAME_BYTES_MAX: usize = 64;
/// The name that docker's own registry has with helpers.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// What a helper says where it has nothing, and then ends with 1.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// In place of a user: the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    user: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

/// Asks the helper `name` for the log-in to `host`; `None` where it has none.
pub(super) fn ask(name: &str, host: &str) -> Result<Option<Login>> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
        return Err(Error::input(format!("{name:?} is no credential helper's name")));
    }
    let program = format!("docker-credential-{name}");
    let server = if host == "docker.io" { DOCKER_HUB } else { host };
    let mut said = Vec::new();
    let ran = Tool::new(&program).arg("get").input(server.as_bytes())?.timeout(TIME_MAX).stream(
        |stdout| {
            let read = stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut said);
            read.map(drop).map_err(|e| Error::io(&program, e))
        },
    );
    if let Err(error) = ran {
        let nothing = String::from_utf8_lossy(&said).trim() == NOT_FOUND;
        let about = |e: Error| e.within(format!("the log-in to {host}"));
        return if nothing { Ok(None) } else { Err(about(error)) };
    }
    parse(&said).map_err(|e| e.within(format!("{program} get, for {host}")))
}

fn parse(json: &[u8]) -> Result<Option<Login>> {
    // The parser's own message could quote the secret.
    let answer: Answer = serde_json::from_slice(json)
        .map_err(|_| Error::input("its answer is not what helpers answer"))?;
    Ok(match answer {
        Answer { secret, .. } if secret.is_empty() => None,
        Answer { user, secret } if user == TOKEN_USER => Some(Login::Identity(secret)),
        Answer { user, .. } if user.is_empty() => {
            return Err(Error::input("its answer names no user"));
        }
        Answer { user, secret } => Some(Login::Password { user, password: secret }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        let right = br#"{"ServerURL":"r.example","Username":"me","Secret":"pw"}"#;
        let login = Login::Password { user: "me".into(), password: "pw".into() };
        assert!(parse(right).unwrap() == Some(login));
        let token = br#"{"Username":"<token>","Secret":"t"}"#;
        assert!(parse(token).unwrap() == Some(Login::Identity("t".into())));
        assert!(parse(br#"{"Username":"me","Secret":""}"#).unwrap().is_none());
        for wrong in [&b"pw"[..], b"", br#"{"Secret":"pw"}"#, br#"{"Secret":["pw"]}"#] {
            let error = parse(wrong).err().unwrap();
            assert!(!error.to_string().contains("pw"), "{error}");
        }
        for name in ["", "../x", "a b", "a/b"] {
            assert!(ask(name, "r.example").is_err());
        }
    }
}
