//! Heads broken at random: whatever the kernel reads in them, its twin reads.

use crate::generate::Scene;
use crate::heads::{ask, get, start};
use beeway_model::testing::Dice;

const SEED: u64 = 77;
const CASES: usize = 30_000;

/// What breaks a head, or ends a line of it too early.
const PIECES: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"Host: x\r\n",
    b"Content-Length: 1\r\n",
    b"Content-Length: 99999999999999999\r\n",
    b"HTTP/1.1",
    b"\x7f",
    b"\x80",
    b"#",
    b"%",
    b"?",
    b"/",
    b"/.",
    b"Upgrade: x\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
];

/// Changes a byte, a bit, or leaves out, repeats or puts in a piece.
fn spoil(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let at = dice.below(bytes.len());
    let several = bytes.len() > 1;
    match dice.below(9) {
        0 => bytes[at] = dice.bits() as u8,
        1 => bytes[at] ^= 1 << dice.below(8),
        2 => bytes[at] ^= 0x20,
        3 if several => drop(bytes.remove(at)),
        4 => bytes.truncate(at + 1),
        5 => {
            let end = bytes.len().min(at + dice.between(1, 40));
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        6 if several => {
            let end = bytes.len().min(at + dice.between(1, 40));
            bytes.drain(at.max(1)..end.max(at.max(1)));
        }
        _ => {
            let piece = dice.of(&PIECES);
            bytes.splice(at..at, piece.iter().copied());
        }
    }
}

#[test]
fn the_kernel_and_its_twin_read_broken_heads_alike() {
    println!("seed {SEED}");
    let node = start();
    let mut dice = Dice(SEED);
    let plain: Vec<Vec<u8>> = vec![
        get("Content-Length: 12\r\nAccept: */*\r\n"),
        get("Transfer-Encoding: chunked\r\nConnection: close\r\nX:\r\n"),
        b"POST /api/v1/users?x=1 HTTP/1.1\r\nhost: a.example.com:8080\r\nA:\t b \t\r\n\r\nab"
            .to_vec(),
        get(&format!("Cookie: {}\r\n", "c".repeat(500))),
        get(&format!("N: {}\r\n", "\t".repeat(90))),
        get("Connection: keep-alive\r\nContent-Length: 000000000000000001\r\n"),
    ];
    let mut scene = Scene::new(&mut dice);
    let mut understood = 0;
    for n in 0..CASES {
        if n % 100 == 0 {
            scene = Scene::new(&mut dice);
        }
        let mut bytes = if dice.one_in(2) { dice.of(&plain) } else { scene.case(&mut dice).bytes };
        for _ in 0..dice.of(&[1, 1, 1, 2, 3]) {
            spoil(&mut dice, &mut bytes);
        }
        understood += usize::from(ask(&node, &bytes).is_ok());
    }
    println!("{understood} of {CASES} were still heads");
    assert!(understood > CASES / 6 && understood < CASES * 5 / 6, "{understood} still heads");
}
