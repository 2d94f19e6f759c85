//! What is tried, what it is good for, and how.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::Duration;

use libbpf_rs::{RingBufferBuilder, libbpf_sys};

use super::traffic::{self, ASKED};
use super::{Check, Failure, Outcome, Probe, load_everything};
use crate::error::Context;
use crate::homes::{Stir, StirKind, Watch};
use crate::{cgroup, load};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

const MSG: u32 = libbpf_sys::BPF_SK_MSG_VERDICT;
const SKB: u32 = libbpf_sys::BPF_SK_SKB_STREAM_VERDICT;

const NO_LOAD: &str = "the kernel programs do not load: `beeway run` fails";
const NO_V6: &str = "services with IPv6 addresses are not balanced";
const IPV6: Option<&str> = Some("sysctl -w net.ipv6.conf.lo.disable_ipv6=0");

/// In the order in which they are told.
pub(super) const CHECKS: &[Check] = &[
    need("syscall programs", "the agent cannot ask the kernel half anything", |_| syscall()),
    need("connect4", "connections are not balanced", |c| connect("probe_connect4", V4, c)),
    want_v6("connect6", |c| connect("probe_connect6", V6, c)),
    need("sendmsg4", "datagrams are not balanced", |c| sendmsg("probe_sendmsg4", V4, c)),
    want_v6("sendmsg6", |c| sendmsg("probe_sendmsg6", V6, c)),
    need(
        "recvmsg4",
        "answers to datagrams bear the endpoint's address, and clients drop them",
        |c| recvmsg("probe_recvmsg4", V4, c),
    ),
    want_v6("recvmsg6", |c| recvmsg("probe_recvmsg6", V6, c)),
    need("getpeername4", "applications see the endpoint where they asked for the service", |c| {
        getpeername("probe_getpeername4", V4, c)
    }),
    want_v6("getpeername6", |c| getpeername("probe_getpeername6", V6, c)),
    need("sockops", "no socket is enrolled: requests go by unseen", sockops),
    need("sk_msg", "requests cannot be judged", |_| sk_msg()),
    need("sk_skb verdict", "FIONREAD cannot be mended", |_| sk_skb()),
    need("sk_msg redirect, ingress", "no detour, no shortcut and no answer by the kernel", |_| {
        redirect()
    }),
    Check {
        name: "FIONREAD under sk_msg",
        required: false,
        consequence: "programs that ask how much they can read before they read (nginx, libevent, \
                      Java NIO, .NET) see 0 and may wait for ever",
        remedy: None,
        run: |_| fionread(),
    },
    Check {
        name: "read positions",
        required: false,
        consequence: "bytes that the network brings twice, behind a part that came before, are read \
                      twice; behind answers by detour, requests on the same connection are refused",
        remedy: Some("a kernel that counts what TCP brought alone: 6.18.14 or later"),
        run: |_| read_positions(),
    },
    need("iterators (bpf_iter_num)", NO_LOAD, |_| iterator()),
    need("bpf_rdonly_cast", NO_LOAD, |_| cast()),
    need("ring buffer", "the proxy does not hear of connections that close", |_| ring()),
    Check {
        name: "cgroup tracepoints",
        required: false,
        consequence: "new processes are found by looking at all cgroups twice a second; until then \
                      they are known by the address of their sockets",
        remedy: Some(
            "a kernel of version 6.6 or later with CONFIG_DEBUG_INFO_BTF, and CAP_PERFMON and \
             CAP_DAC_READ_SEARCH",
        ),
        run: watch,
    },
    need("all of Beeway's programs load", "`beeway run` fails", |_| load_everything()),
];

const fn need(name: &'static str, consequence: &'static str, run: fn(&File) -> Outcome) -> Check {
    let remedy = Some(
        "a kernel of version 6.6 or later, with CONFIG_CGROUP_BPF, \
                       CONFIG_NET_SOCK_MSG, CONFIG_BPF_STREAM_PARSER and CONFIG_DEBUG_INFO_BTF",
    );
    Check { name, required: true, consequence, remedy, run }
}

