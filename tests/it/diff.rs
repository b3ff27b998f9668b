//! `imgtool diff` of two versions of an image, and the package databases that it compares.

use std::fs;

use imgtool_tests::{World, repository};
use serde_json::{Value, json};

/// What a version of the image is made of.
struct Version {
    number: &'static str,
    kernel: &'static str,
    dpkg: &'static str,
    apk: &'static str,
    /// Name, epoch, version and release.
    rpm: &'static [(&'static str, &'static str, &'static str, &'static str)],
    motd: &'static str,
}

const OLD: Version = Version {
    number: "1",
    kernel: "micro-6.1",
    dpkg: "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.1\n",
    apk: "P:musl\nV:1.2.4-r0\nA:x86_64\n",
    rpm: &[("vim", "2", "9.0", "1.fc40"), ("gone", "", "1", "1")],
    motd: "old\n",
};
const NEW: Version = Version {
    number: "2",
    kernel: "generic-6.1",
    dpkg: "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2\n\n\
           Package: curl\nStatus: install ok installed\nArchitecture: amd64\nVersion: 7.88\n",
    apk: "P:musl\nV:1.2.4-r0\nA:x86_64\n",
    rpm: &[("vim", "2", "9.1", "3.fc40")],
    motd: "a newer one\n",
};

/// rpm itself makes packages and installs them into a database, of which it then says what is in it.
fn rpm_database(world: &World, version: &Version) -> Vec<String> {
    let number = version.number;
    let mut script = format!("mkdir -p db-{number} && rpm --dbpath $PWD/db-{number} --initdb\n");
    for (name, epoch, version, release) in version.rpm {
        let epoch = if epoch.is_empty() { String::new() } else { format!("Epoch: {epoch}\n") };
        let spec = format!(
            "Name: {name}\n{epoch}Version: {version}\nRelease: {release}\nSummary: x\nLicense: MIT\n\
             %description\nx\n%files\n"
        );
        world.write(&format!("{name}-{number}.spec"), spec);
        script += &format!(
            "rpmbuild --quiet --target x86_64-linux --define \"_topdir $PWD/rpm-{number}\" \
               -bb {name}-{number}.spec >/dev/null\n"
        );
    }
    script += &format!(
        "rpm --dbpath $PWD/db-{number} -i --justdb --nodeps --ignorearch --ignoreos \
           rpm-{number}/RPMS/*/*.rpm\n\
         rpm --dbpath $PWD/db-{number} -qa --qf \
           '%{{NAME}} %|EPOCH?{{%{{EPOCH}}:}}|%{{VERSION}}-%{{RELEASE}} %{{ARCH}}\\n' | sort\n"
    );
    let home = world.path("home");
    fs::create_dir_all(&home).unwrap();
    let mut command = world.command("sh");
    command.args(["-ec", &script]).env("HOME", home);
    let said = imgtool_tests::finish(command).ok().text();
    said.lines().map(str::to_string).collect()
}

