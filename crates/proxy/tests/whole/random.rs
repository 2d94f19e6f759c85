//! Random policies and connections: the proxy says what the reference evaluator says.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use beeway_model::Protocol;
use beeway_model::testing::{Dice, Stage};

use crate::kit::{Kit, PATIENCE, mesh};

const SCENES: u64 = 300;
const CONNECTIONS: usize = 4;

/// A server that says so.
fn greeting(address: &str) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let _ = socket.unwrap().write_all(b"hello");
        }
    });
    address
}

/// Connects from an address, and waits for a greeting or a reset.
fn is_greeted(from: IpAddr, to: SocketAddr) -> bool {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    let socket = socket.connect(to);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let mut read = Vec::new();
    let socket = runtime.block_on(socket).and_then(|socket| {
        let socket = socket.into_std()?;
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    });
    // a reset may come before the connection is looked at
    match socket.and_then(|mut socket| socket.read_to_end(&mut read)) {
        Ok(_) => assert_eq!(read, b"hello"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
    !read.is_empty()
}

#[test]
fn the_proxy_says_what_the_evaluator_says() {
    let endpoints = ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(greeting);
    let stage = Stage {
        callers: ["127.0.0.1", "127.0.0.9", "127.0.7.1"].map(|a| a.parse().unwrap()).into(),
        endpoints: endpoints.into(),
        services: vec![("default".to_owned(), "shop".to_owned())],
        providers: Vec::new(),
        connections: true,
    };
    let kit = Kit::new(mesh(Protocol::Opaque, &endpoints, Vec::new()));
    let (mut allowed, mut denied) = (0, 0);
    for seed in 0..SCENES {
        let mut dice = Dice(seed);
        let mut scene = mesh(Protocol::Opaque, &endpoints, Vec::new());
        stage.set(&mut dice, &mut scene);
        for _ in 0..CONNECTIONS {
            let mut attempt = stage.attempt(&mut dice, &scene);
            (attempt.request, attempt.sni) = (None, None);
            let n = endpoints.iter().position(|a| *a == attempt.endpoint).unwrap();
            scene.services[0].ports[0].cluster = beeway_model::ClusterId(n);
            kit.mesh.send_replace(Arc::new(scene.clone()));
            let access = attempt.judge(&scene);
            let greeted = is_greeted(attempt.caller, kit.address);
            assert_eq!(greeted, access.allowed, "seed {seed}: {attempt:?} {:#?}", scene.access);
            *(if greeted { &mut allowed } else { &mut denied }) += 1;
        }
    }
    // neither is an exception
    assert!(allowed > 200 && denied > 200, "{allowed} allowed, {denied} denied");
    // one that was greeted may still have been there when the next policies came
    assert!(kit.proxy.as_ref().unwrap().stats().connections_denied >= denied);
}
