#!/usr/bin/env python3
"""Makes the inputs of tests/bench/flatten, each once: OCI layouts of one image tagged `bench`.

    inputs.py DIRECTORY

    small-gzip, small-zstd   a Debian of 250 MB in one layer
    layers                   that Debian below seven layers that replace, hide and add: about 1 GB
    tiny                     200,000 files of at most 200 bytes in 2,000 directories

Beside each layout lies NAME.layers: the layers' files, the bottom one first.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

TINY_FILES = 200_000
TINY_FILES_PER_DIRECTORY = 100
# No entry that this program makes up is dated otherwise.
EPOCH = 1_700_000_000

# What the seven layers install. Only their contents count: no package is configured.
PACKAGES = [
    ["gcc-12", "cpp-12", "g++-12", "libc6-dev", "linux-libc-dev", "libgcc-12-dev",
     "libstdc++-12-dev", "binutils-x86-64-linux-gnu", "binutils-common", "libbinutils"],
    ["python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libpython3.11-dev",
     "libpython3.11", "git", "perl-modules-5.36"],
    ["nodejs", "libnode108", "libicu72", "golang-1.19-src"],
    [],
    ["libllvm14", "libllvm15"],
    ["openjdk-17-jre-headless", "libclang-cpp14"],
    [],
]
# Debian's packages still name these directories, which are symlinks in an installed system.
MERGED = ("bin", "sbin", "lib", "lib64")


class Layer:
    """A tar under way; every name once."""

    def __init__(self, path):
        self.path = path
        self.tar = tarfile.open(path + ".part", "w", format=tarfile.PAX_FORMAT)
        self.names = set()

    def add(self, member, content=None):
        if member.name in self.names:
            return
        self.names.add(member.name)
        self.tar.addfile(member, content)

    def file(self, name, content, like=None):
        member = tarfile.TarInfo(name)
        member.mtime, member.size = EPOCH, len(content)
        if like is not None:
            member.mode, member.uid, member.gid = like.mode, like.uid, like.gid
        self.add(member, io.BytesIO(content))

    def link(self, name, target):
        member = tarfile.TarInfo(name)
        member.mtime, member.type, member.linkname = EPOCH, tarfile.LNKTYPE, target
        self.add(member)

    def package(self, deb):
        """Adds a Debian package's content as it lies in a system with a merged /usr."""
        command = ["dpkg-deb", "--fsys-tarfile", deb]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as content:
                for member in content:
                    member.name = merged(member.name)
                    if member.name in ("", *MERGED, *("usr/" + m for m in MERGED)):
                        continue
                    if member.islnk():
                        member.linkname = merged(member.linkname)
                    self.add(member, content.extractfile(member) if member.isreg() else None)
            while process.stdout.read(1 << 20):
                pass  # The padding.
        if process.returncode != 0:
            sys.exit(f"inputs: dpkg-deb fails on {deb}")

    def finish(self):
        self.tar.close()
        os.rename(self.path + ".part", self.path)
        return self.path


def merged(name):
    name = name.removeprefix("./").rstrip("/")
    return "usr/" + name if name.split("/")[0] in MERGED else name.removeprefix(".")


def download(packages, directory):
    """The packages' files, from the mirrors that apt is set up with."""
    os.makedirs(directory, exist_ok=True)
    have = {name.split("_")[0]: name for name in os.listdir(directory) if name.endswith(".deb")}
    missing = [package for package in packages if package not in have]
    if missing:
        wanted = [f"{package}/bookworm" for package in missing]
        command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *wanted]
        subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
        return download(packages, directory)
    return [os.path.join(directory, have[package]) for package in packages]


def base_files(base):
    """The base layer's plain files under /usr by name, in a fixed order."""
    with tarfile.open(base) as tar:
        found = [(member.name.removeprefix("./"), member) for member in tar if member.isreg()]
    return sorted((name, member) for name, member in found if name.startswith("usr/"))


def make_layers(directory, base):
    """The image's tars from the bottom up."""
    paths = [base]
    files = base_files(base)
    for number, packages in enumerate(PACKAGES, 2):
        layer = Layer(os.path.join(directory, f"layer-{number}.tar"))
        paths.append(layer.path)
        for deb in download(packages, os.path.join(directory, "debs")):
            layer.package(deb)
        if number == 3:  # An opaque directory, with something new in it.
            layer.file("usr/share/doc/.wh..wh..opq", b"")
            layer.file("usr/share/doc/README", b"The manuals were removed.\n")
        if number == 5:  # An upgrade: a third of the base's bytes, replaced.
            replace(layer, base, [name for i, (name, _) in enumerate(files) if i % 3 == 0])
        if number == 6:  # Whiteouts of a directory and of many files.
            layer.file("usr/share/.wh.locale", b"")
            for name, member in files:
                if name.startswith(("usr/share/zoneinfo/", "usr/share/man/")):
                    head, tail = os.path.split(name)
                    layer.file(f"{head}/.wh.{tail}", b"")
        if number == 8:  # Another upgrade, partly of what was upgraded, and links downwards.
            upgraded = [name for i, (name, _) in enumerate(files) if i % 7 == 0]
            replace(layer, base, [n for n in upgraded if n.startswith(("usr/lib/", "usr/bin/"))])
            layer.link("usr/bin/bash-again", "usr/bin/bash")
            layer.file("usr/src", b"A file where a directory was.\n")
        layer.finish()
    return paths


