//! Compiles `bpf/*.bpf.c`, links the objects into one and writes its skeleton, which carries the
//! shared layouts of `bpf/include/abi.h` as Rust types.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::Linker;

const SOURCES: [&str; 9] =
    ["maps", "connect", "socket", "packet", "receive", "inject", "sweep", "syscall", "upstream"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let bpf = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../bpf")
        .canonicalize()
        .expect("bpf/ is in the checkout");
    println!("cargo:rerun-if-changed={}", bpf.display());

    let args = clang_args(&bpf);
    let linked = out.join("beeway.o");
    let mut linker = Linker::new(&linked).expect("create the linked object");
    for name in SOURCES {
        let object = out.join(format!("{name}.o"));
        SkeletonBuilder::new()
            .source(bpf.join(format!("{name}.bpf.c")))
            .obj(&object)
            .clang("clang-19")
            .clang_args(args.clone())
            .build()
            .unwrap_or_else(|error| panic!("compile bpf/{name}.bpf.c: {error:#}"));
        linker.add_file(&object).unwrap_or_else(|error| panic!("link {name}.o: {error}"));
    }
    linker.link().expect("link the objects");
    SkeletonBuilder::new()
        .obj(&linked)
        .generate(out.join("beeway.skel.rs"))
        .expect("generate the skeleton");
    // what `beeway doctor` tries out, and what ends with the agent: objects of their own
    for name in ["probe", "watch"] {
        SkeletonBuilder::new()
            .source(bpf.join(format!("{name}.bpf.c")))
            .obj(out.join(format!("{name}.o")))
            .clang("clang-19")
            .clang_args(args.clone())
            .build()
            .unwrap_or_else(|error| panic!("compile bpf/{name}.bpf.c: {error:#}"));
    }
}

fn clang_args(bpf: &std::path::Path) -> Vec<OsString> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let include = |path: PathBuf| [OsString::from("-I"), path.into_os_string()];
    let mut args: Vec<OsString> =
        ["-mcpu=v3", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
            .into_iter()
            .map(OsString::from)
            .collect();
    args.extend(include(bpf.join("include")));
    // Debian keeps asm/ in the architecture's own folder, where clang -target bpf does not look
    args.extend(include(PathBuf::from(format!("/usr/include/{arch}-linux-gnu"))));
    args
}
