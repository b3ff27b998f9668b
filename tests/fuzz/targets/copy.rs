//! Any bytes where a guest is to send files: nothing appears or changes outside the place that was
//! chosen.
#![no_main]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let world = World::new();
    let to = world.path.join("to");
    // A magic that is right every time, and names that lead out if anything follows them.
    let mut stream = [&b"imgcopy1"[..], bytes].concat();
    let _ = agent::copy::receive(&to, b"top", false, &mut &stream[..]);
    stream.truncate(stream.len() / 2);
    let _ = agent::copy::receive(&to.join("new"), b"top", true, &mut &stream[..]);
    let mut left: Vec<_> =
        fs::read_dir(&world.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["outside", "to"]);
    let mut outside: Vec<_> =
        fs::read_dir(world.path.join("outside")).unwrap().map(|e| e.unwrap().file_name()).collect();
    outside.sort();
    assert_eq!(outside, ["file"]);
    assert_eq!(fs::read(world.path.join("outside/file")).unwrap(), b"as it was");
});

struct World {
    path: PathBuf,
}

impl World {
    fn new() -> Self {
        // In memory, where there is such a place.
        let parent = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
        let parent = parent.into_iter().find(|dir| dir.is_dir()).unwrap();
        let path = parent.join(format!("fuzz-copy-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("to/top")).unwrap();
        fs::create_dir_all(path.join("outside")).unwrap();
        fs::write(path.join("outside/file"), "as it was").unwrap();
        symlink("../../outside", path.join("to/top/a")).unwrap();
        symlink("../outside/file", path.join("to/b")).unwrap();
        World { path }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
