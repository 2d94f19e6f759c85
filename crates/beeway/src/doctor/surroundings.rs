//! What must be there before programs can be loaded.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use beeway_dataplane::probe::Finding;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Linux capabilities by bit (include/uapi/linux/capability.h).
const CAPABILITIES: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    // to look at processes of other users
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (39, "CAP_BPF"),
];

/// Looks at all of it.
pub fn findings() -> Vec<Finding> {
    vec![
        required(
            "root",
            root(),
            "nothing can be loaded or attached",
            "sudo beeway doctor (in a container: add CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_PTRACE)",
        ),
        required(
            "cgroup v2",
            cgroup(),
            "there is nowhere to attach to",
            "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified",
        ),
        required(
            "BTF",
            btf(),
            "programs cannot find their way in this kernel's structures",
            "a kernel with CONFIG_DEBUG_INFO_BTF=y",
        ),
        required(
            "BPF file system",
            bpf_file_system(),
            "programs end with the agent: it cannot be restarted or upgraded without a gap",
            "a kernel with CONFIG_BPF_SYSCALL=y, and CAP_SYS_ADMIN",
        ),
        required(
            "loopback",
            loopback(),
            "the agent cannot talk to the kernel half",
            "ip link set lo up",
        ),
    ]
}

fn required(
    name: &'static str,
    outcome: Result<String, String>,
    consequence: &'static str,
    remedy: &str,
) -> Finding {
    let ok = outcome.is_ok();
    let detail = outcome.unwrap_or_else(|why| why);
    let remedy = (!ok).then(|| remedy.to_owned());
    Finding { name, ok, required: true, detail, consequence, remedy }
}

fn root() -> Result<String, String> {
    let user = nix::unistd::geteuid();
    if !user.is_root() {
        return Err(format!("running as user {user}"));
    }
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or_default();
    let lacking: Vec<&str> = CAPABILITIES
        .into_iter()
        .filter(|(bit, _)| held >> bit & 1 == 0)
        .map(|(_, name)| name)
        .collect();
    match lacking.is_empty() {
        true => Ok(CAPABILITIES.map(|(_, name)| name).join(", ")),
        false => Err(format!("without {}", lacking.join(", "))),
    }
}

fn cgroup() -> Result<String, String> {
    let mount = beeway_dataplane::cgroup::mount_point().ok_or("not in /proc/mounts")?;
    Ok(format!("mounted at {}", mount.display()))
}

fn btf() -> Result<String, String> {
    let path = "/sys/kernel/btf/vmlinux";
    let bytes = fs::metadata(path).map_err(|error| format!("{path}: {error}"))?.len();
    Ok(format!("{path}, {} KiB", bytes / 1024))
}

/// Mounts one where only this process sees it.
fn bpf_file_system() -> Result<String, String> {
    let nothing = None::<&Path>;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("no mount of our own: {error}"))?;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .map_err(|error| format!("no mount of our own: {error}"))?;
    let place = Path::new("/sys/fs");
    mount(Some("bpf"), place, Some("bpf"), MsFlags::MS_NOSUID, nothing)
        .map_err(|error| format!("mount it: {error}"))?;
    fs::create_dir(place.join("beeway")).map_err(|error| format!("write to it: {error}"))?;
    // what follows should see the machine as it is
    nix::mount::umount(place).map_err(|error| format!("unmount it: {error}"))?;
    Ok("can be mounted".into())
}

fn loopback() -> Result<String, String> {
    let exchange = || -> std::io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        client.write_all(b"x")?;
        server.read_exact(&mut [0])
    };
    exchange().map_err(|error| format!("a connection to 127.0.0.1: {error}"))?;
    Ok("carries connections".into())
}
