//! HTTP through the whole proxy.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::bed::Bed;
use crate::client::World;
use crate::endpoint::{Place, start};
use crate::ledger::Shared;
use crate::run::{self, Counts};
use crate::scene::{Scene, kinds};
use crate::{client, client2};
use beeway_model::testing::Dice;

/// Seeds that `make test` tries.
const SEEDS: u64 = 80;

/// Longest that all clients of a seed may take. Rules give up after 0.3 s.
const PATIENCE: Duration = Duration::from_secs(40);

async fn try_seed(seed: u64) -> Result<Counts, String> {
    let ledger = Shared::default();
    let mut dice = Dice(seed);
    let mut addresses = Vec::new();
    for (index, kind) in kinds().enumerate() {
        addresses.push(start(Place { seed, index, kind, ledger: ledger.clone() }).await);
    }
    let scene = Rc::new(Scene::new(&mut dice, &addresses));
    let bed = Rc::new(Bed::new(scene.mesh.clone(), &ledger));
    let world = World { bed: bed.clone(), scene, ledger: ledger.clone() };
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..dice.between(1, 8) {
        let own = Dice(dice.bits());
        match dice.below(10) {
            0 => clients.spawn_local(client2::attack(world.clone(), own)),
            1..=3 => clients.spawn_local(client2::talk(world.clone(), own)),
            _ => clients.spawn_local(client::talk(world.clone(), own)),
        };
    }
    let all = async {
        while let Some(ended) = clients.join_next().await {
            if let Err(error) = ended {
                ledger.fault(format!("a client: {error}"));
            }
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        ledger.fault(format!("clients wait for ever: {:?}", bed.stats()));
    }
    clients.abort_all();
    drop(world);
    settle(&bed, &ledger).await;
    ledger.close()
}

/// When the clients are gone, so is what was held for them, and each request has had its record.
pub async fn settle(bed: &Bed, ledger: &Shared) {
    let begin = Instant::now();
    loop {
        match bed.left() {
            Ok(None) => return ledger.add("forwarded the short way", bed.stats().plain as usize),
            Ok(Some(_)) if begin.elapsed() < PATIENCE => {}
            Ok(Some(left)) | Err(left) => return ledger.fault(left),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn http_among_strangers() {
    if let Some(counts) = run::run("http", SEEDS, |seed| Box::pin(try_seed(seed))) {
        // It is no use if nothing gets through.
        let (all, whole) = (counts.of("requests"), counts.of("answers of endpoints"));
        assert!(all > 500 && whole * 4 > all, "{counts}");
    }
}
