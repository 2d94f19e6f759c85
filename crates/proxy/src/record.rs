//! What became of a request, for the access log.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal $text:literal,)*) => {
        /// What went wrong, or was done on purpose: Envoy's response flags
        /// (its access log documentation, `%RESPONSE_FLAGS%`).
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct Flags(u32);

        impl Flags {
            $($(#[$doc])* pub const $name: Flags = Flags(1 << $bit);)*

            /// Each flag with the letters that Envoy has for it, in the order of its documentation.
            pub const ALL: [(Flags, &'static str); [$($bit),*].len()] =
                [$((Flags::$name, $text)),*];
        }
    };
}

flags! {
    /// No endpoint to send it to: 503.
    NO_HEALTHY_UPSTREAM = 0 "UH",
    /// No connection to an endpoint: 503.
    UPSTREAM_CONNECTION_FAILURE = 1 "UF",
    /// Too many retries at once: none was made.
    UPSTREAM_OVERFLOW = 2 "UO",
    /// No rule holds: 404.
    NO_ROUTE = 3 "NR",
    /// Every try that was allowed has failed.
    UPSTREAM_RETRY_LIMIT = 4 "URX",
    /// There is no such service, or a rule names a backend that is not there.
    NO_CLUSTER = 5 "NC",
    /// The client went away.
    DOWNSTREAM_CONNECTION_TERMINATION = 6 "DC",
    /// The endpoint closed the connection.
    UPSTREAM_CONNECTION_TERMINATION = 7 "UC",
    /// The endpoint reset the request.
    UPSTREAM_REMOTE_RESET = 8 "UR",
    /// Time ran out: 504.
    UPSTREAM_REQUEST_TIMEOUT = 9 "UT",
    /// Delayed on purpose.
    DELAY_INJECTED = 10 "DI",
    /// Aborted on purpose.
    FAULT_INJECTED = 11 "FI",
    /// Refused by a rate limit: 429.
    RATE_LIMITED = 12 "RL",
    /// What the endpoint said is not HTTP: 502.
    UPSTREAM_PROTOCOL_ERROR = 13 "UPE",
    /// What the client said is not HTTP: 400.
    DOWNSTREAM_PROTOCOL_ERROR = 14 "DPE",
    /// An external authorizer denied it, or could not be asked.
    UNAUTHORIZED_EXTERNAL_SERVICE = 15 "UAEX",
}

impl Flags {
    /// All of them as a number.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Those that a number stands for.
    pub fn from_bits(bits: u32) -> Flags {
        Flags(bits)
    }

    /// Adds flags.
    pub fn insert(&mut self, flags: Flags) {
        self.0 |= flags.0;
    }

    /// Whether all of these are set.
    pub fn contains(self, flags: Flags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether there is nothing to say.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// `-` when there is none, otherwise their letters with commas between them.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let set = Flags::ALL.iter().filter(|(flag, _)| self.contains(*flag));
        for (at, (_, letters)) in set.enumerate() {
            f.write_str(if at > 0 { "," } else { "" })?;
            f.write_str(letters)?;
        }
        Ok(())
    }
}

/// One request and its answer, told when the answer has ended.
#[derive(Debug, Clone)]
pub struct Record {
    /// When the request's head had been read.
    pub start: SystemTime,
    /// From then until the end of the answer.
    pub duration: Duration,
    /// Texts are filled in. Else they are empty, and the record is for counting alone.
    pub detailed: bool,
    /// The client.
    pub source: IpAddr,
    /// The address by which it is known, which is its own unless the kernel knows better.
    pub known_by: IpAddr,
    /// The address that it connected to.
    pub service: SocketAddr,
    /// Method of the request as sent.
    pub method: String,
    /// Host or `:authority` as sent.
    pub authority: String,
    /// Path with query as sent.
    pub path: String,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'static str,
    /// Value of `user-agent`.
    pub user_agent: String,
    /// Value of `x-forwarded-for` as sent.
    pub forwarded_for: String,
    /// Value of `traceparent` as sent.
    pub traceparent: String,
    /// Value of `x-request-id` as it went to the endpoint.
    pub request_id: String,
    /// Name of the rule that held; empty: none.
    pub rule: String,
    /// Name of the cluster; empty: none.
    pub cluster: String,
    /// The endpoint of the last try.
    pub endpoint: Option<SocketAddr>,
    /// Tries.
    pub attempts: u32,
    /// Status of the answer.
    pub status: u16,
    /// `grpc-status` of the answer.
    pub grpc_status: Option<u32>,
    /// It is one of gRPC.
    pub grpc: bool,
    /// A policy forbids it.
    pub denied: bool,
    /// What went wrong.
    pub flags: Flags,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// Why the answer is not the endpoint's, as Envoy has it (`%RESPONSE_CODE_DETAILS%`); empty: it
    /// is, or there is no more to say than the flags do.
    pub detail: String,
    /// Name of the policy that let the last try pass or did not; empty: none is about it.
    pub policy: String,
    /// Names of policies that only report (AUDIT) and match.
    pub audit: Vec<String>,
    /// Names of policies in dry run that match.
    pub dry_run: Vec<String>,
}

impl Record {
    /// Of a request that went down with another proxy. Whose it was is not known any more.
    pub fn lost(status: u16) -> Record {
        let nobody = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        Record {
            detailed: true,
            status,
            flags: Flags::UPSTREAM_CONNECTION_TERMINATION,
            protocol: "HTTP/1.1",
            ..Record::begin(nobody, nobody, SocketAddr::new(nobody, 0))
        }
    }

    /// Of a request that begins now.
    pub(crate) fn begin(source: IpAddr, known_by: IpAddr, service: SocketAddr) -> Record {
        Record {
            start: SystemTime::now(),
            duration: Duration::ZERO,
            detailed: false,
            source,
            known_by,
            service,
            method: String::new(),
            authority: String::new(),
            path: String::new(),
            protocol: "",
            user_agent: String::new(),
            forwarded_for: String::new(),
            traceparent: String::new(),
            request_id: String::new(),
            rule: String::new(),
            cluster: String::new(),
            endpoint: None,
            attempts: 0,
            status: 0,
            grpc_status: None,
            grpc: false,
            denied: false,
            flags: Flags::default(),
            received: 0,
            sent: 0,
            detail: String::new(),
            policy: String::new(),
            audit: Vec::new(),
            dry_run: Vec::new(),
        }
    }
}

/// Takes records. Called from worker threads; must not block.
pub trait Recorder: Send + Sync + 'static {
    /// Whether texts are wanted of a request that begins. They cost a tenth of its time.
    fn wants_detail(&self) -> bool {
        true
    }

    /// A request is over.
    fn record(&self, record: Record);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_envoy_writes_them() {
        let mut flags = Flags::default();
        assert_eq!(flags.to_string(), "-");
        flags.insert(Flags::UPSTREAM_RETRY_LIMIT);
        flags.insert(Flags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.to_string(), "UF,URX");
        assert!(flags.contains(Flags::UPSTREAM_RETRY_LIMIT) && !flags.contains(Flags::NO_ROUTE));
    }
}
