//! Random policies and requests: the proxy says what the reference evaluator says.

use std::net::SocketAddr;
use std::sync::Arc;

use beeway_model::Mesh;
use beeway_model::testing::{Attempt, Dice, Stage};
use beeway_proxy::Options;

use crate::kit::{Kit, mesh};
use crate::script::Endpoint;

const SCENES: u64 = 1000;
const REQUESTS: usize = 8;
const ADDRESSES: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];

/// One service with one cluster for each endpoint.
fn services(endpoints: &[SocketAddr]) -> Mesh {
    let mut mesh = mesh(endpoints, None);
    let one = mesh.services[0].clone();
    mesh.services = (0..endpoints.len())
        .map(|n| {
            let mut service = one.clone();
            service.name = format!("service-{n}");
            service.addresses = vec![ADDRESSES[n].parse::<SocketAddr>().unwrap().ip()];
            service.ports[0].cluster = beeway_model::ClusterId(n);
            service
        })
        .collect();
    mesh
}

fn text(attempt: &Attempt) -> String {
    let asked = attempt.request.as_ref().expect("a request");
    let mut text =
        format!("{} {} HTTP/1.1\r\nHost: {}\r\n", asked.method, asked.target, asked.authority);
    for (name, value) in &asked.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n"
}

#[test]
fn the_proxy_says_what_the_evaluator_says() {
    let endpoints: Vec<Endpoint> =
        ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(|ip| Endpoint::at(ip, Vec::new())).into();
    let addresses: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let stage = Stage {
        callers: ["10.9.9.1", "10.9.9.2", "10.9.7.3", "fd00::9"].map(|a| a.parse().unwrap()).into(),
        endpoints: addresses.clone(),
        services: (0..3).map(|n| ("default".to_owned(), format!("service-{n}"))).collect(),
        providers: Vec::new(),
        connections: false,
    };
    let mut kits = [true, false].map(|plain| {
        let mut kit = Kit::with(Options { plain }, services(&addresses), None);
        kit.service = ADDRESSES[0].parse().unwrap();
        kit
    });
    let (mut allowed, mut denied, mut cookie) = (0_u32, 0_u32, 0);
    for seed in 0..SCENES {
        let mut dice = Dice(seed);
        let mut mesh = services(&addresses);
        stage.set(&mut dice, &mut mesh);
        let mesh = Arc::new(mesh);
        for kit in &kits {
            kit.mesh.send_replace(mesh.clone());
        }
        for _ in 0..REQUESTS {
            let mut attempt = stage.attempt(&mut dice, &mesh);
            // a service has one endpoint
            let n = addresses.iter().position(|a| *a == attempt.endpoint).unwrap();
            attempt.service.1 = format!("service-{n}");
            let access = attempt.judge(&mesh);
            cookie += 1;
            for kit in &mut kits {
                kit.source = SocketAddr::new(attempt.caller, 4000);
                kit.service = ADDRESSES[n].parse().unwrap();
                kit.request(cookie, text(&attempt));
                let answer = kit.answer(cookie);
                kit.proxy.client_closed(cookie);
                let wanted = if access.allowed { 200 } else { 403 };
                assert_eq!(
                    answer.status, wanted,
                    "seed {seed}: {attempt:?} {access:?} {:#?}",
                    mesh.access
                );
            }
            *(if access.allowed { &mut allowed } else { &mut denied }) += 1;
        }
    }
    // neither is an exception
    assert!(allowed > 1500 && denied > 1500, "{allowed} allowed, {denied} denied");
    let [plain, engine] = kits.map(|kit| kit.proxy.stats());
    assert_eq!(
        (plain.denied, plain.audited, plain.dry_run),
        (engine.denied, engine.audited, engine.dry_run)
    );
    assert!(plain.plain > 1500 && plain.audited > 100 && plain.dry_run > 100, "{plain:?}");
    assert!(endpoints.iter().all(|endpoint| endpoint.connections() > 0));
}
