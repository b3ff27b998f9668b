//! What is in an image, in a form that scanners read: SPDX 2.3 as JSON.
//!
//! It is computed from the manifest, so it is as reproducible as that and adds nothing that the
//! manifest does not say; <https://spdx.github.io/spdx-spec/v2.3/> is the format.

use bundle::{Database, Digest, Manifest, Package};
use serde_json::{Value, json};

use crate::date;

/// The document about an image whose `manifest` is known but for its files; `distribution` is the
/// `ID` of its os-release, and it is dated `epoch` seconds after 1970.
pub fn spdx(manifest: &Manifest, distribution: &str, epoch: u64) -> Vec<u8> {
    let title = format!("{}-{}-{}", manifest.name, manifest.version, manifest.arch);
    // Two documents with one name must differ in nothing.
    let unique = Digest::of(manifest.to_json());
    let mut packages = vec![json!({
        "SPDXID": "SPDXRef-Image",
        "name": manifest.name.as_str(),
        "versionInfo": manifest.version.as_str(),
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    })];
    let mut relationships = vec![related("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")];
    for (number, package) in manifest.packages.iter().enumerate() {
        let id = format!("SPDXRef-Package-{}", number + 1);
        relationships.push(related("SPDXRef-Image", "CONTAINS", &id));
        packages.push(json!({
            "SPDXID": id,
            "name": package.name,
            "versionInfo": package.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl(package, distribution),
            }],
        }));
    }
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": title,
        "documentNamespace": format!("https://spdx.org/spdxdocs/{title}-{}", unique.hex()),
        "creationInfo": {
            "created": date::second(epoch),
            "creators": [format!("Tool: {}", manifest.tool.replace(' ', "-"))],
        },
        "packages": packages,
        "relationships": relationships,
    });
    let mut text = format!("{document:#}").into_bytes();
    text.push(b'\n');
    text
}

fn related(from: &str, how: &str, to: &str) -> Value {
    json!({
        "spdxElementId": from,
        "relationshipType": how,
        "relatedSpdxElement": to,
    })
}

/// A package URL: <https://github.com/package-url/purl-spec>.
fn purl(package: &Package, distribution: &str) -> String {
    let kind = match package.database {
        Database::Dpkg => "deb",
        Database::Apk => "apk",
        Database::Rpm => "rpm",
    };
    let mut purl = format!("pkg:{kind}/");
    if !distribution.is_empty() {
        purl += &format!("{}/", escaped(distribution));
    }
    // rpm's epoch is not a part of the version there; Debian's is.
    let (epoch, version) = match package.version.split_once(':') {
        Some((epoch, version)) if package.database == Database::Rpm => (epoch, version),
        _ => ("", package.version.as_str()),
    };
    purl += &format!("{}@{}", escaped(&package.name), escaped(version));
    let qualifiers: Vec<String> = [("arch", package.arch.as_str()), ("epoch", epoch)]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", escaped(value)))
        .collect();
    if !qualifiers.is_empty() {
        purl += &format!("?{}", qualifiers.join("&"));
    }
    purl
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte);
    let escape = |byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_are_escaped() {
        let package = |database, name: &str, version: &str, arch: &str| Package {
            database,
            name: name.into(),
            version: version.into(),
            arch: arch.into(),
        };
        let git = package(Database::Dpkg, "git", "1:2.39.5-0+deb12u2", "amd64");
        assert_eq!(purl(&git, "debian"), "pkg:deb/debian/git@1:2.39.5-0%2Bdeb12u2?arch=amd64");
        let musl = package(Database::Apk, "musl", "1.2.5-r0", "");
        assert_eq!(purl(&musl, ""), "pkg:apk/musl@1.2.5-r0");
        let vim = package(Database::Rpm, "vim", "2:9.1-1.fc41", "x86_64");
        assert_eq!(purl(&vim, "fedora"), "pkg:rpm/fedora/vim@9.1-1.fc41?arch=x86_64&epoch=2");
    }
}