def replace(layer, base, names):
    names = set(names)
    with tarfile.open(base) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isreg() and name in names:
                layer.file(name, tar.extractfile(member).read() + b"\n", like=member)


def make_tiny(path):
    layer = Layer(path)
    for number in range(TINY_FILES):
        directory = f"data/{number // TINY_FILES_PER_DIRECTORY:05}"
        if number % TINY_FILES_PER_DIRECTORY == 0:
            for name in ("data", directory):
                member = tarfile.TarInfo(name)
                member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, EPOCH
                layer.add(member)
        text = hashlib.sha256(str(number).encode()).hexdigest() * 4
        layer.file(f"{directory}/file-{number:06}.txt", text[:number % 201].encode())
    return [layer.finish()]


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Layout:
    """An OCI image layout of one image."""

    def __init__(self, path):
        self.path = path
        self.blobs = os.path.join(path, "blobs", "sha256")
        os.makedirs(self.blobs, exist_ok=True)

    def bytes(self, media, content):
        name = hashlib.sha256(content).hexdigest()
        with open(os.path.join(self.blobs, name), "wb") as file:
            file.write(content)
        return {"mediaType": media, "digest": "sha256:" + name, "size": len(content)}

    def layer(self, tar, compression):
        """Compresses and adds a tar: its descriptor and its digest before compression."""
        command = {"gzip": ["gzip", "-n6"], "zstd": ["zstd", "-q3", "--no-progress"]}[compression]
        part = os.path.join(self.blobs, "part")
        with open(tar, "rb") as source, open(part, "wb") as out:
            subprocess.run([*command, "-c"], stdin=source, stdout=out, check=True)
        name = digest_of(part)
        os.rename(part, os.path.join(self.blobs, name))
        size = os.path.getsize(os.path.join(self.blobs, name))
        media = f"application/vnd.oci.image.layer.v1.tar+{compression}"
        return {"mediaType": media, "digest": "sha256:" + name, "size": size}, digest_of(tar)

    def finish(self, layers, differences):
        kind = "application/vnd.oci.image."
        config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {
            "type": "layers", "diff_ids": ["sha256:" + d for d in differences]}}
        config = self.bytes(kind + "config.v1+json", json.dumps(config).encode())
        manifest = {"schemaVersion": 2, "mediaType": kind + "manifest.v1+json",
                    "config": config, "layers": layers}
        manifest = self.bytes(manifest["mediaType"], json.dumps(manifest).encode())
        manifest["annotations"] = {"org.opencontainers.image.ref.name": "bench"}
        manifest["platform"] = {"architecture": "amd64", "os": "linux"}
        # oci2rootfs wants the media type that the specification leaves to the writer.
        index = {"schemaVersion": 2, "mediaType": kind + "index.v1+json", "manifests": [manifest]}
        for name, value in (("oci-layout", {"imageLayoutVersion": "1.0.0"}),
                            ("index.json", index)):
            with open(os.path.join(self.path, name), "w") as file:
                json.dump(value, file)


def image(directory, name, compression, tars):
    """Makes the layout NAME of what `tars()` gives, unless it is there."""
    path = os.path.join(directory, name)
    if os.path.exists(path + ".layers"):
        return
    print(f"inputs: making {name}", file=sys.stderr)
    layout = Layout(path)
    packed = [layout.layer(tar, compression) for tar in tars()]
    layout.finish([layer for layer, _ in packed], [difference for _, difference in packed])
    files = [os.path.join(layout.blobs, layer["digest"][7:]) for layer, _ in packed]
    with open(path + ".layers.part", "w") as file:
        file.write("".join(f + "\n" for f in files))
    os.rename(path + ".layers.part", path + ".layers")


def main():
    directory = os.path.abspath(sys.argv[1])
    base = os.path.join(directory, "small.tar")
    if not os.path.exists(base):
        print("inputs: bootstrapping a Debian", file=sys.stderr)
        part = os.path.join(directory, "small.part.tar")
        command = ["mmdebstrap", "--quiet", "--variant=important", "bookworm", part]
        environment = dict(os.environ, SOURCE_DATE_EPOCH=str(EPOCH))
        subprocess.run(command, check=True, env=environment)
        os.rename(part, base)
    image(directory, "small-gzip", "gzip", lambda: [base])
    image(directory, "small-zstd", "zstd", lambda: [base])
    image(directory, "tiny", "gzip", lambda: [make_tiny(os.path.join(directory, "tiny.tar"))[0]])
    image(directory, "layers", "gzip", lambda: make_layers(directory, base))


main()
