//! Faults of a VirtualService's rule.

use std::time::Duration;

use beeway_model::policy::{Abort, Fault, Fraction};

use crate::problem::Report;
use crate::{duration, istio};

/// Names of gRPC's statuses, in order of their numbers.
const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Reads a fault.
///
/// Without a percentage nothing is aborted or delayed: Istio hands Envoy no fraction, and Envoy's
/// default is none.
pub(crate) fn read(fault: &istio::Fault, report: &mut Report<'_>) -> Fault {
    if fault.delay.is_none() && fault.abort.is_none() {
        report.error("", "a fault has an abort or a delay");
    }
    Fault {
        delay: fault.delay.as_ref().and_then(|it| delay(it, &mut report.below("delay"))),
        abort: fault.abort.as_ref().and_then(|it| abort(it, &mut report.below("abort"))),
    }
}

fn delay(delay: &istio::Delay, report: &mut Report<'_>) -> Option<(Duration, Fraction)> {
    if delay.exponential_delay.is_some() {
        report.error("", "exponentialDelay is not supported, as in Istio");
        return None;
    }
    let Some(text) = &delay.fixed_delay else {
        report.notice("", "delay without fixedDelay delays nothing");
        return None;
    };
    let time = duration::istio(text).map_err(|reason| report.error("fixedDelay", reason)).ok()?;
    let Some(share) = delay.percentage.as_ref().map(|p| p.value).or(delay.percent) else {
        report.notice("", "delay without a percentage delays nothing, as in Istio");
        return None;
    };
    let share = percentage(share, report)?;
    (share > 0.0).then(|| (time, Fraction::percent(share)))
}

fn abort(abort: &istio::Abort, report: &mut Report<'_>) -> Option<(Abort, Fraction)> {
    if abort.http2_error.is_some() {
        report.error("", "http2Error is not supported, as in Istio");
        return None;
    }
    let kind = match (abort.http_status, &abort.grpc_status) {
        (Some(_), Some(_)) => {
            report.error("", "only one of httpStatus and grpcStatus");
            return None;
        }
        (Some(status), None) => Abort::Http(http_status(status, &mut report.below("httpStatus"))?),
        (None, Some(name)) => Abort::Grpc(grpc_status(name, &mut report.below("grpcStatus"))?),
        (None, None) => {
            report.notice("", "abort without a status aborts nothing");
            return None;
        }
    };
    let Some(share) = &abort.percentage else {
        report.notice("", "abort without a percentage aborts nothing, as in Istio");
        return None;
    };
    let share = percentage(share.value, report)?;
    (share > 0.0).then(|| (kind, Fraction::percent(share)))
}

/// A percentage that Istio takes; `None`, with an error: any other.
pub(crate) fn percentage(value: f64, report: &mut Report<'_>) -> Option<f64> {
    // Written so that what is no number is out of range.
    if value == 0.0 || (0.0001..=100.0).contains(&value) {
        return Some(value);
    }
    report.error("", format!("percentage {value} is neither 0 nor in 0.0001..=100"));
    None
}

/// A status of an answer that is final.
pub(crate) fn http_status(status: u16, report: &mut Report<'_>) -> Option<u16> {
    if (200..=599).contains(&status) {
        return Some(status);
    }
    report.error("", "the status is not in 200..=599");
    None
}

fn grpc_status(name: &str, report: &mut Report<'_>) -> Option<u8> {
    let known = GRPC_STATUSES.iter().position(|known| *known == name);
    if known.is_none() {
        report.error("", format!("{name} is no gRPC status"));
    }
    known.and_then(|at| u8::try_from(at).ok())
}
