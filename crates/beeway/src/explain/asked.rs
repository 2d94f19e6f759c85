//! Finds in the mesh what the question is about: who asks, and which service port.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use beeway_model::{Mesh, Request, Service, ServicePort, Transport, Workload, is_made_up};

use super::url::{Url, near};
use crate::cli::ExplainArgs;

/// The question in terms of the mesh.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Who asks.
    pub source: &'a Workload,
    /// From this address.
    pub source_ip: IpAddr,
    /// What is asked for.
    pub service: &'a Service,
    /// Namespaces and names of all services that are called by that.
    pub services: Vec<(&'a str, &'a str)>,
    /// On this port of it.
    pub port: &'a ServicePort,
    /// What the client connects to.
    pub address: SocketAddr,
    /// Request method.
    pub method: &'a str,
    /// Where to.
    pub url: &'a Url,
    /// Header fields as given, without Host.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// The Host field.
    pub authority: &'a str,
}

impl<'a> Asked<'a> {
    /// Looks everything up; what is not there is named, with what is.
    pub fn find(mesh: &'a Mesh, args: &'a ExplainArgs, url: &'a Url) -> Result<Asked<'a>> {
        let source = workload(mesh, &args.from)?;
        let (index, service) = service(mesh, url, &source.namespace)?;
        let Some(port) = service.port(url.port, Transport::Tcp) else {
            let ports = service.ports.iter().filter(|port| port.transport == Transport::Tcp);
            let ports: Vec<String> = ports.map(|port| port.number.to_string()).collect();
            bail!(
                "{}/{} has no TCP port {}; it has {}",
                service.namespace,
                service.name,
                url.port,
                if ports.is_empty() { "none".into() } else { ports.join(", ") }
            );
        };
        let Some(ip) = url.address().or_else(|| service.addresses.first().copied()) else {
            bail!(
                "{}/{} has no address of its own (it is headless): clients connect to its \
                 endpoints themselves, and the mesh does not route there",
                service.namespace,
                service.name
            );
        };
        let Some(source_ip) = own_address(source, ip) else {
            bail!("{} has no address", args.from);
        };
        let is_host = |name: &str| name.eq_ignore_ascii_case("host");
        let host = args.headers.iter().find(|(name, _)| is_host(name));
        let others = args.headers.iter().filter(|(name, _)| !is_host(name));
        Ok(Asked {
            source,
            source_ip,
            service,
            services: mesh.asked_by(index).into_iter().map(|at| mesh.service_name(at)).collect(),
            port,
            address: SocketAddr::new(ip, url.port),
            method: &args.method,
            url,
            headers: others.map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            authority: host.map_or(&url.authority, |(_, value)| value),
        })
    }

    /// The request as the reference router sees it.
    pub fn request(&self) -> Request<'_> {
        Request {
            method: self.method,
            scheme: "http",
            authority: self.authority,
            target: &self.url.target,
            headers: &self.headers,
            source: Some(self.source),
        }
    }

    /// The request as the kernel sees it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.url.target).into_bytes();
        let host = ("host", self.authority.as_bytes());
        for (name, value) in std::iter::once(host).chain(self.headers.iter().copied()) {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }
}

fn workload<'a>(mesh: &'a Mesh, from: &str) -> Result<&'a Workload> {
    let full = |w: &Workload| format!("{}/{}", w.namespace, w.name);
    if let Some(found) = mesh.workloads.iter().find(|w| full(w) == from) {
        return Ok(found);
    }
    let names: Vec<String> = mesh.workloads.iter().map(|w| full(w)).collect();
    bail!("there is no workload {from}{}", hint(from, &names))
}

/// A service and its index.
fn service<'a>(mesh: &'a Mesh, url: &Url, namespace: &str) -> Result<(usize, &'a Service)> {
    let found = match url.address() {
        // a pod has one for each of its ports
        Some(ip) => {
            let has_address = |(_, service): &(usize, &Service)| service.addresses.contains(&ip);
            let at = || mesh.all_services().enumerate().filter(has_address);
            let has_port = |service: &Service| service.port(url.port, Transport::Tcp).is_some();
            at().find(|(_, service)| has_port(service)).or_else(|| at().next())
        }
        None => mesh.service_by_host(&url.host, namespace).and_then(|found| {
            mesh.services.iter().enumerate().find(|(_, service)| std::ptr::eq(*service, found))
        }),
    };
    if let Some(service) = found {
        return Ok(service);
    }
    let services = mesh.all_services();
    if url.address().is_some() {
        let addresses = services.flat_map(|s| &s.addresses).map(|ip| ip.to_string());
        let mut names: Vec<String> = addresses.collect();
        names.dedup();
        bail!("there is no service with the address {}{}", url.host, hint(&url.host, &names))
    }
    let names: Vec<String> =
        services.flat_map(|s| s.hosts.iter().chain([&s.name])).cloned().collect();
    bail!("there is no service known as {}{}", url.host, hint(&url.host, &names))
}

fn hint(wanted: &str, names: &[String]) -> String {
    let near = near(wanted, names.iter().map(String::as_str));
    if !near.is_empty() {
        return format!("; did you mean {}?", near.join(", "));
    }
    let some: Vec<&str> = names.iter().map(String::as_str).take(5).collect();
    match (some.len(), names.len() - some.len()) {
        (0, _) => "; the configuration names none".into(),
        (_, 0) => format!("; there are {}", some.join(", ")),
        (_, more) => format!("; there are {} and {more} more", some.join(", ")),
    }
}

/// The address that a connection to `to` comes from: one of the same family, if there is one.
fn own_address(source: &Workload, to: IpAddr) -> Option<IpAddr> {
    let own = || source.addresses.iter().filter(|address| !is_made_up(**address));
    let same = own().find(|own| own.is_ipv4() == to.is_ipv4());
    same.or(own().next()).or(source.addresses.first()).copied()
}
