//! By which ways registries are reached: mirrors, certificates, helpers, and not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use imgrun::{Event, Progress};
use imgtool::cache::{Cache, Inventory};
use imgtool::oci::{Access, Credentials, Registries};
use imgtool::source::Resolved;
use imgtool::{Class, Result};

use crate::proxy::{Fault, Proxy, Tokens};
use crate::world::{BIG_BYTES, PASSWORD, Registry, USER, World, free_port, read_all, run};

/// Pulls and gives what was said, too.
fn pull(
    world: &World,
    reference: &str,
    cache: &str,
    access: &Access,
) -> (Result<Resolved>, Vec<String>) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let heard = notes.clone();
    let progress = Progress::new(move |event| {
        if let Event::Note { text } = event {
            heard.lock().unwrap().push(text);
        }
    });
    let result = world.pull_by(reference, cache, access, &progress);
    world.assert_cache_is_right(cache);
    let notes = notes.lock().unwrap().clone();
    (result, notes)
}

fn with_registries(text: &str) -> Access {
    let registries = Registries::parse(text, Path::new("registries.toml")).unwrap();
    Access { registries, ..Access::default() }
}

fn mirrors(host: u16, mirrors: &[u16]) -> String {
    let list: Vec<_> = mirrors.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!("[host.\"127.0.0.1:{host}\"]\nmirrors = [{}]\n", list.join(", "))
}

#[test]
fn a_mirror_is_asked_first_and_never_for_tags() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let host = Proxy::new(registry.port, "none", &[]);
    let mirror = Proxy::new(registry.port, "none", &[]);
    let access = with_registries(&mirrors(host.port, &[mirror.port]));
    let reference = format!("127.0.0.1:{}/app:1", host.port);
    let (result, notes) = pull(&world, &reference, "cache", &access);
    assert!(read_all(&result.unwrap()).is_ok());
    assert_eq!(notes, [""; 0]);
    assert!(mirror.requests("/manifests/1").is_empty());
    assert_eq!(mirror.requests("/blobs/").len(), 3);
    assert_eq!(host.requests("/v2/").len(), 1);

    // Unless the user says that whoever runs the mirror may say what a tag is.
    let text = mirrors(host.port, &[mirror.port]) + "tags_from_mirrors = true\n";
    let (result, _) = pull(&world, &reference, "other", &with_registries(&text));
    assert!(result.is_ok());
    assert_eq!(host.requests("/v2/").len(), 1);
}

#[test]
fn a_mirror_that_lies_is_never_believed() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let (digest, layers) = world.judge(&format!("docker://127.0.0.1:{}/app:1", registry.port));
    let reference = format!("127.0.0.1:{}/app@{digest}", registry.port);
    for part in ["/manifests/", "/blobs/", &layers[1].to_string()] {
        let flips = vec![Fault::Flip; 20];
        let liar = Proxy::new(registry.port, part, &flips);
        let honest = Proxy::new(registry.port, "none", &[]);
        let access = with_registries(&mirrors(registry.port, &[liar.port, honest.port]));
        let (result, notes) = pull(&world, &reference, &part.replace('/', "-"), &access);
        assert!(read_all(&result.unwrap()).is_ok(), "{part}");
        let said = format!("mirror 127.0.0.1:{}: expected sha256:", liar.port);
        assert!(notes.iter().any(|note| note.starts_with(&said)), "{part}: {notes:?}");
        // Whoever lied once is not asked again.
        assert!(liar.faults_left() >= 17, "{part}: {}", liar.faults_left());
        assert!(!honest.requests("/v2/").is_empty());
    }
    // Where all mirrors lie or are away the host itself is left.
    let liar = Proxy::new(registry.port, "/v2/", &vec![Fault::Flip; 20]);
    let access = with_registries(&mirrors(registry.port, &[free_port(), liar.port]));
    let (result, notes) = pull(&world, &reference, "last", &access);
    assert!(read_all(&result.unwrap()).is_ok());
    assert!(notes.iter().any(|note| note.contains("onnection refused")), "{notes:?}");
    // And where that lies as well there is an error, and nothing in the cache.
    let host = Proxy::new(registry.port, "/v2/", &vec![Fault::Flip; 20]);
    let access = with_registries(&mirrors(host.port, &[liar.port]));
    let reference = format!("127.0.0.1:{}/app@{digest}", host.port);
    let (result, _) = pull(&world, &reference, "none", &access);
    assert_eq!(result.unwrap_err().class(), Class::Trust);
    assert_eq!(world.blobs("none"), [""; 0]);
}

