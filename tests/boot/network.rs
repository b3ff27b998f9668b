//! What a machine reaches, and what it does not.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::thread;

use imgtool_tests::{World, program};

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

#[test]
fn a_forwarded_port_leads_in() {
    let world = World::new();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let script = r#"
        perl -MIO::Socket::INET -e '
            my $l = IO::Socket::INET->new(Listen => 1, LocalPort => 80) or die;
            $| = 1; print "listens\n";
            my $s = $l->accept; my $line = <$s>; print $s "you said $line"; close $s;'
    "#;
    let mut command = world.command(program("imgrun"));
    let (image, forward) = (image_arg("debian-micro"), format!("{port}:80"));
    command.args(["run", "-q", "--network", "user", "-p", &forward, &image, "--"]);
    command.args(["sh", "-c", script]).stdout(Stdio::piped());
    let mut machine = command.spawn().unwrap();
    let mut listens = String::new();
    BufReader::new(machine.stdout.take().unwrap()).read_line(&mut listens).unwrap();
    assert_eq!(listens, "listens\n");
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(b"hello\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "you said hello\n");
    assert!(machine.wait().unwrap().success());
    world.imgrun(["run", "-q", "-p", "8080:80", &image, "--", "true"]).fails(125, "no network");
}
