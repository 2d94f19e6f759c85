//! Whether and when a request is tried again, as Envoy decides it.

use std::time::Duration;

use crate::action::grpc;
use crate::policy::{Retry, RetryOn};

/// How a try came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There is no connection: refused, timed out, or no endpoint to connect to.
    NoConnection,
    /// The connection or the stream broke before the answer's head was there.
    Reset {
        /// Whether any byte of the request had been given to the connection.
        sent: bool,
    },
    /// The endpoint refused the stream: it did nothing for it (RFC 9113 section 8.7).
    RefusedStream,
    /// [`Retry::per_try_timeout`] passed.
    TimedOut {
        /// Whether any byte of the request had been given to the connection.
        sent: bool,
    },
    /// There is an answer, which may be one that the rule calls a failure.
    Answered {
        /// HTTP status.
        status: u16,
        /// `grpc-status` among the fields of its head (an answer that is nothing but a head);
        /// what comes in trailers is too late.
        grpc_status: Option<u8>,
    },
}

/// Whether a rule calls this a failure that is worth another try. How many there may be, and
/// whether the request can be sent again, is for the caller to know.
///
/// No answer at all counts as a 5xx and as a gateway error, because that is what the client would
/// be told. A try that timed out counts as a reset. Unlike `reset`, `connect-failure` and
/// `reset-before-request` are safe: nothing was sent.
pub fn should_retry(retry: &Retry, failure: Failure) -> bool {
    retry.on.iter().any(|on| holds(*on, failure))
        || matches!(failure, Failure::Answered { status, .. } if retry.statuses.contains(&status))
}

fn holds(on: RetryOn, failure: Failure) -> bool {
    let Failure::Answered { status, grpc_status } = failure else {
        return match on {
            RetryOn::ServerError | RetryOn::GatewayError | RetryOn::Reset => true,
            RetryOn::ConnectFailure => failure == Failure::NoConnection,
            RetryOn::RefusedStream => failure == Failure::RefusedStream,
            RetryOn::ResetBeforeRequest => matches!(
                failure,
                Failure::NoConnection
                    | Failure::Reset { sent: false }
                    | Failure::TimedOut { sent: false }
            ),
            _ => false,
        };
    };
    let code = |wanted| grpc_status == Some(wanted);
    match on {
        RetryOn::ServerError => (500..600).contains(&status),
        RetryOn::GatewayError => (502..=504).contains(&status),
        RetryOn::Retriable4xx => status == 409,
        RetryOn::Cancelled => code(grpc::CANCELLED),
        RetryOn::DeadlineExceeded => code(grpc::DEADLINE_EXCEEDED),
        RetryOn::ResourceExhausted => code(grpc::RESOURCE_EXHAUSTED),
        RetryOn::Internal => code(grpc::INTERNAL),
        RetryOn::Unavailable => code(grpc::UNAVAILABLE),
        RetryOn::Reset
        | RetryOn::ResetBeforeRequest
        | RetryOn::ConnectFailure
        | RetryOn::RefusedStream => false,
    }
}

