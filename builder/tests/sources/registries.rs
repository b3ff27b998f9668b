//! Pulls from a real registry.

use std::fs;
use std::sync::{Arc, Mutex};

use imgtool::Class;
use imgtool::source::Compression;

use crate::proxy::{Fault, Proxy, Tokens};
use crate::world::{PASSWORD, USER, World, free_port, read_all};

#[test]
fn a_pull_is_what_skopeo_says_and_is_cached() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let port = registry.port;
    let image = format!("docker://127.0.0.1:{port}/app:1");
    let (digest, layers) = world.judge(&image);
    let resolved = world.pull(&format!("127.0.0.1:{port}/app:1"), "cache").unwrap();
    assert_eq!(resolved.digest, digest);
    assert_eq!(resolved.layers.iter().map(|l| l.digest).collect::<Vec<_>>(), layers);
    assert_eq!(read_all(&resolved).unwrap(), world.contents(&image));
    world.assert_cache_is_right("cache");
    // Two layers, a manifest, a configuration.
    assert_eq!(world.blobs("cache").len(), 4);

    // Pinned, it needs no registry any more.
    drop(registry);
    let pinned = format!("127.0.0.1:{port}/app:1@{digest}");
    assert_eq!(world.pull(&pinned, "cache").unwrap().digest, digest);
    let error = world.pull(&pinned, "empty").unwrap_err();
    assert_eq!(error.class(), Class::Network);
    assert!(error.to_string().contains("onnection refused"), "{error}");
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let reference = format!("127.0.0.1:{}/app:1", registry.port);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| read_all(&world.pull(&reference, "cache").unwrap()).unwrap());
        }
    });
    assert_eq!(world.blobs("cache").len(), 4);
    world.assert_cache_is_right("cache");
}

#[test]
fn docker_manifests_and_zstd_layers_are_read() {
    let world = World::new();
    let from = format!("oci:{}:1", world.text("layout"));
    let zstd = ["--format=oci", "--dest-compress", "--dest-compress-format=zstd"];
    let forms: [(&str, &[&str]); 2] = [("v2s2", &["--format=v2s2"]), ("zstd", &zstd)];
    for (tag, options) in forms {
        // One each: skopeo takes a gzip layer that is there for the zstd one that is not.
        let registry = world.empty_registry(tag, false);
        let image = format!("127.0.0.1:{}/app:{tag}", registry.port);
        let to = format!("docker://{image}");
        // In steps: an old skopeo compresses anew only what is plain, and only into a directory.
        let place = |form: &str| format!("dir:{}", world.text(&format!("{tag}-{form}")));
        world.copy(&from, &place("plain"), &["--dest-decompress"]);
        world.copy(&place("plain"), &place("packed"), options);
        world.copy(&place("packed"), &to, &[]);
        let resolved = world.pull(&image, "cache").unwrap();
        assert_eq!(resolved.digest, world.judge(&to).0, "{tag}");
        assert_eq!(read_all(&resolved).unwrap(), world.contents(&from), "{tag}");
        let compression = resolved.layers[0].compression().unwrap();
        assert_eq!(compression == Compression::Zstd, tag == "zstd", "{tag}: {compression:?}");
    }
}

#[test]
fn an_index_gives_the_image_for_the_machine() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let base = format!("127.0.0.1:{}/app", registry.port);
    let (digest, _) = world.judge(&format!("docker://{base}:1"));
    let manifest = world.pull(&format!("{base}:1"), "cache").unwrap();
    let size = fs::metadata(world.path("cache/blobs/sha256").join(manifest.digest.hex())).unwrap();
    let entry = |arch: &str, os: &str| {
        let size = size.len();
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}",
            "size":{size},"platform":{{"architecture":"{arch}","os":"{os}"}}}}"#
        )
    };
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = |entries: &[String]| {
        let entries = entries.join(",");
        format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{entries}]}}"#)
    };
    let both = [entry("unknown", "unknown"), entry("arm64", "linux"), entry("amd64", "linux")];
    registry.put_manifest("app", "index", media_type, &index(&both));
    assert_eq!(world.pull(&format!("{base}:index"), "cache").unwrap().digest, digest);
    registry.put_manifest("app", "arm", media_type, &index(&both[..2]));
    let error = world.pull(&format!("{base}:arm"), "cache").unwrap_err();
    assert_eq!(error.class(), Class::Input);
    let text = error.to_string();
    assert!(text.ends_with("no image for linux/amd64; there are: linux/arm64"), "{text}");
}

