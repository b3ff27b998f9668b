//! Images on disk: layouts and archives, and what is wrong with bad ones.

use std::fs;
use std::os::unix::fs::FileExt;

use imgtool::Class;
use imgtool::source::Resolved;

use crate::world::{World, read_all, run};

fn layout(world: &World, pick: &str) -> imgtool::Result<Resolved> {
    world.pull(&format!("oci-layout:{}{pick}", world.text("layout")), "cache")
}

#[test]
fn a_layout_is_what_skopeo_says() {
    let world = World::new();
    let image = format!("oci:{}:1", world.text("layout"));
    let (digest, layers) = world.judge(&image);
    for pick in ["", ":1", &format!("@{digest}")] {
        let resolved = layout(&world, pick).unwrap();
        assert_eq!(resolved.digest, digest);
        let found: Vec<_> = resolved.layers.iter().map(|layer| layer.digest).collect();
        assert_eq!(found, layers);
        assert_eq!(read_all(&resolved).unwrap(), world.contents(&image));
        let config = resolved.config.unwrap();
        assert_eq!((config.user.as_str(), config.workdir.as_str()), ("me:you", "/w"));
        assert_eq!(config.cmd, ["/bin/sh"]);
        assert!(config.env.contains(&"A=1".to_string()));
    }
    // Where there are two images one has to be named.
    let other = format!("{}:2", world.text("layout"));
    run("umoci", &["tag", "--image", &format!("{}:1", world.text("layout")), "2"]);
    run("umoci", &["config", "--image", &other, "--config.env=B=2"]);
    let error = layout(&world, "").unwrap_err();
    assert!(error.hint_text().unwrap().contains("1, 2"), "{error}");
    let error = layout(&world, ":3").unwrap_err();
    assert!(error.to_string().contains("no image tagged \"3\""), "{error}");
    assert!(layout(&world, ":2").is_ok());
}

#[test]
fn archives_are_read_in_place() {
    let world = World::new();
    let from = format!("oci:{}:1", world.text("layout"));
    let contents = world.contents(&from);
    world.copy(&from, &format!("oci-archive:{}:v1", world.text("oci.tar")), &[]);
    world.copy(&from, &format!("docker-archive:{}:app:1", world.text("docker.tar")), &[]);
    for reference in [
        format!("oci-archive:{}", world.text("oci.tar")),
        format!("oci-archive:{}:v1", world.text("oci.tar")),
        format!("docker-archive:{}", world.text("docker.tar")),
        format!("docker-archive:{}:app:1", world.text("docker.tar")),
    ] {
        let resolved = world.pull(&reference, "cache").unwrap();
        assert_eq!(read_all(&resolved).unwrap(), contents, "{reference}");
        assert!(resolved.layers.iter().all(|layer| layer.offset > 0));
        assert_eq!(resolved.config.unwrap().user, "me:you");
        assert_eq!(world.blobs("cache"), [""; 0]);
    }
    let missing = format!("docker-archive:{}:app:2", world.text("docker.tar"));
    let error = world.pull(&missing, "cache").unwrap_err();
    assert!(error.hint_text().unwrap().contains("docker.io/library/app:1"), "{error}");
    // GNU tar packs a layout otherwise than skopeo: with ./ and directories.
    run("tar", &["-C", &world.text("layout"), "-cf", &world.text("gnu.tar"), "."]);
    let resolved = world.pull(&format!("oci-archive:{}", world.text("gnu.tar")), "cache").unwrap();
    assert_eq!(read_all(&resolved).unwrap(), contents);
    run("gzip", &["-1n", &world.text("gnu.tar")]);
    let gzipped = format!("oci-archive:{}", world.text("gnu.tar.gz"));
    let error = world.pull(&gzipped, "cache").unwrap_err();
    assert!(error.to_string().contains("not a plain tar"), "{error}");
    assert!(error.hint_text().unwrap().contains("decompress it"), "{error}");
}