/// A certificate of our own authority for 127.0.0.1, and a registry that shows it.
fn https_registry(world: &World) -> Registry {
    let text = |name: &str| world.text(name);
    fs::write(world.path("leaf.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let openssl = |verb: &[&str], more: &[&str]| drop(run("openssl", &[verb, more].concat()));
    let made = ["-x509", "-subj", "/CN=ca", "-keyout", &text("ca.key"), "-out", &text("ca.pem")];
    openssl(&[&["req"], &ec[..]].concat(), &made);
    let asked = ["-subj", "/CN=leaf", "-keyout", &text("key.pem"), "-out", &text("leaf.csr")];
    openssl(&[&["req"], &ec[..]].concat(), &asked);
    let by = ["-CA", &text("ca.pem"), "-CAkey", &text("ca.key"), "-CAcreateserial"];
    let signed = ["-in", &text("leaf.csr"), "-extfile", &text("leaf.ext"), "-out", &text("c.pem")];
    openssl(&[&["x509", "-req"], &by[..]].concat(), &signed);
    world.https_registry("https", &text("c.pem"), &text("key.pem"))
}

#[test]
fn https_on_this_machine_wants_the_right_certificate() {
    let world = World::new();
    let registry = https_registry(&world);
    let to = format!("docker://127.0.0.1:{}/app:1", registry.port);
    world.copy(&format!("oci:{}:1", world.text("layout")), &to, &[]);
    let reference = format!("127.0.0.1:{}/app:1", registry.port);
    let text = format!("[host.\"127.0.0.1:{}\"]\nplain_http = false\n", registry.port);
    let (result, _) = pull(&world, &reference, "cache", &with_registries(&text));
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Network);
    assert!(error.to_string().contains("certificate"), "{error}");
    let text = format!("{text}ca = \"{}\"\n", world.text("ca.pem"));
    let (result, _) = pull(&world, &reference, "cache", &with_registries(&text));
    assert!(read_all(&result.unwrap()).is_ok());
    let text = text.replace("ca.pem", "registry.toml");
    fs::write(world.path("registry.toml"), "no certificate").unwrap();
    let (result, _) = pull(&world, &reference, "cache", &with_registries(&text));
    assert!(result.unwrap_err().to_string().contains("holds no PEM certificate"));
}

/// Log-ins from `docker-credential-NAME`, found on a path of its own in a process of its own.
fn imgtool(world: &World, arguments: &[&str], json: &str) -> std::process::Output {
    fs::create_dir_all(world.path("docker")).unwrap();
    fs::write(world.path("docker/config.json"), json).unwrap();
    let path = format!("{}:{}", world.text("bin"), std::env::var("PATH").unwrap());
    Command::new(env!("CARGO_BIN_EXE_imgtool"))
        .args(arguments)
        .env("PATH", path)
        .env("DOCKER_CONFIG", world.path("docker"))
        .env("IMGTOOL_CACHE", world.path("cache"))
        .env("XDG_CONFIG_HOME", world.path("config"))
        .env_remove("REGISTRY_AUTH_FILE")
        .env_remove("XDG_RUNTIME_DIR")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn helper(world: &World, name: &str, script: &str) {
    fs::create_dir_all(world.path("bin")).unwrap();
    let file = world.path(&format!("bin/docker-credential-{name}"));
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

fn flatten(world: &World, reference: &str, json: &str) -> (Option<i32>, String) {
    let image = world.text("root.ext4");
    let output = imgtool(world, &["flatten", reference, "-o", &image], json);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let all = format!("{}{said}", String::from_utf8_lossy(&output.stdout));
    assert!(!all.contains(PASSWORD), "{all}");
    let _ = fs::remove_dir_all(world.path("cache"));
    (output.status.code(), said)
}

#[test]
fn a_helper_knows_the_password_and_nobody_hears_it() {
    let world = World::new();
    let registry = world.registry("storage", true);
    let host = format!("127.0.0.1:{}", registry.port);
    let reference = format!("{host}/app:1");
    let answer = format!(r#"{{"ServerURL":"x","Username":"{USER}","Secret":"{PASSWORD}"}}"#);
    let (asked, right) = (world.text("asked"), format!("printf '%s' '{answer}'"));
    helper(&world, "right", &format!("echo \"$1 $(cat)\" >> {asked}\n{right}"));
    helper(&world, "none", "echo 'credentials not found in native keychain'; exit 1");
    helper(&world, "broken", &format!("{right}; echo locked >&2; exit 3"));
    helper(&world, "odd", &format!("echo {PASSWORD}"));
    let store = |name: &str| format!(r#"{{"auths":{{"{host}":{{}}}},"credsStore":"{name}"}}"#);
    let for_host =
        |name: &str| format!(r#"{{"credsStore":"broken","credHelpers":{{"{host}":"{name}"}}}}"#);
    for json in [store("right"), for_host("right")] {
        let (code, said) = flatten(&world, &reference, &json);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(fs::read_to_string(&asked).unwrap(), format!("get {host}\n"));
        fs::remove_file(&asked).unwrap();
    }
    let table = [
        (store("none"), 3, "the registry wants a log-in"),
        (store("broken"), 6, "locked"),
        (store("odd"), 3, "its answer is not what helpers answer"),
        (store("absent"), 6, "docker-credential-absent is not installed"),
        (store("../x"), 3, "is no credential helper's name"),
    ];
    for (json, code, sentence) in table {
        let (found, said) = flatten(&world, &reference, &json);
        assert_eq!(found, Some(code), "{said}");
        assert!(said.contains(sentence), "{said}");
    }
    // Who wants no log-in is not asked for one.
    let open = world.registry("open", false);
    let reference = format!("127.0.0.1:{}/app:1", open.port);
    let (code, said) = flatten(&world, &reference, &store("broken"));
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn an_identity_token_gets_tokens() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let tokens = Tokens { token: Arc::new(Mutex::new("access".to_string())) };
    let proxy = Proxy::with_tokens(registry.port, tokens.clone());
    let host = format!("127.0.0.1:{}", proxy.port);
    let file = world.path("auth.json");
    let json = format!(r#"{{"auths":{{"{host}":{{"identitytoken":"a secret & more"}}}}}}"#);
    fs::write(&file, json).unwrap();
    let credentials = Credentials::read(&file).unwrap();
    let access = Access { credentials, ..Access::default() };
    let (result, _) = pull(&world, &format!("{host}/app:1"), "cache", &access);
    assert!(result.is_ok());
    let asked = proxy.requests("/token");
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].path.as_str(), &asked[0].authorization), ("/token", &None));
    let form = "grant_type=refresh_token&client_id=imgtool&refresh_token=a+secret+%26+more\
                &service=test&scope=repository%3Aapp%3Apull";
    assert_eq!(asked[0].body, form);

    // A token server that sends us elsewhere gets no second chance to hear it there.
    let elsewhere = Proxy::new(registry.port, "none", &[]);
    let location = format!("Location: http://127.0.0.1:{}/token\r\n", elsewhere.port);
    let faults = [Fault::Answer("307 Temporary Redirect", location)];
    let proxy = Proxy::with_broken_tokens(registry.port, tokens, &faults);
    let host = format!("127.0.0.1:{}", proxy.port);
    let json = format!(r#"{{"auths":{{"{host}":{{"identitytoken":"secret"}}}}}}"#);
    fs::write(&file, json).unwrap();
    let credentials = Credentials::read(&file).unwrap();
    let access = Access { credentials, ..Access::default() };
    let (result, _) = pull(&world, &format!("{host}/app:1"), "other", &access);
    assert_eq!(result.unwrap_err().class(), Class::Network);
    assert_eq!((proxy.requests("/token").len(), elsewhere.requests("/").len()), (1, 0));
}

#[test]
fn plain_http_is_for_hosts_that_were_named() {
    let world = World::new();
    let registry = world.registry("storage", false);
    // This machine too, but not by a name that says so.
    let host = format!("0.0.0.0:{}", registry.port);
    let reference = format!("{host}/app:1");
    let (result, _) = pull(&world, &reference, "cache", &Access::default());
    assert_eq!(result.unwrap_err().class(), Class::Network);
    let access = with_registries(&format!("[host.\"{host}\"]\nplain_http = true\n"));
    let (result, _) = pull(&world, &reference, "cache", &access);
    assert!(read_all(&result.unwrap()).is_ok());
}

#[test]
fn offline_is_what_the_cache_has() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let reference = format!("127.0.0.1:{}/app:1", registry.port);
    let proxy = Proxy::new(registry.port, "none", &[]);
    let offline = Access { offline: true, ..Access::default() };
    let (result, _) = pull(&world, &reference, "cache", &offline);
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Network);
    assert!(error.to_string().contains("offline: what its tag means was never asked"), "{error}");
    let (online, _) = pull(&world, &reference, "cache", &Access::default());
    let online = online.unwrap();
    drop(registry);
    let (result, notes) = pull(&world, &reference, "cache", &offline);
    let result = result.unwrap();
    assert_eq!(result.digest, online.digest);
    assert!(read_all(&result).is_ok());
    let said = format!("offline: {reference} is {} as of 20", online.digest);
    assert!(notes.len() == 1 && notes[0].starts_with(&said), "{notes:?}");
    assert!(notes[0].ends_with(" UTC"), "{notes:?}");
    assert!(proxy.requests("/").is_empty());
    // A layer that is not there is named.
    let layer = &online.layers[1];
    fs::remove_file(&layer.file).unwrap();
    let (result, _) = pull(&world, &reference, "cache", &offline);
    let text = result.unwrap_err().to_string();
    assert!(text.starts_with(&reference), "{text}");
    let sentence = format!("offline: 1 of its 2 layers ({}) are not in the cache", layer.digest);
    assert!(text.ends_with(&sentence), "{text}");
    fs::remove_file(world.path("cache/blobs/sha256").join(online.digest.hex())).unwrap();
    let (result, _) = pull(&world, &reference, "cache", &offline);
    let text = result.unwrap_err().to_string();
    assert!(
        text.contains(&format!("its manifest {} is not in the cache", online.digest)),
        "{text}"
    );
}

#[test]
fn a_killed_download_goes_on_where_it_ended() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let (_, layers) = world.judge(&format!("docker://127.0.0.1:{}/app:1", registry.port));
    let layer = layers[1].to_string();
    let pull_from = |faults: &[Fault]| Proxy::new(registry.port, &layer, faults);
    let stalls = || {
        let proxy = pull_from(&[Fault::Stall(BIG_BYTES / 2)]);
        let mut child = Command::new(env!("CARGO_BIN_EXE_imgtool"))
            .args(["flatten", &format!("127.0.0.1:{}/app:1", proxy.port)])
            .args(["-o", &world.text("root.ext4")])
            .env("IMGTOOL_CACHE", world.path("cache"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let part = world.path("cache/parts").join(layers[1].hex());
        let began = Instant::now();
        while fs::metadata(&part).map_or(0, |found| found.len()) < (BIG_BYTES / 2) as u64 {
            assert!(began.elapsed() < Duration::from_secs(20), "nothing comes");
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        part
    };
    stalls();
    let proxy = pull_from(&[]);
    let reference = format!("127.0.0.1:{}/app:1", proxy.port);
    let (result, _) = pull(&world, &reference, "cache", &Access::default());
    assert!(read_all(&result.unwrap()).is_ok());
    let ranges: Vec<_> = proxy.requests(&layer).into_iter().map(|r| r.range).collect();
    assert_eq!(ranges, [Some(format!("bytes={}-", BIG_BYTES / 2))]);

    // Damaged meanwhile, it is fetched anew and nobody is blamed.
    fs::remove_dir_all(world.path("cache")).unwrap();
    let part = stalls();
    let mut bytes = fs::read(&part).unwrap();
    bytes[1000] ^= 1;
    fs::write(&part, bytes).unwrap();
    let (result, notes) = pull(&world, &reference, "cache", &Access::default());
    assert!(read_all(&result.unwrap()).is_ok());
    assert!(notes[0].starts_with("what was left of sha256:"), "{notes:?}");
}

#[test]
fn prune_spares_what_a_pull_uses() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let reference = format!("127.0.0.1:{}/app:1", registry.port);
    let cache = Cache::open(&world.path("cache")).unwrap();
    let named = reference.parse().unwrap();
    let access = Access::default();
    let arch = bundle::Arch::X86_64;
    let progress = Progress::silent();
    let used = imgtool::oci::resolve(&named, arch, &access, &cache, &progress).unwrap();
    let prune = |arguments: &[&str]| {
        let output = imgtool(&world, &[&["cache", "prune"], arguments].concat(), "{}");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let list = imgtool(&world, &["cache", "list"], "{}");
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.contains(&format!("{reference} layer 2")), "{list}");
    assert!(list.lines().last().unwrap().ends_with("in all, in 4 places"), "{list}");

    assert_eq!(prune(&["--json"])["freed_bytes"], 0);
    let kept = prune(&["--all", "--json"]);
    assert_eq!(kept["in_use"].as_array().unwrap().len(), 4, "{kept}");
    assert!(read_all(&used).is_ok());
    drop(cache);
    let would = prune(&["--all", "--dry-run", "--json"]);
    assert_eq!(world.blobs("cache").len(), 4);
    let done = prune(&["--all", "--json"]);
    assert_eq!(
        (&done["freed_bytes"], &done["removed"]),
        (&would["freed_bytes"], &would["removed"])
    );
    assert!(done["freed_bytes"].as_u64().unwrap() > BIG_BYTES as u64);
    assert_eq!(world.blobs("cache"), [""; 0]);
    let cache = Cache::open(&world.path("cache")).unwrap();
    assert_eq!(Inventory::read(&cache).unwrap().items, []);
}

#[test]
fn a_killed_prune_leaves_a_right_cache() {
    let world = World::new();
    let cache = world.cache("cache");
    for i in 0..300_u32 {
        cache.put(&i.to_le_bytes()).unwrap();
    }
    drop(cache);
    let mut left = vec![300];
    while left.last() != Some(&0) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_imgtool"))
            .args(["cache", "prune", "--all", "--quiet"])
            .env("IMGTOOL_CACHE", world.path("cache"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let before = *left.last().unwrap();
        while world.blobs("cache").len() == before && child.try_wait().unwrap().is_none() {}
        let _ = child.kill();
        child.wait().unwrap();
        world.assert_cache_is_right("cache");
        left.push(world.blobs("cache").len());
        assert!(left.len() < 400, "{left:?}");
    }
    assert!(left.len() > 2, "never killed in between: {left:?}");
}

#[test]
fn pulls_and_prunes_at_once_do_not_disturb_each_other() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let reference = format!("127.0.0.1:{}/app:1", registry.port).parse().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let cache = Cache::open(&world.path("cache")).unwrap();
                    let arch = bundle::Arch::X86_64;
                    let (access, progress) = (Access::default(), Progress::silent());
                    let got = imgtool::oci::resolve(&reference, arch, &access, &cache, &progress);
                    read_all(&got.unwrap()).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..200 {
                let cache = Cache::open(&world.path("cache")).unwrap();
                Inventory::read(&cache).unwrap().prune(u64::MAX, false).unwrap();
            }
        });
    });
}

