//! Packages that are installed when a machine starts for the first time, for what can not be had while
//! an image is built: a script in the image, and a unit that starts it until it has succeeded once.

use crate::recipe::{Put, UnitState};
use crate::{Error, Result};

use super::unit;
use super::view::{Bytes, View};

const SCRIPT: &str = include_str!("../../../templates/first-boot.sh");
const SCRIPT_PATH: &str = "/usr/lib/imgtool/first-boot";
/// What the script has in place of the packages.
const PACKAGES: &str = "@PACKAGES@";
const UNIT: &str = "imgtool-first-boot.service";

/// Who starts services, the program by which it is known, and what it takes.
struct Init {
    program: &'static str,
    path: &'static str,
    text: &'static str,
    mode: u16,
}

const INITS: [Init; 2] = [
    Init {
        program: "/usr/lib/systemd/systemd",
        path: "/usr/lib/systemd/system/imgtool-first-boot.service",
        text: include_str!("../../../templates/first-boot.service"),
        mode: 0o644,
    },
    Init {
        program: "/sbin/openrc-run",
        path: "/etc/init.d/imgtool-first-boot",
        text: include_str!("../../../templates/first-boot.openrc"),
        mode: 0o755,
    },
];

/// Puts both into the image.
pub(super) fn set(view: &mut View, packages: &[String]) -> Result<()> {
    let mut found = None;
    for init in &INITS {
        if found.is_none() && view.place(init.program, true)?.node.is_some() {
            found = Some(init);
        }
    }
    let init = found.ok_or_else(|| {
        Error::input("first_boot: the image has neither systemd nor OpenRC to start it")
            .hint("a `packages` step installs while the image is built")
    })?;
    if view.place(SCRIPT_PATH, false)?.node.is_some() {
        return Err(Error::input("first_boot: the image has such a step already").hint(format!(
            "one step names all packages; a step `remove` takes {SCRIPT_PATH} away"
        )));
    }
    let script = SCRIPT.replace(PACKAGES, &packages.join(" "));
    put(view, SCRIPT_PATH, &script, 0o755)?;
    put(view, init.path, init.text, init.mode)?;
    unit::set(view, UNIT, UnitState::Enabled)
}

fn put(view: &mut View, path: &str, text: &str, mode: u16) -> Result<()> {
    let place = view.place(path, false)?;
    view.put_file(place, Bytes::Given(text.as_bytes().to_vec()), mode, &Put::default())
}
