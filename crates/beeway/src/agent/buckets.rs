//! Token buckets that nobody has taken of for long are removed.

use std::sync::{Arc, Weak};
use std::time::Duration;

use beeway_dataplane::Dataplane;

/// How often, and for how long a bucket must have been full.
const PERIOD: Duration = Duration::from_secs(60);

/// Starts a thread that ends some time after the agent.
pub(crate) fn start(dataplane: &Arc<Dataplane>) -> std::io::Result<()> {
    let dataplane: Weak<Dataplane> = Arc::downgrade(dataplane);
    let thread = std::thread::Builder::new().name("buckets".into());
    thread.spawn(move || {
        loop {
            std::thread::sleep(PERIOD);
            let Some(dataplane) = dataplane.upgrade() else { return };
            match dataplane.sweep_buckets(PERIOD) {
                Ok(removed) => tracing::debug!(removed, "full token buckets"),
                Err(error) => tracing::warn!(%error, "token buckets cannot be swept"),
            }
        }
    })?;
    Ok(())
}
