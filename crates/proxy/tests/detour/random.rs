//! Random policies and requests: the proxy says what the reference evaluator says.

use std::net::SocketAddr;
use std::sync::Arc;

use beeway_model::access::{Access, Effect, Provider, ProviderKind};
use beeway_model::testing::{Attempt, Dice, Stage};
use beeway_model::{ClusterId, Mesh, Protocol};
use beeway_proxy::Options;

use crate::check::{allow, authorizer, deny};
use crate::custom::provider;
use crate::kit::{Kit, mesh};
use crate::script::Endpoint;

const SCENES: u64 = 1000;
const REQUESTS: usize = 8;
const YES: &str = "yes";
const NO: &str = "no";
const ADDRESSES: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];

/// One service with one cluster for each endpoint, and providers that say yes and no, at the last
/// two addresses.
fn services(addresses: &[SocketAddr]) -> Mesh {
    let mut mesh = mesh(addresses, None);
    let one = mesh.services[0].clone();
    let service = |(n, address): (usize, &str)| {
        let mut service = one.clone();
        service.name = format!("service-{n}");
        service.addresses = vec![address.parse::<SocketAddr>().unwrap().ip()];
        service.ports[0].cluster = ClusterId(n);
        service
    };
    mesh.services = ADDRESSES.into_iter().enumerate().map(service).collect();
    let usual = provider(ProviderKind::Grpc);
    mesh.providers = [(YES, 3), (NO, 4)]
        .map(|(name, n)| {
            mesh.clusters[n].protocol = Protocol::Http2;
            Provider { name: name.to_owned(), cluster: ClusterId(n), ..usual.clone() }
        })
        .into();
    mesh
}

/// Whether those who are asked all say yes.
fn consent(access: &Access, mesh: &Mesh) -> bool {
    access.ask.iter().all(|ask| mesh.access[ask.policy].effect == Effect::Custom(YES.to_owned()))
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
    let mut addresses: Vec<SocketAddr> =
        endpoints.iter().map(|endpoint| endpoint.address).collect();
    let stage = Stage {
        callers: ["10.9.9.1", "10.9.9.2", "10.9.7.3", "fd00::9"].map(|a| a.parse().unwrap()).into(),
        endpoints: addresses.clone(),
        services: (0..3).map(|n| ("default".to_owned(), format!("service-{n}"))).collect(),
        providers: [YES, NO, "nobody"].map(str::to_owned).into(),
        connections: false,
    };
    let ((yes, _yes), (no, asked)) =
        (authorizer(|_| allow(&[])), authorizer(|_| deny(403, &[], "")));
    addresses.extend([yes, no]);
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
            let passes = access.allowed && consent(&access, &mesh);
            cookie += 1;
            for kit in &mut kits {
                kit.source = SocketAddr::new(attempt.caller, 4000);
                kit.service = ADDRESSES[n].parse().unwrap();
                kit.request(cookie, text(&attempt));
                let answer = kit.answer(cookie);
                kit.proxy.client_closed(cookie);
                let wanted = if passes { 200 } else { 403 };
                assert_eq!(
                    answer.status, wanted,
                    "seed {seed}: {attempt:?} {access:?} {:#?}",
                    mesh.access
                );
            }
            *(if passes { &mut allowed } else { &mut denied }) += 1;
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
    assert!(asked.try_iter().count() > 100);
}
