//! The generic kernel runs containers and what they are made with, judged by Debian's own programs
//! in the guest.

use imgtool_tests::World;

use crate::image_arg;

/// Runs `script` in a machine; it must print `expected`.
fn expect(script: &str, expected: &[&str]) {
    let world = World::new();
    let script = format!("set -e\n{script}");
    let image = image_arg("debian-containers");
    let outcome = world.imgrun(["run", "-q", &image, "--", "sh", "-c", &script]).ok();
    let text = outcome.text();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{outcome:#?}");
}

/// A container by crun: name spaces, limits by control groups, an overlay as its root.
#[test]
fn crun_starts_a_container_with_limits_on_an_overlay() {
    let script = r#"
        mkdir -p /c/lower/bin /c/lower/proc /c/rootfs /c/t && cd /c
        cp /bin/busybox lower/bin/sh
        mount -t tmpfs none t && mkdir t/upper t/work
        mount -t overlay -o lowerdir=lower,upperdir=t/upper,workdir=t/work none rootfs
        crun spec
        sed -i 's/"terminal": true/"terminal": false/; s/"readonly": true/"readonly": false/
            s/^\t\t\t"sh"/"sh", "-c", "echo $$ > \/written; echo process $$; hostname; cat \/proc\/1\/comm; cat \/sys\/fs\/cgroup\/pids.max \/sys\/fs\/cgroup\/memory.max; ls \/sys\/class\/net; grep -c . \/proc\/net\/route; grep Seccomp: \/proc\/self\/status"/
            s/"resources": {/"resources": {"pids": {"limit": 7}, "memory": {"limit": 16777216},/' config.json
        crun run one
        cat t/upper/written lower/written 2>/dev/null || echo the lower layer is untouched
    "#;
    expect(
        script,
        &[
            "process 1",
            "crun",
            "sh",
            "7",
            "16777216",
            "lo",
            "1",
            "Seccomp:\t0",
            "1",
            "the lower layer is untouched",
        ],
    );
}

/// Two networks as containers have them: what comes from one is redirected to the other, under the
/// address of the machine between them.
#[test]
fn nftables_translates_addresses_between_containers() {
    let script = r#"
        for n in 0 1; do
            ip netns add n$n
            ip link add bridge$n type bridge
            ip link add veth$n type veth peer name eth0 netns n$n
            ip link set veth$n master bridge$n up
            ip addr add 10.0.$n.1/24 dev bridge$n && ip link set bridge$n up
            ip -n n$n addr add 10.0.$n.2/24 dev eth0 && ip -n n$n link set eth0 up
        done
        echo 1 > /proc/sys/net/ipv4/ip_forward
        nft -f - <<'END'
            table inet filter {
                chain forward {
                    type filter hook forward priority 0; policy drop;
                    ct state established,related counter accept
                    ct status dnat counter accept
                }
            }
            table ip nat {
                chain prerouting {
                    type nat hook prerouting priority -100;
                    tcp dport 8080 dnat to 10.0.1.2:80
                }
                chain postrouting {
                    type nat hook postrouting priority 100;
                    ip saddr 10.0.0.0/24 oifname "bridge1" masquerade
                }
            }
END
        # iptables of the container tools of today: its own matches, over nftables.
        iptables -t nat -A POSTROUTING -s 10.9.0.0/24 -m addrtype ! --dst-type LOCAL \
            -m comment --comment ours -j MASQUERADE
        iptables -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
        iptables-legacy -t nat -S | head -n1
        ip netns exec n1 perl -MIO::Socket::INET -e '
            my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => "10.0.1.2:80") or die;
            while (my $peer = $server->accept) { print $peer "from ", $peer->peerhost, "\n" }
            ' >/dev/null &
        for try in 1 2 3 4 5 6 7 8 9; do
            ip netns exec n0 perl -MIO::Socket::INET -e '
                my $peer = IO::Socket::INET->new("10.0.0.1:8080") or exit 1; print <$peer>' && break
            sleep 0.3
        done
        kill $!
    "#;
    expect(script, &["-P PREROUTING ACCEPT", "from 10.0.1.1"]);
}

/// Images of the usual read-only file systems, and one in a program of its own.
#[test]
fn file_systems_of_images_are_mounted() {
    let script = r#"
        mkdir -p /d/tree /d/m && cd /d
        head -c 300000 /dev/urandom > tree/random; seq 100000 > tree/text
        sum() { (cd $1 && sha256sum random text | sha256sum) }
        for packer in gzip lz4 xz zstd; do
            mksquashfs tree s.$packer -comp $packer -quiet -no-progress
            mount -t squashfs s.$packer m && test "$(sum m)" = "$(sum tree)" && umount m
            echo squashfs $packer
        done
        mkfs.erofs -zlz4 e.img tree >/dev/null 2>&1
        mount -t erofs e.img m && test "$(sum m)" = "$(sum tree)" && umount m && echo erofs
        mke2fs -q -t ext4 -d tree x.img 16M >/dev/null
        fuse2fs -o ro x.img m && test "$(sum m)" = "$(sum tree)" && umount m && echo fuse
    "#;
    expect(
        script,
        &["squashfs gzip", "squashfs lz4", "squashfs xz", "squashfs zstd", "erofs", "fuse"],
    );
}
