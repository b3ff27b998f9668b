//! What a registry answers to a stranger: the header `WWW-Authenticate` (RFC 9110, 11.6.1; OCI
//! distribution specification's token flow).

/// How a registry wants us to say who we are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With user and password.
    Basic,
    /// With a token that is to be had at `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The best of the challenges in the headers' values; `None` where we know none of them.
    pub(super) fn parse<'h>(headers: impl IntoIterator<Item = &'h str>) -> Option<Challenge> {
        let mut best = None;
        for header in headers {
            let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                let parameters = parameters(rest)?;
                let get = |name: &str| {
                    let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
                };
                let (service, scope) = (get("service"), get("scope"));
                return Some(Challenge::Bearer { realm: get("realm")?, service, scope });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                best = Some(Challenge::Basic);
            }
        }
        best
    }
}

/// `key="value", key=token, …`
fn parameters(text: &str) -> Option<Vec<(String, String)>> {
    let mut rest = text.trim();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => quoted_string(quoted)?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        // A key behind another scheme's name would hold a space: that scheme is not for us.
        let key = key.trim();
        if !key.contains(' ') {
            all.push((key.to_string(), value.trim().to_string()));
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    Some(all)
}

/// The text up to the closing quote, and what follows it.
fn quoted_string(text: &str) -> Option<(&str, &str)> {
    let end = text.find('"')?;
    // Backslashes would have to be undone; no registry writes any.
    if text[..end].contains('\\') { None } else { Some((&text[..end], &text[end + 1..])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_understood() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        };
        let table = [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a:pull,push\"",
                Some(bearer("https://a/t", Some("s"), Some("repository:a:pull,push"))),
            ),
            ("bearer  realm=https://a , service=s", Some(bearer("https://a", Some("s"), None))),
            ("Bearer service=\"s\"", None),
            ("Bearer realm=\"open", None),
            ("Bearer realm=\"a\\\"b\"", None),
            ("Negotiate", None),
            ("", None),
        ];
        for (header, challenge) in table {
            assert_eq!(Challenge::parse([header]), challenge, "{header}");
        }
        let both = Challenge::parse(["Basic realm=\"x\"", "Bearer realm=\"y\""]);
        assert_eq!(both, Some(bearer("y", None, None)));
    }
}
