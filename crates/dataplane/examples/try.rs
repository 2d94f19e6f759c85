fn main() {
    let a: Vec<String> = std::env::args().collect();
    let o = beeway_dataplane::Options {
        cgroup: a[1].clone().into(),
        state: a[2].clone().into(),
        shortcut: true,
    };
    match beeway_dataplane::try_load(&o) {
        Ok(()) => println!("ok"),
        Err(e) => println!("{e}"),
    }
}