#[test]
fn what_is_not_there_is_said_not_to_be_there() {
    let world = World::new();
    let registry = world.registry("storage", false);
    for name in ["app:2", "other:1", &format!("app@sha256:{}", "0".repeat(64))] {
        let reference = format!("127.0.0.1:{}/{name}", registry.port);
        let error = world.pull(&reference, "cache").unwrap_err();
        assert_eq!(error.class(), Class::Input, "{error}");
        let text = error.to_string();
        assert!(text.starts_with(&reference) && text.contains("no such image (404)"), "{text}");
    }
    let nobody = format!("127.0.0.1:{}/app:1", free_port());
    assert_eq!(world.pull(&nobody, "cache").unwrap_err().class(), Class::Network);
    assert_eq!(world.blobs("cache"), [""; 0]);
}

#[test]
fn a_log_in_is_used_where_it_is_for() {
    let world = World::new();
    let registry = world.registry("storage", true);
    let host = format!("127.0.0.1:{}", registry.port);
    let reference = format!("{host}/app:1");
    let right = world.credentials(&host, USER, PASSWORD);
    assert_eq!(world.pull_as(&reference, "cache", &right).unwrap().layers.len(), 2);
    let error = world.pull(&reference, "other").unwrap_err();
    assert_eq!(error.class(), Class::Input);
    assert!(error.hint_text().unwrap().contains("skopeo login"), "{error}");
    let wrong = world.credentials(&host, USER, "wrong");
    let error = world.pull_as(&reference, "other", &wrong).unwrap_err();
    assert!(error.to_string().contains("access is denied (401)"), "{error}");
    let elsewhere = world.credentials("127.0.0.1:1", USER, PASSWORD);
    assert!(world.pull_as(&reference, "other", &elsewhere).is_err());
    assert_eq!(world.blobs("other"), [""; 0]);
}

#[test]
fn a_log_in_does_not_follow_to_another_host() {
    let world = World::new();
    let open = world.registry("storage", false);
    let closed = world.registry("storage", true);
    let elsewhere = Proxy::new(open.port, "none", &[]);
    let to = |digest: &str| {
        let port = elsewhere.port;
        let place = format!("Location: http://127.0.0.1:{port}/v2/app/blobs/{digest}\r\n");
        Fault::Answer("307 Temporary Redirect", place)
    };
    let (_, layers) = world.judge(&format!("docker://127.0.0.1:{}/app:1", open.port));
    let layer = layers[1].to_string();
    let here = Proxy::new(closed.port, &layer, &[to(&layer)]);
    let host = format!("127.0.0.1:{}", here.port);
    let login = world.credentials(&host, USER, PASSWORD);
    let resolved = world.pull_as(&format!("{host}/app:1"), "cache", &login).unwrap();
    assert!(read_all(&resolved).is_ok());
    assert!(here.requests(&layer).iter().any(|request| request.authorization.is_some()));
    let sent_on = elsewhere.requests(&layer);
    assert_eq!(sent_on.len(), 1);
    assert_eq!(sent_on[0].authorization, None);

    // Nor does anything follow to a place without https, or round and round.
    let bad = [
        "Location: http://r.invalid/v2/app/blobs/x\r\n".to_string(),
        format!("Location: /v2/app/blobs/{layer}\r\n"),
    ];
    for location in bad {
        let loops = vec![Fault::Answer("307 Temporary Redirect", location); 100];
        let here = Proxy::new(open.port, &layer, &loops);
        let error = world.pull(&format!("127.0.0.1:{}/app:1", here.port), "other").unwrap_err();
        assert!(error.to_string().contains("it sends us on"), "{error}");
        world.assert_cache_is_right("other");
    }
}

#[test]
fn a_token_is_fetched_and_fetched_again() {
    let world = World::new();
    let registry = world.registry("storage", false);
    let tokens = Tokens { token: Arc::new(Mutex::new("first".to_string())) };
    let proxy = Proxy::with_tokens(registry.port, tokens.clone());
    let host = format!("127.0.0.1:{}", proxy.port);
    let reference = format!("{host}/app:1");
    assert!(world.pull(&reference, "cache").is_ok());
    let asked = proxy.requests("/token");
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].path, "/token?service=test&scope=repository%3Aapp%3Apull");
    assert_eq!(asked[0].authorization, None);
    // With a log-in the token server hears it, and the registry only ever the token.
    let login = world.credentials(&host, USER, PASSWORD);
    assert!(world.pull_as(&reference, "other", &login).is_ok());
    let asked = proxy.requests("/token");
    assert!(asked[1].authorization.as_ref().unwrap().starts_with("Basic "));
    let heard = proxy.requests("/v2/");
    assert!(heard.iter().all(|r| r.authorization.as_ref().is_none_or(|a| a == "Bearer first")));
    // An empty token is an error, not a loop.
    *tokens.token.lock().unwrap() = String::new();
    let error = world.pull(&reference, "third").unwrap_err();
    assert!(error.to_string().contains("it gave no token"), "{error}");
}
