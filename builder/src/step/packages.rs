//! Installing packages by the image's own manager: which one, and what it is told.

use std::fs::File;

use ext4::read::Reader;

use crate::recipe::Install;
use crate::{Error, Result};

/// Part of a stage's key: raised when the scripts change.
pub(super) const PROCEDURE: u32 = 1;

/// A package manager: the program it is known by, and the script that gets the packages as its
/// arguments.
struct Manager {
    programs: &'static [&'static str],
    script: &'static str,
}

/// The first that is there is taken. No service is started while packages are installed; what the
/// manager keeps for itself (lists, archives, logs, times) is gone afterwards.
const MANAGERS: [Manager; 4] = [
    Manager { programs: &["/usr/bin/apt-get"], script: APT },
    Manager { programs: &["/sbin/apk", "/usr/sbin/apk", "/usr/bin/apk"], script: APK },
    Manager { programs: &["/usr/bin/dnf", "/usr/bin/dnf5"], script: DNF },
    Manager { programs: &["/usr/bin/microdnf"], script: MICRODNF },
];

/// `apt-get update` succeeds without an index unless told that any error is one.
const APT: &str = r#"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    made=$policy
fi
apt-get -q -o APT::Update::Error-Mode=any -o Acquire::Languages=none update
apt-get -q -y -o APT::Install-Recommends=$RECOMMENDS -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold install "$@"
apt-get clean
if [ -n "$made" ]; then rm -f $made; fi
find /var/lib/apt/lists -mindepth 1 -delete
rm -rf /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
rm -rf /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache
"#;

const APK: &str = r#"
apk add --no-cache --no-progress "$@"
rm -rf /var/log/apk.log
"#;

const DNF: &str = r#"
dnf -y --setopt=install_weak_deps=$RECOMMENDS install "$@"
dnf clean all
rm -rf /var/cache/dnf /var/cache/libdnf5 /var/log/dnf* /var/log/hawkey.log /var/lib/dnf/history.*
"#;

const MICRODNF: &str = r#"
weak=1
[ $RECOMMENDS = true ] || weak=0
microdnf -y --setopt=install_weak_deps=$weak install "$@"
microdnf clean all
rm -rf /var/cache/dnf /var/cache/yum /var/log/dnf* /var/log/hawkey.log
"#;

/// The command that installs `install` into the image `base`.
pub(super) fn command(install: &Install, base: &mut Reader<File>) -> Result<Vec<String>> {
    let mut is_there = |path: &&str| base.find(path.as_bytes(), true).is_ok();
    let manager = MANAGERS.iter().find(|m| m.programs.iter().any(&mut is_there));
    let manager = manager.ok_or_else(|| {
        Error::input("the image has no package manager that we know: apt, apk or dnf")
    })?;
    let script = format!("RECOMMENDS={}\n{}", install.recommends, manager.script);
    let mut argv = ["/bin/sh", "-eu", "-c", &script, "packages"].map(str::to_string).to_vec();
    argv.extend(install.packages.iter().cloned());
    Ok(argv)
}
