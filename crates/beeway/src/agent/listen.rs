//! Where clients are led whose connections the proxy takes as a whole: an address of this node that
//! its pods can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, Result};
use beeway_model::{Mesh, Workload, is_made_up};
use tokio::sync::watch;

use super::RunArgs;
use super::detour::Detour;

/// Listens on the addresses that were asked for. Without any, on those from which this node talks
/// to its pods, as soon as the configuration names some and again when an address is gone.
pub(crate) fn start(
    args: &RunArgs,
    detour: &Arc<Detour>,
    mut mesh: watch::Receiver<Arc<Mesh>>,
) -> Result<()> {
    for address in &args.detour_addresses {
        let bound = detour.listen(*address)?;
        tracing::info!(address = %bound, "connections are taken as a whole");
    }
    if !args.detour_addresses.is_empty() {
        return Ok(());
    }
    let mut found = Found { detour: detour.clone(), node: args.node.clone(), addresses: [None; 2] };
    found.look(&mesh.borrow_and_update().clone());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    std::thread::Builder::new()
        .name("listen".into())
        .spawn(move || {
            runtime.block_on(async move {
                while mesh.changed().await.is_ok() {
                    let newest = mesh.borrow_and_update().clone();
                    found.look(&newest);
                }
            });
        })
        .context("start a thread that looks for addresses")?;
    Ok(())
}

/// Addresses of this node, of IPv4 and of IPv6.
struct Found {
    detour: Arc<Detour>,
    node: Option<String>,
    addresses: [Option<IpAddr>; 2],
}

impl Found {
    fn look(&mut self, mesh: &Mesh) {
        let families: [fn(&IpAddr) -> bool; 2] = [IpAddr::is_ipv4, IpAddr::is_ipv6];
        for (known, family) in self.addresses.iter_mut().zip(families) {
            if known.is_some_and(|address| UdpSocket::bind((address, 0)).is_ok()) {
                continue;
            }
            let Some(address) = own_address(mesh, self.node.as_deref(), family) else { continue };
            match self.detour.listen(SocketAddr::new(address, 0)) {
                Ok(bound) => {
                    tracing::info!(address = %bound, "connections are taken as a whole");
                    *known = Some(address);
                }
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
    }
}

/// The address from which this node talks to its pods, or to any if none of them is its own.
fn own_address(mesh: &Mesh, node: Option<&str>, family: fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let local = |workload: &&Workload| workload.node.is_some() && workload.node.as_deref() == node;
    let addresses = |workload: &Workload| {
        let own = workload.addresses.iter().filter(|address| !is_made_up(**address));
        own.map(IpAddr::to_canonical).filter(family).find_map(source_of)
    };
    let all = || mesh.workloads.iter().map(|workload| &**workload);
    all().filter(local).find_map(addresses).or_else(|| all().find_map(addresses))
}

/// The source address of the route to another address. Nothing is sent.
fn source_of(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // a datagram socket needs some port to be connected
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