/// How long to wait before the `nth` try after the first (1 is the first of them).
///
/// Envoy's fully jittered exponential back-off: drawn uniformly below 2^n - 1 times
/// [`Retry::backoff`], and no longer than ten times that; from the fourth on the range stays.
/// `draw` is a uniformly distributed random number.
pub fn backoff(retry: &Retry, nth: u32, draw: u32) -> Duration {
    let range = retry.backoff.saturating_mul((1 << nth.clamp(1, 4)) - 1).as_nanos();
    let drawn = (range * u128::from(draw)) >> u32::BITS;
    let drawn = Duration::from_nanos(u64::try_from(drawn).unwrap_or(u64::MAX));
    drawn.min(retry.backoff.saturating_mul(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(on: &[RetryOn]) -> Retry {
        Retry { on: on.to_vec(), statuses: vec![], ..Retry::default() }
    }

    fn answered(status: u16) -> Failure {
        Failure::Answered { status, grpc_status: None }
    }

    fn grpc(code: u8) -> Failure {
        Failure::Answered { status: 200, grpc_status: Some(code) }
    }

    /// Envoy's documentation of `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
    #[test]
    fn each_condition_holds_for_what_it_names() {
        use Failure::{NoConnection, RefusedStream, Reset, TimedOut};
        let broken: &[Failure] = &[
            NoConnection,
            Reset { sent: false },
            Reset { sent: true },
            RefusedStream,
            TimedOut { sent: false },
            TimedOut { sent: true },
        ];
        let answers: Vec<Failure> = [200, 404, 409, 429, 500, 501, 502, 503, 504, 505, 599]
            .map(answered)
            .into_iter()
            .chain((0..=16).map(grpc))
            .collect();
        let unsent: &[Failure] = &[NoConnection, Reset { sent: false }, TimedOut { sent: false }];
        for (condition, wanted) in [
            (
                RetryOn::ServerError,
                [broken, &[500, 501, 502, 503, 504, 505, 599].map(answered)].concat(),
            ),
            (RetryOn::GatewayError, [broken, &[502, 503, 504].map(answered)].concat()),
            (RetryOn::Reset, broken.to_vec()),
            (RetryOn::ResetBeforeRequest, unsent.to_vec()),
            (RetryOn::ConnectFailure, vec![NoConnection]),
            (RetryOn::RefusedStream, vec![RefusedStream]),
            (RetryOn::Retriable4xx, vec![answered(409)]),
            (RetryOn::Cancelled, vec![grpc(1)]),
            (RetryOn::DeadlineExceeded, vec![grpc(4)]),
            (RetryOn::ResourceExhausted, vec![grpc(8)]),
            (RetryOn::Internal, vec![grpc(13)]),
            (RetryOn::Unavailable, vec![grpc(14)]),
        ] {
            let retry = on(&[condition]);
            for failure in broken.iter().chain(&answers) {
                let got = should_retry(&retry, *failure);
                assert_eq!(got, wanted.contains(failure), "{condition:?} {failure:?}");
            }
        }
    }

    #[test]
    fn statuses_and_conditions_add_up() {
        let retry = Retry { statuses: vec![404, 429], ..on(&[RetryOn::GatewayError]) };
        for (failure, wanted) in [
            (answered(404), true),
            (answered(429), true),
            (answered(503), true),
            (answered(500), false),
            (Failure::Reset { sent: true }, true),
        ] {
            assert_eq!(should_retry(&retry, failure), wanted, "{failure:?}");
        }
    }

    #[test]
    fn by_default_only_what_was_not_done_is_tried_again() {
        for (failure, wanted) in [
            (Failure::NoConnection, true),
            (Failure::RefusedStream, true),
            (grpc(grpc::UNAVAILABLE), true),
            (grpc(grpc::CANCELLED), true),
            (Failure::Reset { sent: true }, false),
            (Failure::TimedOut { sent: true }, false),
            (answered(503), false),
            (answered(500), false),
        ] {
            assert_eq!(should_retry(&Retry::default(), failure), wanted, "{failure:?}");
        }
    }

    #[test]
    fn waits_are_drawn_from_a_range_that_grows_up_to_a_limit() {
        let retry = Retry { backoff: Duration::from_millis(25), ..Retry::default() };
        let ms = |nth, draw| backoff(&retry, nth, draw).as_millis();
        for (nth, half, longest) in
            [(0, 12, 24), (1, 12, 24), (2, 37, 74), (3, 87, 174), (4, 187, 250), (99, 187, 250)]
        {
            assert_eq!(ms(nth, 0), 0, "{nth}");
            assert_eq!(ms(nth, 1 << 31), half, "{nth}");
            assert_eq!(ms(nth, u32::MAX), longest, "{nth}");
        }
        let none = Retry { backoff: Duration::ZERO, ..Retry::default() };
        assert_eq!(backoff(&none, 3, u32::MAX), Duration::ZERO);
        let long = Retry { backoff: Duration::MAX, ..Retry::default() };
        assert!(backoff(&long, 3, u32::MAX) > Duration::from_secs(1 << 32));
    }
}
