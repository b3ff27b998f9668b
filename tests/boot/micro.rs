//! The micro kernel: our agent as init, and what ordinary programs need of a kernel.

use imgtool_tests::World;

use crate::image_arg;

#[test]
fn ordinary_programs_run_on_the_micro_kernel() {
    let world = World::new();
    let script = r#"
        set -e
        uname -sr
        cat /proc/1/comm
        # Files: the overlay, a tmpfs, locks, a FIFO, attributes.
        awk '$2 == "/" {print $3}' /proc/mounts
        touch /written && flock /written true
        mkfifo /tmp/f && (echo by a fifo >/tmp/f &) && cat /tmp/f
        # Processes and a terminal of their own.
        script -qec 'tty; stty size' /dev/null | tr -d '\r' | sed -n 's/[0-9]*$/N/; 1p'
        seq 100000 | sort -R --parallel=4 | sort -n | tail -n1
        # Sockets of each family.
        perl -MSocket -MIO::Socket -e '
            for my $a (["127.0.0.1", AF_INET], ["::1", AF_INET6]) {
                my ($address, $family) = @$a;
                my @info = (Socket::getaddrinfo($address, 0, {socktype => SOCK_STREAM}))[1];
                socket(my $server, $family, SOCK_STREAM, 0) or die "$address: $!";
                bind($server, $info[0]{addr}) && listen($server, 1) or die "$address: $!";
                socket(my $client, $family, SOCK_STREAM, 0) or die;
                connect($client, getsockname($server)) or die "$address: $!";
                accept(my $peer, $server) or die;
                syswrite($peer, "hello over $address\n"); sysread($client, my $text, 99);
                print $text;
            }
            socketpair(my $x, my $y, AF_UNIX, SOCK_STREAM, 0) or die;
            syswrite($x, "and a unix socket\n"); sysread($y, my $text, 99); print $text;'
        test "$(head -c 32 /dev/urandom | wc -c)" = 32 && echo random
        dpkg --verify base-files && echo dpkg
    "#;
    let image = image_arg("debian-micro");
    let outcome = world.imgrun(["run", "-q", &image, "--", "sh", "-c", script]).ok();
    let text = outcome.text();
    let expected = [
        "Linux 6.1.192",
        "imgagent",
        "overlay",
        "by a fifo",
        "/dev/pts/N",
        "100000",
        "hello over 127.0.0.1",
        "hello over ::1",
        "and a unix socket",
        "random",
        "dpkg",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{outcome:#?}");
}
