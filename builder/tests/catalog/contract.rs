//! One contract for all stores, on real servers.

use std::fs;
use std::path::Path;
use std::sync::Barrier;

use imgrun::depot::{Depot, Http, open_bucket};
use imgrun::{Class, Progress, Unit};
use imgtool::depot::probe::{Verdict, probe};
use imgtool::depot::{self, Artifacts, Body, Bucket, Login, Put, Writable};

use imgtool::oci::{Access, Registries};

use crate::servers::{LOGIN, Server};
use crate::world::{World, finish};

fn bucket(server: &Server) -> Bucket {
    let [(_, id), (_, secret)] = LOGIN;
    let login = Login { id: id.to_string(), secret: secret.to_string() };
    Bucket::new(&server.bucket("images"), Some(login)).unwrap()
}

fn read(depot: &dyn Depot, key: &str, range: std::ops::Range<u64>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let n = depot.read(key, range, &mut bytes).unwrap()?;
    assert_eq!(n, bytes.len() as u64);
    Some(bytes)
}

/// What everybody may rely on who reads.
fn reads(depot: &dyn Depot, key: &str, content: &[u8]) {
    let size = content.len() as u64;
    assert_eq!(depot.size(key).unwrap(), Some(size));
    assert_eq!(read(depot, key, 0..size).unwrap(), content);
    assert_eq!(read(depot, key, 0..size + 100).unwrap(), content);
    assert_eq!(read(depot, key, 0..3).unwrap(), &content[..3]);
    assert_eq!(read(depot, key, 2..5).unwrap(), &content[2..5]);
    assert_eq!(read(depot, key, size - 1..size + 9).unwrap(), &content[content.len() - 1..]);
    assert_eq!(depot.get(key, size).unwrap().unwrap(), content);
    let error = depot.get(key, size - 1).unwrap_err();
    assert_eq!(error.class(), Class::Trust, "{error}");
    for absent in ["targets/none", "none/at/all"] {
        assert_eq!(read(depot, absent, 0..10), None);
        assert_eq!(depot.size(absent).unwrap(), None);
        assert_eq!(depot.get(absent, 10).unwrap(), None);
    }
    for wrong in ["../up", "/root", "a//b", "a/../b", "", "a b", ".hidden", "ä"] {
        assert!(depot.size(wrong).is_err(), "{wrong:?}");
    }
}

