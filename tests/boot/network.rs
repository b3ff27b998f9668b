//! What a machine reaches, and what it does not.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::thread;

use imgtool_tests::World;

use crate::image_arg;

/// An address of this host's that is not its loopback's. Nothing is sent.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect("192.0.2.1:9").expect("this test needs a host that is on some network");
    socket.local_addr().expect("its address").ip()
}

#[test]
fn a_machine_with_a_network_reaches_out_but_not_into_the_host() {
    let world = World::new();
    let address = own_address();
    let open = TcpListener::bind((address, 0)).unwrap();
    let port = open.local_addr().unwrap().port();
    // Where the stack's router leads, were it let through.
    let hidden = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    thread::spawn(move || {
        while let Ok((mut peer, _)) = open.accept() {
            let _ = peer.write_all(b"hello from outside\n");
        }
    });
    let script = format!(
        r#"
        cat /etc/resolv.conf
        awk '$2 == "00000000" {{print $1, $3}}' /proc/net/route
        perl -MIO::Socket::INET -e '
            for my $to (@ARGV) {{
                my $s = IO::Socket::INET->new(PeerAddr => "$to:{port}", Timeout => 3);
                print $s ? "$to " . <$s> : "$to is out of reach\n";
            }}' {address} 10.0.2.2 10.0.2.3 10.0.2.9
        "#
    );
    let image = image_arg("debian-micro");
    let outcome =
        world.imgrun(["run", "-q", "--network", "user", &image, "--", "sh", "-c", &script]).ok();
    let expected = format!(
        "nameserver 10.0.2.3\neth0 0202000A\n{address} hello from outside\n\
         10.0.2.2 is out of reach\n10.0.2.3 is out of reach\n10.0.2.9 is out of reach"
    );
    assert_eq!(outcome.text(), expected, "{outcome:#?}");
    hidden.set_nonblocking(true).unwrap();
    assert_eq!(hidden.accept().expect_err("nobody came").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_machine_has_no_network_unless_it_is_asked_for() {
    let world = World::new();
    let image = image_arg("debian-micro");
    let outcome = world.imgrun(["run", "-q", &image, "--", "ls", "/sys/class/net"]).ok();
    assert_eq!(outcome.text(), "lo");
}
