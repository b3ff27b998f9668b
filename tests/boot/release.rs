//! The steps of `action.yml`, run here: a recipe is built, tested in a machine and published to a
//! bucket and to a registry.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use imgtool_tests::{Outcome, World, finish, program, repository};

/// A server has this long to take its first connection; the machine may be busy.
const START_MAX: Duration = Duration::from_secs(60);
const LOGIN: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];

/// A server, killed when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn serve(port: u16, command: &mut Command) -> Server {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child =
        command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}: run tests/setup tests"));
    let mut server = Server(child);
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < START_MAX, "{command:?} does not start");
        assert_eq!(server.0.try_wait().unwrap(), None, "{command:?} ended");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

fn python(name: &str) -> PathBuf {
    repository().join("target/judges/python/bin").join(name)
}

/// moto's bucket server with a bucket, and the bucket's address.
fn bucket(world: &World) -> (Server, String) {
    let port = free_port();
    let mut command = Command::new(python("python"));
    command.arg(repository().join("tests/judge/moto")).arg(port.to_string());
    let server = serve(port, &mut command);
    let endpoint = format!("http://127.0.0.1:{port}");
    let script = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1], \
                  region_name='us-east-1').create_bucket(Bucket='images')";
    let mut make = world.command(python("python"));
    make.args(["-c", script, &endpoint]).envs(LOGIN);
    finish(make).ok();
    (server, format!("s3://images/catalog?endpoint={endpoint}&region=us-east-1"))
}

/// Debian's registry, and a repository's address there.
fn registry(world: &World) -> (Server, String) {
    let port = free_port();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
         http:\n  addr: 127.0.0.1:{port}\n",
        world.path("registry").display()
    );
    let config = world.write("registry.yml", config);
    let server = serve(port, Command::new("docker-registry").arg("serve").arg(config));
    (server, format!("oci://127.0.0.1:{port}/images"))
}

/// As on a fresh machine: nothing but what the environment says.
fn clean(world: &World, mut command: Command, home: &str) -> Command {
    for name in ["IMGTOOL_KEYS", "IMGTOOL_STATE", "IMGTOOL_ROOT", "IMGTOOL_SIGNING_KEYS"] {
        command.env_remove(name);
    }
    command
        .env("XDG_CONFIG_HOME", world.path(home).join("config"))
        .env("XDG_STATE_HOME", world.path(home).join("state"))
        .env("IMGTOOL_KEY_PASSPHRASE", "")
        .env("IMGTOOL_PAUSE", "0")
        .envs(LOGIN);
    command
}

fn imgtool(world: &World, args: &[&str]) -> Outcome {
    let mut command = clean(world, world.command(program("imgtool")), "owner");
    command.args(args);
    finish(command)
}

fn action(world: &World, home: &str, inputs: &[&str], more: &[(&str, &str)]) -> Outcome {
    let mut command = clean(world, world.command(python("python")), home);
    let programs = program("imgtool").parent().unwrap().to_path_buf();
    command.arg(repository().join("tests/judge/action.py")).arg(repository().join("action.yml"));
    command.args(inputs).env("IMGTOOL_PROGRAMS", programs).envs(more.iter().copied());
    finish(command)
}

#[test]
fn the_actions_steps_publish_to_a_bucket_and_to_a_registry() {
    let world = World::new();
    for name in ["release", "tester"] {
        imgtool(&world, &["key", "new", name, "--no-passphrase"]).ok();
    }
    let keys = world.path("owner/config/imgtool/keys");
    let key = |file: &str| fs::read_to_string(keys.join(file)).unwrap();
    let (release, tester) = (key("release.pem"), key("tester.pem"));

    // One machine builds and tests, with a key that lists nothing.
    let recipe = format!("recipe={}", repository().join("recipes/debian-minimal.toml").display());
    let signing = [("IMGTOOL_SIGNING_KEYS", tester.as_str())];
    let built = action(&world, "builder", &[&recipe, "arch=x86_64"], &signing).ok();
    let outputs: serde_json::Value =
        serde_json::from_str(built.text().lines().last().unwrap()).unwrap();
    let image = outputs["image"].as_str().unwrap();
    let sbom = fs::read(world.path(outputs["sbom"].as_str().unwrap())).unwrap();
    let sbom: serde_json::Value = serde_json::from_slice(&sbom).unwrap();
    assert_eq!(sbom["spdxVersion"], "SPDX-2.3");
    assert!(world.path(format!("{image}.test.json")).exists());

    // Another publishes what the first has made, to whoever listens.
    let ((_bucket, s3), (_registry, oci)) = (bucket(&world), registry(&world));
    for (store, single) in [(&s3, "false"), (&oci, "true")] {
        let mut init = vec!["catalog", "init", store, "--key", "release"];
        init.extend(Some("--single-writer").filter(|_| single == "true"));
        imgtool(&world, &init).ok();
        let home = format!("publisher-{single}");
        let inputs = [
            format!("store={store}"),
            "root=root.json".to_string(),
            format!("single-writer={single}"),
        ];
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let signing = ("IMGTOOL_SIGNING_KEYS", release.as_str());
        // A test counts only where the publisher knows who made it.
        action(&world, &home, &inputs, &[signing]).fails(4, "no known key");
        let public = key("tester.json");
        action(&world, &home, &inputs, &[signing, ("IMGTOOL_TESTER", &public)]).ok();
        imgtool(&world, &["catalog", "verify", store, "--deep"]).ok();
        let shown = imgtool(&world, &["catalog", "show", store, "--json"]).ok().text();
        assert_eq!(shown.matches("\"tested\":true").count(), 2, "{shown}");
        fs::remove_file(world.path("root.json")).unwrap();
    }

    // A store that is away is tried again, then given up.
    let gone = format!("store=s3://images/x?endpoint=http://127.0.0.1:{}", free_port());
    let outcome = action(&world, "gone", &[&gone, "untested=true"], &[]);
    assert_eq!(outcome.code, Some(5), "{outcome:#?}");
    assert_eq!(outcome.stderr.matches("once more in 0 s").count(), 1, "{outcome:#?}");
}