#[test]
fn a_tar_on_standard_input_is_a_source() {
    let world = World::new();
    run("tar", &["-C", &world.text("tree"), "-cf", &world.text("t.tar"), "."]);
    run("gzip", &["-kn", &world.text("t.tar")]);
    let flatten = |source: &str, input: Option<&str>| {
        let stdin = match input {
            Some(file) => {
                let mut cat = Command::new("cat");
                let cat = cat.arg(world.path(file)).stdout(Stdio::piped()).spawn();
                Stdio::from(cat.unwrap().stdout.take().unwrap())
            }
            None => Stdio::null(),
        };
        let output = Command::new(env!("CARGO_BIN_EXE_imgtool"))
            .args(["flatten", source, "--epoch", "0", "-o", &world.text("root.ext4")])
            .env("IMGTOOL_CACHE", world.path("cache"))
            .stdin(stdin)
            .output()
            .unwrap();
        assert_eq!(world.blobs("cache"), [""; 0]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said, fs::read(world.path("root.ext4")).unwrap_or_default())
    };
    for file in ["t.tar", "t.tar.gz"] {
        let (code, said, from_file) = flatten(&format!("tarball:{}", world.text(file)), None);
        assert_eq!(code, Some(0), "{said}");
        let (code, said, image) = flatten("-", Some(file));
        assert_eq!(code, Some(0), "{said}");
        assert!(image == from_file && image.len() > 4096, "{file}");
    }
    let (code, said, _) = flatten("-", None);
    assert!(code == Some(3) && said.contains("standard input: it is empty"), "{said}");
    let (code, said, _) = flatten("-", Some("big"));
    assert!(code == Some(3) && said.contains("neither a tar nor compressed"), "{said}");
}