const fn want_v6(name: &'static str, run: fn(&File) -> Outcome) -> Check {
    Check { name, required: false, consequence: NO_V6, remedy: IPV6, run }
}

fn syscall() -> Outcome {
    let probe = Probe::load(&["probe_syscall"], &[])?;
    expect("1 + 41", probe.ask("probe_syscall", 41)?, 42)
}

fn connect(program: &str, ip: IpAddr, cgroup: &File) -> Outcome {
    let probe = Probe::on_cgroup(program, &["target"], cgroup)?;
    let listener = traffic::listen(ip)?;
    let port = listener.local_addr()?.port();
    probe.set_target(port)?;
    let client = traffic::connect((ip, ASKED).into())?;
    let server = traffic::accept(&listener)?;
    traffic::pass(&client, &server, b"probe")?;
    Ok(format!("a connection to port {ASKED} led to port {port}"))
}

fn getpeername(program: &str, ip: IpAddr, cgroup: &File) -> Outcome {
    let probe = Probe::on_cgroup(program, &["target"], cgroup)?;
    let listener = traffic::listen(ip)?;
    let address = listener.local_addr()?;
    let client = traffic::connect(address)?;
    probe.set_target(address.port())?;
    expect("the peer's port", client.peer_addr()?.port().into(), ASKED.into())
}

fn sendmsg(program: &str, ip: IpAddr, cgroup: &File) -> Outcome {
    let probe = Probe::on_cgroup(program, &["target"], cgroup)?;
    let (from, to) = traffic::datagrams(ip)?;
    let port = to.local_addr()?.port();
    probe.set_target(port)?;
    from.send_to(b"probe", (ip, ASKED))?;
    traffic::wait_readable(&to)?;
    Ok(format!("a datagram to port {ASKED} went to port {port}"))
}

fn recvmsg(program: &str, ip: IpAddr, cgroup: &File) -> Outcome {
    let probe = Probe::on_cgroup(program, &["target"], cgroup)?;
    let (from, to) = traffic::datagrams(ip)?;
    probe.set_target(from.local_addr()?.port())?;
    from.send_to(b"probe", to.local_addr()?)?;
    let (_, sender) = to.recv_from(&mut [0; 8])?;
    expect("the sender's port", sender.port().into(), ASKED.into())
}

fn sockops(cgroup: &File) -> Outcome {
    let probe = Probe::on_cgroup("probe_sockops", &["ends"], cgroup)?;
    let (client, server) = traffic::pair()?;
    traffic::pass(&client, &server, b"probe")?;
    match (probe.has_end(0)?, probe.has_end(1)?) {
        (true, true) => Ok("both ends of a connection were enrolled".into()),
        ends => Err(format!("enrolled (client, server): {ends:?}").into()),
    }
}

fn sk_msg() -> Outcome {
    let probe = Probe::load(&["probe_msg"], &["seen", "ends"])?;
    probe.attach_to_ends("probe_msg", MSG)?;
    let (client, server) = traffic::pair()?;
    probe.put_end(0, client.as_fd())?;
    traffic::pass(&client, &server, b"probe")?;
    expect("bytes seen by send()", probe.seen()?, 5)
}

fn sk_skb() -> Outcome {
    let probe = Probe::load(&["probe_skb"], &["seen", "ends"])?;
    probe.attach_to_ends("probe_skb", SKB)?;
    let (client, server) = traffic::pair()?;
    probe.put_end(0, server.as_fd())?;
    traffic::pass(&client, &server, b"probe")?;
    expect("bytes seen on receipt", probe.seen()?, 5)
}

/// Redirected bytes are read at the other end, and TCP there knows nothing of them.
fn redirect() -> Outcome {
    let probe = Probe::load(&["probe_redirect"], &["seen", "ends"])?;
    probe.attach_to_ends("probe_redirect", MSG)?;
    let (client, server) = traffic::pair()?;
    probe.put_end(0, client.as_fd())?;
    probe.put_end(1, server.as_fd())?;
    traffic::pass(&client, &server, b"probe")?;
    expect("5 bytes arrived; of these by TCP", traffic::received_by_tcp(&server)?, 0)
}

