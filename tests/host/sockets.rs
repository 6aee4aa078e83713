//! Listeners and the control socket.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use fieldgate::gateway::settings::Bind;
use fieldgate::host::{ControlSettings, EventLoop, HostError, HostSettings};

use crate::bench::{Client, Folder, Plan};

#[test]
fn a_listener_that_cannot_open_is_told_and_the_others_work() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new("taken");
    let file = folder.join("precious");
    std::fs::write(&file, "keep me").unwrap();
    let mut plan = Plan::tcp();
    plan.binds.push(Bind::Tcp(taken.local_addr().unwrap()));
    plan.binds.push(Bind::Unix {
        path: file.to_str().unwrap().into(),
        mode: 0o660,
        group: None,
    });
    let mut bench = plan.start();
    let outcomes = bench.addresses();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let port = outcomes.iter().find(|outcome| outcome.is_ok());
    assert!(port.is_some());
    assert_eq!(std::fs::read(&file).unwrap(), b"keep me");
    let address = port.unwrap().clone().unwrap();
    let stream = std::net::TcpStream::connect(address).unwrap();
    bench.until("somebody is let in", |bench| {
        (bench.counters().accepted == 1).then_some(())
    });
    drop(stream);
}

#[test]
fn the_control_socket_is_for_its_group_and_answers_a_line_with_a_line() {
    let folder = Folder::new("control");
    let path = folder.join("control.sock");
    let mut plan = Plan::tcp();
    plan.control = Some(ControlSettings {
        path: path.to_str().unwrap().into(),
        group: None,
    });
    let mut bench = plan.start();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let mut client = Client::unix(&path);
    client.send(b"this is no JSON\n");
    client.shutdown_write().unwrap();
    let answer = bench.until("an answer", |_| {
        client.receive();
        client
            .input
            .iter()
            .position(|byte| *byte == b'\n')
            .map(|end| String::from_utf8(client.input[..end].to_vec()).unwrap())
    });
    assert!(answer.starts_with('{') && answer.ends_with('}'), "{answer}");
    drop(bench);
    assert!(!path.exists());
}

#[test]
fn what_the_host_counts_is_in_the_gateways_status() {
    let folder = Folder::new("status");
    let path = folder.join("control.sock");
    let mut plan = Plan::tcp();
    plan.control = Some(ControlSettings {
        path: path.to_str().unwrap().into(),
        group: None,
    });
    let mut bench = plan.start();
    let mut client = Client::unix(&path);
    client.send(b"{\"verb\":\"status\"}\n");
    let answer = bench.until("an answer", |_| {
        client.receive();
        serde_json::from_slice::<serde_json::Value>(&client.input).ok()
    });
    let host = &answer["data"]["host"];
    let turns = host["turns"].as_u64().unwrap();
    assert!(turns > 0 && turns <= bench.counters().turns, "{host}");
    assert_eq!(host["workers_stuck"], 0, "{host}");
    assert_eq!(answer["data"]["health"]["state"], "ok", "{answer}");
}

#[test]
fn a_control_socket_that_somebody_listens_at_is_an_error_that_names_it() {
    let folder = Folder::new("control-taken");
    let path = folder.join("control.sock");
    let _other = UnixListener::bind(&path).unwrap();
    let mut plan = Plan::tcp();
    plan.control = Some(ControlSettings {
        path: path.to_str().unwrap().into(),
        group: None,
    });
    let settings = HostSettings {
        control: plan.control.clone(),
        ..HostSettings::default()
    };
    match EventLoop::new(plan.config(), settings) {
        Err(HostError::Control { path: named, .. }) => assert_eq!(&*named, path.to_str().unwrap()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("two gateways share a socket"),
    }
}
