//! What networks and servers do: the pull is right, or ends with an error that says why, and no
//! cache ever holds a wrong blob.

use std::time::{Duration, Instant};

use imgtool::source::Resolved;
use imgtool::{Class, Result};

use crate::proxy::{Fault, Proxy};
use crate::world::{BIG_BYTES, Registry, World, read_all};

struct Setting {
    world: World,
    registry: Registry,
    layer: String,
}

impl Setting {
    fn new() -> Setting {
        let world = World::new();
        let registry = world.registry("storage", false);
        let (_, layers) = world.judge(&format!("docker://127.0.0.1:{}/app:1", registry.port));
        Setting { world, registry, layer: layers[1].to_string() }
    }

    /// Pulls while these faults happen to the big layer.
    fn pull(&self, cache: &str, faults: &[Fault]) -> (Result<Resolved>, Proxy) {
        self.pull_with(cache, &self.layer, faults)
    }

    fn pull_with(&self, cache: &str, part: &str, faults: &[Fault]) -> (Result<Resolved>, Proxy) {
        let proxy = Proxy::new(self.registry.port, part, faults);
        let result = self.world.pull(&format!("127.0.0.1:{}/app:1", proxy.port), cache);
        self.world.assert_cache_is_right(cache);
        (result, proxy)
    }
}

#[test]
fn a_cut_download_goes_on_where_it_ended() {
    let setting = Setting::new();
    let cuts = [Fault::Cut(2_000_000), Fault::Cut(1_500_000), Fault::Cut(0)];
    let (result, proxy) = setting.pull("cache", &cuts);
    assert!(read_all(&result.unwrap()).is_ok());
    let ranges: Vec<_> = proxy.requests(&setting.layer).into_iter().map(|r| r.range).collect();
    let from = |bytes: u64| Some(format!("bytes={bytes}-"));
    assert_eq!(ranges, [None, from(2_000_000), from(3_500_000), from(3_500_000)]);
}

#[test]
fn servers_that_fail_for_a_while_are_asked_again() {
    let setting = Setting::new();
    let answer = |status, headers: &str| Fault::Answer(status, headers.to_string());
    let faults = [
        answer("429 Too Many Requests", "Retry-After: 2\r\n"),
        answer("500 Internal Server Error", ""),
        answer("503 Service Unavailable", "Retry-After: 1\r\n"),
    ];
    let began = Instant::now();
    let (result, proxy) = setting.pull("cache", &faults);
    assert!(read_all(&result.unwrap()).is_ok());
    assert_eq!(proxy.faults_left(), 0);
    // Two seconds, our own one, one second.
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());

    // The manifest too, and not for ever.
    let fails = [answer("502 Bad Gateway", "")];
    let (result, _) = setting.pull_with("other", "/manifests/", &fails);
    assert!(result.is_ok());
    let long = [answer("429 Too Many Requests", "Retry-After: 86400\r\n")];
    let (result, proxy) = setting.pull("third", &long);
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Network);
    assert!(error.to_string().contains("the server wants us back in 86400 s"), "{error}");
    assert_eq!(proxy.requests(&setting.layer).len(), 1);
}

#[test]
fn lies_about_lengths_and_ranges_are_not_believed() {
    let setting = Setting::new();
    let cut = Fault::Cut(3_000_000);
    let table = [
        // What was offered is too long or too short: nothing of it is taken.
        (vec![Fault::Longer(10)], 2),
        (vec![Fault::Shorter(1)], 2),
        // The rest was asked for and the whole comes: taken from its beginning.
        (vec![cut.clone(), Fault::Whole], 2),
        // The rest was asked for and another part comes: from the beginning again.
        (vec![cut.clone(), Fault::OtherRange], 3),
        (vec![cut.clone(), Fault::Shorter(5), cut, Fault::Whole], 4),
    ];
    for (i, (faults, requests)) in table.into_iter().enumerate() {
        let (result, proxy) = setting.pull(&format!("cache{i}"), &faults);
        assert!(read_all(&result.unwrap()).is_ok(), "{faults:?}");
        assert_eq!(proxy.faults_left(), 0, "{faults:?}");
        assert_eq!(proxy.requests(&setting.layer).len(), requests, "{faults:?}");
    }
}

#[test]
fn a_wrong_byte_is_an_error_and_never_in_the_cache() {
    let setting = Setting::new();
    let (result, _) = setting.pull("cache", &[Fault::Flip]);
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Trust);
    assert!(error.to_string().contains(" layer 2 (sha256:"), "{error}");
    assert!(!setting.world.blobs("cache").iter().any(|name| setting.layer.ends_with(name)));
    // In the half that comes after a cut as well.
    let (result, _) = setting.pull("cache", &[Fault::Cut(BIG_BYTES / 2), Fault::Flip]);
    assert_eq!(result.unwrap_err().class(), Class::Trust);
    // And in the manifest, where the reference has a digest.
    let (right, _) = setting.pull("right", &[]);
    let digest = right.unwrap().digest;
    let proxy = Proxy::new(setting.registry.port, "/manifests/", &[Fault::Flip]);
    let pinned = format!("127.0.0.1:{}/app@{digest}", proxy.port);
    assert_eq!(setting.world.pull(&pinned, "other").unwrap_err().class(), Class::Trust);
    assert_eq!(setting.world.blobs("other"), [""; 0]);
    // The next pull into the same cache is right.
    let (result, _) = setting.pull("cache", &[]);
    assert!(read_all(&result.unwrap()).is_ok());
}

#[test]
fn bodies_without_an_end_are_not_read_to_the_end() {
    let setting = Setting::new();
    let began = Instant::now();
    let (result, _) = setting.pull_with("cache", "/manifests/", &[Fault::Endless]);
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Network);
    assert!(error.to_string().contains("more than 4194304 bytes"), "{error}");
    let (result, _) = setting.pull("cache", &[Fault::Endless]);
    assert_eq!(result.unwrap_err().class(), Class::Trust);
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_server_that_only_ever_fails_is_given_up() {
    let setting = Setting::new();
    let faults = vec![Fault::Cut(10); 50];
    let (result, proxy) = setting.pull("cache", &faults);
    let error = result.unwrap_err();
    assert_eq!(error.class(), Class::Network);
    assert!(error.to_string().contains("gave up after 6 tries"), "{error}");
    assert_eq!(proxy.requests(&setting.layer).len(), 6);
    assert!(setting.world.blobs("cache").iter().all(|name| !name.starts_with('.')));
}