/// Builds it, and returns the path of its bundle.
fn build(world: &World, version: &Version) -> String {
    let number = version.number;
    let tree = format!("tree-{number}");
    let file = |path: &str, text: &str| drop(world.write(&format!("{tree}/{path}"), text));
    file("etc/os-release", "ID=mixed\n");
    file("etc/motd", version.motd);
    file("var/lib/dpkg/status", version.dpkg);
    file("lib/apk/db/installed", version.apk);
    let expected = rpm_database(world, version);
    assert_eq!(expected.len(), version.rpm.len(), "{expected:?}");
    let database = fs::read(world.path(format!("db-{number}/rpmdb.sqlite"))).unwrap();
    fs::create_dir_all(world.path(format!("{tree}/usr/lib/sysimage/rpm"))).unwrap();
    fs::write(world.path(format!("{tree}/usr/lib/sysimage/rpm/rpmdb.sqlite")), database).unwrap();
    let tar = format!("root-{number}.tar");
    let stamp = ["--owner=0", "--group=0", "--mtime=@1700000000"];
    world.run("tar", [&["-cf", &tar][..], &stamp, &["-C", &tree, "."]].concat()).ok();
    let recipe = format!(
        "name = \"mixed\"\nversion = \"{number}\"\nkernel = \"{}\"\n[source]\ntarball = \"{tar}\"\n",
        version.kernel
    );
    world.write("mixed.toml", recipe);
    let configs = repository().join("kernel-configs");
    let configs = configs.to_str().unwrap();
    let args = ["build", "--recipe", "mixed.toml", "--kernel-configs", configs, "--output", "out"];
    let bundle = world.imgtool(args).ok().text();
    let manifest = world.run("sh", ["-c", &format!("zstd -dcq {bundle} | tar xO manifest.json")]);
    let manifest: Value = serde_json::from_str(&manifest.ok().text()).unwrap();
    let packages = manifest["packages"].as_array().unwrap().iter();
    let of_rpm = packages.filter(|package| package["database"] == "rpm");
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let found: Vec<String> = of_rpm
        .map(|p| [text(&p["name"]), text(&p["version"]), text(&p["arch"])].join(" "))
        .collect();
    assert_eq!(found, expected, "as rpm says it");
    bundle
}

/// Packages of three databases, files, the kernel's configuration, sizes: as text and as JSON.
#[test]
fn two_versions_are_compared() {
    let world = World::new();
    let (old, new) = (build(&world, &OLD), build(&world, &NEW));
    let text = world.imgtool(["diff", &old, &new, "--files"]).ok().text();
    let lines: Vec<&str> = text.lines().collect();
    let arch = std::env::consts::ARCH;
    assert_eq!(lines[0], format!("mixed 1 {arch} -> mixed 2 {arch}"));
    for line in [
        "~ bash 5.1 -> 5.2",
        "+ curl 7.88",
        "~ vim 2:9.0-1.fc40 -> 2:9.1-3.fc40",
        "- gone 1-1",
        "packages: 4 -> 4, 4 not the same",
        "~ /etc/motd: content 4 bytes -> 12 bytes",
    ] {
        assert!(lines.contains(&line), "no {line:?} in {text}");
    }
    for beginning in ["packed: ", "raw: ", "an update fetches: ", "kernel: micro", "CONFIG_"] {
        assert!(lines.iter().any(|line| line.starts_with(beginning)), "{beginning}: {text}");
    }
    assert!(!text.contains("musl"), "{text}");

    let json = world.imgtool(["diff", &old, &new, "--files", "--json"]).ok().text();
    let json: Value = serde_json::from_str(&json).unwrap();
    let sizes = |bundle: &str| fs::metadata(world.path(bundle)).unwrap().len();
    assert_eq!(json["old"]["packed_bytes"], sizes(&old));
    assert_eq!(json["new"]["packed_bytes"], sizes(&new));
    assert!(json["update_bytes"].as_u64().unwrap() < sizes(&new));
    let names: Vec<&Value> =
        json["packages"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert_eq!(names, ["bash", "curl", "gone", "vim"]);
    let vim = &json["packages"][3];
    assert_eq!(vim["from"], json!(["2:9.0-1.fc40"]));
    assert_eq!((&vim["to"], &vim["database"]), (&json!(["2:9.1-3.fc40"]), &json!("rpm")));
    assert!(json["config"].as_array().unwrap().len() > 10);
    let motd = json["files"].as_array().unwrap().iter().find(|file| file["path"] == "/etc/motd");
    assert!(motd.is_some(), "{json:#}");

    // Nothing is different from itself.
    let same = world.imgtool(["diff", &new, &new, "--files", "--json"]).ok().text();
    let same: Value = serde_json::from_str(&same).unwrap();
    assert_eq!((&same["packages"], &same["config"]), (&json!([]), &json!([])));
    assert_eq!((&same["files"], &same["update_bytes"]), (&json!([]), &json!(0)));
}