#[test]
fn compressed_layers_of_a_docker_archive_are_checked_by_their_content() {
    let world = World::new();
    let from = format!("oci:{}:1", world.text("layout"));
    world.copy(&from, &format!("docker-archive:{}:app:1", world.text("plain.tar")), &[]);
    fs::create_dir(world.path("open")).unwrap();
    run("tar", &["-C", &world.text("open"), "-xf", &world.text("plain.tar")]);
    let json = fs::read(world.path("open/manifest.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let layer = json[0]["Layers"][0].as_str().unwrap();
    let other = json[0]["Layers"][1].as_str().unwrap();
    let path = |name: &str| world.text(&format!("open/{name}"));
    let pack = |file: &str| {
        run("tar", &["-C", &world.text("open"), "-cf", &world.text(file), "."]);
        world.pull(&format!("docker-archive:{}", world.text(file)), "cache").unwrap()
    };
    run("gzip", &["-1n", &path(layer)]);
    fs::rename(path(&format!("{layer}.gz")), path(layer)).unwrap();
    assert_eq!(read_all(&pack("gzip.tar")).unwrap(), world.contents(&from));
    fs::copy(path(other), path(layer)).unwrap();
    assert_eq!(read_all(&pack("swapped.tar")).unwrap_err().class(), Class::Trust);
    run("gzip", &["-1n", &path(layer)]);
    fs::rename(path(&format!("{layer}.gz")), path(layer)).unwrap();
    assert_eq!(read_all(&pack("swapped-gzip.tar")).unwrap_err().class(), Class::Trust);
}

#[test]
fn damage_is_found_and_named() {
    let world = World::new();
    let good = layout(&world, "").unwrap();
    let layer = &good.layers[1];
    let about = |error: &imgtool::Error| error.to_string().contains(&layer.digest.to_string());
    let file = fs::File::options().read(true).write(true).open(&layer.file).unwrap();

    // A flipped bit in a layer: found when it is read.
    let mut byte = [0];
    file.read_exact_at(&mut byte, layer.bytes / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 1], layer.bytes / 2).unwrap();
    let error = read_all(&layout(&world, "").unwrap()).unwrap_err();
    assert!(error.class() == Class::Trust && about(&error), "{error}");
    file.write_all_at(&byte, layer.bytes / 2).unwrap();

    // A truncated layer, and one that is too long.
    file.set_len(layer.bytes - 1).unwrap();
    let error = layout(&world, "").unwrap_err();
    assert!(error.class() == Class::Input && about(&error), "{error}");
    assert!(error.to_string().contains("is truncated"), "{error}");
    file.set_len(layer.bytes + 1).unwrap();
    assert!(layout(&world, "").unwrap_err().to_string().contains("is too long"));
    fs::remove_file(&layer.file).unwrap();
    let error = layout(&world, "").unwrap_err();
    assert!(error.class() == Class::Input && about(&error), "{error}");

    // A manifest that is not what its name says.
    let manifest = world.path("layout/blobs/sha256").join(good.digest.hex());
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("amd64", "arm64") + " ").unwrap();
    assert_eq!(layout(&world, "").unwrap_err().class(), Class::Trust);

    // No layout at all.
    fs::remove_file(world.path("layout/oci-layout")).unwrap();
    let error = layout(&world, "").unwrap_err();
    assert!(error.class() == Class::Input && error.to_string().contains("oci-layout"), "{error}");
    assert_eq!(world.blobs("cache"), [""; 0]);
}

#[test]
fn an_image_for_another_machine_is_refused() {
    let world = World::new();
    let image = format!("{}:1", world.text("layout"));
    run("umoci", &["config", "--image", &image, "--architecture", "arm64"]);
    let error = layout(&world, ":1").unwrap_err();
    assert_eq!(error.class(), Class::Input);
    assert!(error.to_string().ends_with("it is for linux/arm64; linux/amd64 is wanted"), "{error}");
}