/// What everybody may rely on who writes; `exclusive` depots promise more.
fn writes(world: &World, depot: &dyn Writable, exclusive: bool) {
    let key = "targets/one+two~3.json";
    assert_eq!(depot.list("targets/").unwrap(), []);
    assert_eq!(depot.put_new(key, Body::Bytes(b"0123456789")).unwrap(), Put::Created);
    reads(depot, key, b"0123456789");
    if exclusive {
        assert_eq!(depot.put_new(key, Body::Bytes(b"other")).unwrap(), Put::Exists);
        reads(depot, key, b"0123456789");
        assert_eq!(probe(depot).unwrap(), Verdict::Exclusive);
        contended(depot);
    }
    // More than one part of a multipart upload, which takes 16 MiB parts.
    let big: Vec<u8> =
        (0..40_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let path = world.path("big");
    fs::write(&path, &big).unwrap();
    let stage = Progress::silent().stage("big", Unit::Bytes, None);
    let body = Body::File { path: &path, size: big.len() as u64, stage: &stage };
    assert_eq!(depot.put_new("targets/big", body).unwrap(), Put::Created);
    assert_eq!(depot.put_new("targets/big", body).unwrap(), Put::Exists);
    assert!(read(depot, "targets/big", 0..big.len() as u64).unwrap() == big);
    let middle = 20_000_000..20_000_100;
    assert_eq!(read(depot, "targets/big", middle.clone()).unwrap(), &big[20_000_000..20_000_100]);

    depot.replace("metadata/timestamp.json", b"1").unwrap();
    depot.replace("metadata/timestamp.json", b"22").unwrap();
    assert_eq!(depot.get("metadata/timestamp.json", 9).unwrap().unwrap(), b"22");
    let listed = depot.list("targets/").unwrap();
    let found: Vec<_> = listed.iter().map(|l| (l.key.as_str(), l.size)).collect();
    assert_eq!(found, [("targets/big", big.len() as u64), (key, 10)]);
    assert!(listed.iter().all(|l| l.modified > 1_700_000_000));
    depot.delete("targets/big").unwrap();
    depot.delete("targets/big").unwrap();
    assert_eq!(depot.size("targets/big").unwrap(), None);
    assert_eq!(depot.sweep(0).unwrap(), 0);
}

/// Many threads create the same key with bytes of their own: one wins, and its bytes are there.
fn contended(depot: &dyn Writable) {
    for round in 0..5 {
        let key = format!("metadata/{round}.json");
        let barrier = Barrier::new(8);
        let winners: Vec<u8> = std::thread::scope(|threads| {
            let put = |n: u8| {
                let (key, barrier) = (&key, &barrier);
                threads.spawn(move || {
                    barrier.wait();
                    depot.put_new(key, Body::Bytes(&[n; 1000])).unwrap() == Put::Created
                })
            };
            let threads: Vec<_> = (0..8).map(|n| (n, put(n))).collect();
            threads.into_iter().filter_map(|(n, t)| t.join().unwrap().then_some(n)).collect()
        });
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(depot.get(&key, 1000).unwrap().unwrap(), [winners[0]; 1000]);
    }
}

#[test]
fn a_directory_keeps_the_contract() {
    let world = World::new();
    let depot = depot::open(&world.store("s")).unwrap();
    writes(&world, depot.as_ref(), true);
    let drafts = fs::read_dir(world.path("s/targets")).unwrap().flatten();
    let drafts: Vec<_> =
        drafts.filter(|d| d.file_name().to_string_lossy().starts_with('.')).collect();
    assert_eq!(drafts.len(), 0);
}

#[test]
fn a_web_server_keeps_the_reading_half() {
    let world = World::new();
    let depot = depot::open(&world.store("s")).unwrap();
    depot.put_new("targets/one+two~3.json", Body::Bytes(b"0123456789")).unwrap();
    let server = Server::web(&world.path("s"));
    let http = Http::new(&format!("http://127.0.0.1:{}/", server.port)).unwrap();
    reads(&http, "targets/one+two~3.json", b"0123456789");
    drop(server);
    let error = http.size("targets/one").unwrap_err();
    assert_eq!(error.class(), Class::Network, "{error}");
}

/// Hosts read buckets without AWS's library. No server here compares signatures: those are judged by
/// the example in AWS's documentation (imgrun's unit tests).
#[test]
fn a_host_reads_a_bucket() {
    let world = World::new();
    for server in [Server::moto(), Server::s3rver(&world.path("buckets"))] {
        server.make_bucket("images");
        let key = "targets/one+two~3.json";
        bucket(&server).put_new(key, Body::Bytes(b"0123456789")).unwrap();
        let [(_, id), (_, secret)] = LOGIN;
        let login = |secret: &str| Login { id: id.to_string(), secret: secret.to_string() };
        let address = server.bucket("images");
        reads(&open_bucket(&address, Some(login(secret))).unwrap(), key, b"0123456789");
    }
    let server = Server::s3rver(&world.path("more"));
    server.make_bucket("images");
    let wrong = Login { id: "nobody".to_string(), secret: "wrong".to_string() };
    let error =
        open_bucket(&server.bucket("images"), Some(wrong)).unwrap().get("a", 9).unwrap_err();
    assert_eq!(error.class(), Class::Host, "{error}");
    assert!(error.to_string().ends_with("InvalidAccessKeyId"), "{error}");
}

#[test]
fn a_bucket_keeps_the_contract() {
    let (world, server) = (World::new(), Server::moto());
    server.make_bucket("images");
    writes(&world, &bucket(&server), true);
}

/// A real store, whose quirks are its own: entity tags that match without their quotes only, parts
/// that ignore conditions. None of that is relied on.
#[test]
fn a_ceph_gateway_keeps_the_contract_and_loses_nothing() {
    let world = World::new();
    let server = Server::ceph(&world.path("ceph"));
    server.make_bucket("images");
    writes(&world, &bucket(&server), true);
    assert_eq!(probe(&bucket(&server)).unwrap(), Verdict::Exclusive);
    server.make_bucket("race");
    crate::races::race(&world, &server.bucket("race"), 1, &LOGIN);
}

/// s3rver takes `If-None-Match: *` and overwrites.
#[test]
fn a_bucket_that_overwrites_is_refused_unless_there_is_one_writer() {
    let world = World::new();
    let server = Server::s3rver(&world.path("buckets"));
    server.make_bucket("images");
    let depot = bucket(&server);
    assert!(matches!(probe(&depot).unwrap(), Verdict::Broken(_)));
    assert_eq!(depot.list("probe/").unwrap(), [], "it cleans up");
    let store = server.bucket("images");
    let imgtool = |args: &[&str]| finish(world.command().args(args).envs(LOGIN));
    imgtool(&["key", "new", "me", "--no-passphrase"]).ok();
    let init = ["catalog", "init", &store, "--key", "me"];
    imgtool(&init).fails(6, "several publishers can not share this store: it overwrites");
    imgtool(&[&init[..], &["--single-writer"]].concat()).ok();
    let kernel = world.kernel("linux", "6.1");
    let publish = ["publish", kernel.to_str().unwrap(), "--to", &store, "--untested"];
    imgtool(&publish).fails(6, "--single-writer");
    imgtool(&[&publish[..], &["--single-writer"]].concat()).ok();
    imgtool(&["catalog", "verify", &store, "--deep"]).ok();
}

/// Keys also come from a section of AWS's own files. s3rver knows one key only.
#[test]
fn a_profile_says_who_one_is() {
    let world = World::new();
    let server = Server::s3rver(&world.path("buckets"));
    server.make_bucket("images");
    let [(_, id), (_, secret)] = LOGIN;
    let section = |name: &str, id: &str| {
        format!("[{name}]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n")
    };
    let credentials = world.path("credentials");
    fs::write(&credentials, section("house", id) + &section("other", "nobody")).unwrap();
    world.imgtool(["key", "new", "me", "--no-passphrase"]).ok();
    let init = |profile: &str| {
        let store = format!("{}&profile={profile}", server.bucket("images"));
        let mut command = world.command();
        command.args(["catalog", "init", &store, "--key", "me", "--single-writer"]);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command.env("AWS_SHARED_CREDENTIALS_FILE", &credentials);
        command.env("AWS_CONFIG_FILE", world.path("none"));
        finish(&mut command)
    };
    assert!(!init("other").output.status.success());
    init("house").ok();
}

/// What looks right to one writer and loses a race of many is found out, too.
/// (s3s-fs 0.14.1 is such a server, and by hand it was refused five times of five: 4 to 8 of 12 were
/// told that they won. It takes minutes to compile, so moto stands in.)
#[test]
fn a_bucket_that_loses_races_is_refused() {
    let server = Server::racy();
    server.make_bucket("images");
    let depot = bucket(&server);
    let verdict = probe(&depot).unwrap();
    let Verdict::Broken(why) = verdict else { panic!("{verdict:?}") };
    assert!(why.starts_with("of 12 who create a file at once"), "{why}");
    assert_eq!(depot.list("probe/").unwrap(), [], "it cleans up");
}

#[test]
fn a_registry_keeps_the_contract_but_for_one_writer() {
    let world = World::new();
    let server = Server::registry(&world.path("registry"));
    let address = format!("oci://127.0.0.1:{}/images", server.port);
    let depot = Artifacts::open(&address, &Access::default()).unwrap();
    writes(&world, &depot, false);
    assert!(matches!(probe(&depot).unwrap(), Verdict::Broken(_)));
    // As a host reads it: through a mirror, and from the registry itself.
    let mirror = Server::registry(&world.path("registry"));
    let registries = format!(
        "[host.\"127.0.0.1:{}\"]\nmirrors = [\"127.0.0.1:{}\"]\n",
        server.port, mirror.port
    );
    let registries = Registries::parse(&registries, Path::new("registries.toml")).unwrap();
    let access = Access { registries, ..Access::default() };
    depot.put_new("targets/read", Body::Bytes(b"0123456789")).unwrap();
    let ways = imgrun::depot::Artifacts::ways(&address, &access).unwrap();
    let titles: Vec<String> = ways.iter().map(|way| way.title()).collect();
    assert_eq!(titles, [format!("{address} by 127.0.0.1:{}", mirror.port), address]);
    for way in &ways {
        reads(way, "targets/read", b"0123456789");
        assert!(way.sends_parts());
    }
}

/// An upload that was cut goes on: it is completed, and no second one is begun. (Parts that are there
/// are sent again here: moto's list of parts is not as S3's, and the SDK does not read it.)
#[test]
fn a_cut_upload_goes_on_and_an_abandoned_one_is_swept() {
    let (world, server) = (World::new(), Server::moto());
    server.make_bucket("images");
    let depot = bucket(&server);
    let path = world.path("big");
    let size = 40 << 20;
    fs::write(&path, vec![b'r'; size]).unwrap();
    let begin = |key: &str| {
        server.python(
            "s3.upload_part(Bucket='images', Key=sys.argv[2], PartNumber=1, Body=b'w' * (16 << 20), \
             UploadId=s3.create_multipart_upload(Bucket='images', Key=sys.argv[2])['UploadId'])",
            &format!("catalog/{key}"),
        );
    };
    begin("targets/cut");
    begin("targets/abandoned");
    let stage = Progress::silent().stage("big", Unit::Bytes, None);
    let body = Body::File { path: &path, size: size as u64, stage: &stage };
    assert_eq!(depot.put_new("targets/cut", body).unwrap(), Put::Created);
    let there = read(&depot, "targets/cut", 0..size as u64).unwrap();
    assert!(there == vec![b'r'; size]);
    assert_eq!(depot.sweep(0).unwrap(), 1, "the abandoned one only");
    assert_eq!(depot.sweep(0).unwrap(), 0);
}