/// What was redirected does not count as read from TCP.
pub(super) fn read_positions() -> Outcome {
    let programs = ["probe_redirect_first", "probe_position"];
    let probe = Probe::load(&programs, &["seen", "ends"])?;
    probe.attach_to_ends(programs[0], MSG)?;
    probe.attach_to_ends(programs[1], SKB)?;
    let (client, server) = traffic::pair()?;
    probe.put_end(0, client.as_fd())?;
    probe.put_end(1, server.as_fd())?;
    traffic::pass(&client, &server, b"probe")?;
    traffic::pass(&client, &server, b"by TCP")?;
    expect("bytes read ahead of TCP", probe.seen()?.wrapping_sub(1), 0)
}

fn fionread() -> Outcome {
    let (without, with) = (count_readable(false)?, count_readable(true)?);
    let seen =
        format!("{FIONREAD_BYTES} bytes wait: {without} without a no-op verdict, {with} with");
    if with == FIONREAD_BYTES { Ok(seen) } else { Err(seen.into()) }
}

const FIONREAD_BYTES: usize = 1000;

/// What FIONREAD says of a socket under sk_msg that has bytes to be read.
fn count_readable(verdict: bool) -> Result<usize, Failure> {
    let probe = Probe::load(&["probe_msg", "probe_skb"], &["seen", "ends"])?;
    probe.attach_to_ends("probe_msg", MSG)?;
    if verdict {
        probe.attach_to_ends("probe_skb", SKB)?;
    }
    let (client, server) = traffic::pair()?;
    probe.put_end(0, server.as_fd())?;
    (&client).write_all(&[b'x'; FIONREAD_BYTES])?;
    traffic::wait_readable(&server)?;
    Ok(traffic::readable_bytes(&server)?)
}

fn iterator() -> Outcome {
    let probe = Probe::load(&["probe_iterator"], &[])?;
    expect("0 + 1 + ... + 100", probe.ask("probe_iterator", 0)?, 5050)
}

fn cast() -> Outcome {
    let probe = Probe::load(&["probe_cast"], &[])?;
    match probe.ask("probe_cast", 0)? {
        1 => Ok("read this process's number from its task_struct".into()),
        _ => Err("the task_struct holds another number".to_owned().into()),
    }
}

fn ring() -> Outcome {
    let probe = Probe::load(&["probe_ring"], &["records"])?;
    probe.ask("probe_ring", 42)?;
    let got = Rc::new(Cell::new(0u64));
    let mut builder = RingBufferBuilder::new();
    let records = load::map(&probe.object, "records");
    builder.add(&records, {
        let got = got.clone();
        move |bytes| {
            got.set(bytes.try_into().map_or(0, u64::from_ne_bytes));
            0
        }
    })?;
    builder.build()?.consume()?;
    expect("a record's value", got.get(), 42)
}

/// A cgroup is made, heard of, found by its number, and removed.
fn watch(cgroup: &File) -> Outcome {
    let directory = std::fs::read_link(format!("/proc/self/fd/{}", cgroup.as_raw_fd()))?;
    let watch = Watch::start(&directory)?;
    let made = directory.join("probe");
    std::fs::create_dir(&made)?;
    let heard = watch.wait(Duration::from_secs(1));
    let seen = cgroup::number(&made).and_then(|number| {
        let found = cgroup::directory(cgroup, number);
        Ok((number, found.context(|| "find a cgroup by its number".into())?))
    });
    std::fs::remove_dir(&made)?;
    let (number, found) = seen?;
    let told = |stir: &Stir| stir.cgroup == number && stir.kind == StirKind::Made;
    if !heard?.iter().any(told) {
        return Err("nothing was heard of a new cgroup".to_owned().into());
    }
    if found != made {
        return Err(format!("it was found at {}", found.display()).into());
    }
    Ok("heard of a new cgroup".into())
}

fn expect(what: &str, got: u64, wanted: u64) -> Outcome {
    if got == wanted {
        Ok(format!("{what}: {got}"))
    } else {
        Err(format!("{what}: {got} instead of {wanted}").into())
    }
}
