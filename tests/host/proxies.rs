//! Who is at the other end: by a proxy's word, and by the kernel's.

use fieldgate::gateway::settings::{Bind, Protocols};

use crate::authority::{Authority, Dial, over_tls, tls};
use crate::bench::{CONNACK, Client, Folder, PINGREQ, PINGRESP, Plan, connect};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 1883\r\n";

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn believing(from: &str) -> Plan {
    let mut plan = Plan::tcp();
    plan.transport.proxies = vec![from.parse().unwrap()];
    plan
}

#[test]
fn a_proxy_that_is_believed_says_for_whom_it_speaks() {
    let mut plan = believing("127.0.0.0/8");
    plan.transport.protocols = Protocols::Both;
    let mut bench = plan.start();
    let address = [192, 0, 2, 9, 10, 0, 0, 1, 0x12, 0x34, 7, 91, 4, 0, 1, 0];
    for header in [V1.to_vec(), v2(0x21, 0x11, &address), v2(0x20, 0, b"")] {
        // All at once, and in pieces.
        let mut client = bench.tcp();
        client.send(&[&header[..], &connect("at once")].concat());
        bench.expect(&mut client, &CONNACK);
        let mut client = bench.tcp();
        for byte in &header {
            client.send(&[*byte]);
            bench.turn();
        }
        client.send(&connect("in pieces"));
        bench.expect(&mut client, &CONNACK);
        client.send(&PINGREQ);
        bench.expect(&mut client, &PINGRESP);
    }
    assert_eq!(bench.counters().proxies_refused, 0);
}

#[test]
fn a_proxy_without_a_header_is_refused() {
    let mut bench = believing("127.0.0.1").start();
    for (index, bytes) in [
        connect("direct"),
        b"PROXY TCP4 nonsense\r\n".to_vec(),
        vec![b'P'; 200],
        v2(0x21, 0x11, b"short"),
    ]
    .iter()
    .enumerate()
    {
        let mut client = bench.tcp();
        // It is not what it says.
        let _ = client.try_send(bytes);
        assert_eq!(bench.rest(&mut client), b"");
        assert_eq!(bench.counters().proxies_refused, index as u64 + 1);
    }
    assert_eq!(bench.counters().accepted, 0);
}

#[test]
fn a_header_of_others_is_none() {
    let mut bench = believing("10.0.0.0/8").start();
    let mut client = bench.tcp();
    client.send(&connect("direct"));
    bench.expect(&mut client, &CONNACK);
    let mut client = bench.tcp();
    client.send(&[V1, &connect("pretender")].concat());
    assert_eq!(bench.rest(&mut client), b"");
}

#[test]
fn the_header_stands_before_tls() {
    let authority = Authority::new();
    let folder = Folder::new("proxied-tls");
    let mut plan = believing("127.0.0.1");
    let proxies = plan.transport.proxies;
    plan.transport = over_tls(tls(&folder, &authority));
    plan.transport.proxies = proxies;
    let mut bench = plan.start();
    let mut client = bench.tcp();
    client.send(V1);
    let mut client = client.encrypt(authority.trusted(&Dial::default()));
    client.send(&connect("behind"));
    bench.expect(&mut client, &CONNACK);
}

#[test]
fn the_kernel_vouches_for_the_peers_of_a_unix_socket() {
    let folder = Folder::new("credentials");
    let path = folder.join("mqtt.sock");
    for peer_credentials in [true, false] {
        let mut plan = Plan::tcp();
        plan.binds = vec![Bind::Unix {
            path: path.to_str().unwrap().into(),
            mode: 0o600,
            group: None,
        }];
        plan.allow_anonymous = false;
        plan.transport.peer_credentials = peer_credentials;
        let mut bench = plan.start();
        for id in ["first", "second"] {
            let mut client = Client::unix(&path);
            client.send(&connect(id));
            if peer_credentials {
                bench.expect(&mut client, &CONNACK);
            } else {
                assert_eq!(bench.rest(&mut client), [0x20, 2, 0, 5]);
            }
        }
    }
}
