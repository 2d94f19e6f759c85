//! Counters of a worker: written by its thread only, read by anybody.

use std::iter::Sum;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::record::Flags;

const FLAGS: usize = Flags::ALL.len();

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the proxy has done and holds.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// Requests that ended with each of [`Flags::ALL`].
            #[serde(skip)]
            pub flags: [u64; FLAGS],
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub $name: Counter,)*
            flags: [Counter; FLAGS],
        }

        impl Counters {
            pub fn read(&self) -> Stats {
                Stats {
                    $($name: self.$name.get(),)*
                    flags: self.flags.each_ref().map(Counter::get),
                }
            }
        }

        impl AddAssign for Stats {
            fn add_assign(&mut self, other: Stats) {
                $(self.$name += other.$name;)*
                for (sum, more) in self.flags.iter_mut().zip(other.flags) {
                    *sum += more;
                }
            }
        }
    };
}

counters! {
    /// Client connections held now.
    open_streams,
    /// Those of them that an HTTP server is at work for.
    served_streams,
    /// Connections to endpoints held now, in use or waiting for use.
    upstream_connections,
    /// Client connections that lead to the proxy itself, now.
    direct_streams,
    /// Streams whose client reads too slowly, now.
    slow_readers,
    /// Streams that wait for the injector to take more, now.
    injector_queue,
    /// Request heads that reached the router.
    requests,
    /// Those of them that were forwarded the short way, and answered.
    plain,
    /// Requests answered by the proxy itself, whatever the status.
    answered,
    /// Requests that failed between here and an endpoint.
    upstream_errors,
    /// Payload bytes received from clients.
    bytes_in,
    /// Payload bytes injected.
    bytes_out,
    /// Connections not taken because of [`MAX_STREAMS`](crate::limits::MAX_STREAMS).
    streams_refused,
    /// Connections aborted: their answer was cut off or their bytes were out of order.
    aborted,
    /// Clients found gone when something was injected or looked for.
    clients_gone,
    /// Tries after the first.
    retries,
    /// Copies of requests sent to mirrors.
    mirrored,
    /// Copies not sent because of [`MIRRORS`](crate::limits::MIRRORS).
    mirrors_dropped,
    /// Connections carried as a whole, now.
    open_connections,
    /// Connections taken to be carried as a whole.
    connections,
    /// Connections closed because the kernel did not lead them here.
    connections_unknown,
    /// Connections reset because of [`MAX_CONNECTIONS`](crate::limits::MAX_CONNECTIONS).
    connections_refused,
    /// Connections reset because there was no endpoint for them, or none that took them.
    connections_failed,
    /// Connections reset because a policy forbids them: at once, or when the policy came.
    connections_denied,
    /// Requests over HTTP/2 refused because of [`HTTP2_STREAMS`](crate::limits::HTTP2_STREAMS) or
    /// [`HTTP2_HEADS`](crate::limits::HTTP2_HEADS).
    http2_refused,
    /// Connections of HTTP/2 ended because of what the client said:
    /// [`HTTP2_RESETS`](crate::limits::HTTP2_RESETS), or it broke the protocol's rules.
    http2_failed,
    /// Requests, and copies for mirrors, not sent to an endpoint because a policy forbids it.
    denied,
    /// Questions to external authorizers.
    authorizer_asked,
    /// Those of them without an answer, whatever followed.
    authorizer_failed,
    /// Matches of policies that only report (AUDIT).
    audited,
    /// Matches of policies in dry run.
    dry_run,
    /// Requests to Kafka brokers that policies select.
    kafka_requests,
    /// Those of them that were refused, as a whole or for some of their topics.
    kafka_refused,
    /// Connections to such brokers that were closed because a request could not be understood, or
    /// not be answered.
    kafka_closed,
}

impl Counters {
    /// Counts an answer by what went wrong.
    pub fn count_flags(&self, flags: Flags) {
        if flags.is_empty() {
            return;
        }
        for (count, (flag, _)) in self.flags.iter().zip(Flags::ALL) {
            if flags.contains(flag) {
                count.add(1);
            }
        }
    }
}

impl Sum for Stats {
    fn sum<I: Iterator<Item = Stats>>(iter: I) -> Stats {
        iter.fold(Stats::default(), |mut sum, next| {
            sum += next;
            sum
        })
    }
}

/// Counts something for as long as it is there.
pub(crate) struct Held {
    counters: Arc<Counters>,
    of: fn(&Counters) -> &Counter,
}

impl Held {
    /// One more of these.
    pub fn new(counters: &Arc<Counters>, of: fn(&Counters) -> &Counter) -> Held {
        of(counters).add(1);
        Held { counters: counters.clone(), of }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.of)(&self.counters).sub(1);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
