//! Filters of an HTTPRoute. None is carried out yet; this says what happens instead.

use beeway_model::Action;

use crate::gateway::Filter;
use crate::objects::Place;
use crate::problem::Problem;
use crate::virtual_service::not_supported;

/// Why the requests take the detour (which goes without the filters for now), or how they are
/// answered when a filter is one that must not be skipped.
pub(crate) fn of_rule(
    place: &Place,
    path: &str,
    filters: &[Filter],
    problems: &mut Vec<Problem>,
) -> Result<Vec<&'static str>, Action> {
    let mut detour = Vec::new();
    let mut answer = None;
    for (at, filter) in filters.iter().enumerate() {
        let path = format!("{path}.filters.{at}");
        let what = match filter.kind.as_str() {
            "RequestHeaderModifier" => "RequestHeaderModifier",
            "ResponseHeaderModifier" => "ResponseHeaderModifier",
            "RequestMirror" => "RequestMirror",
            "URLRewrite" => "URLRewrite",
            "CORS" => "CORS",
            "RequestRedirect" => {
                let reason = "RequestRedirect is not carried out yet; the answer is 501";
                problems.push(place.error(&path, reason));
                answer.get_or_insert_with(|| not_supported("RequestRedirect"));
                continue;
            }
            // The specification: a filter that is not understood must not be skipped. That
            // includes those that authorise.
            other => {
                let reason = format!("filter {other} is not supported: its requests get 500");
                problems.push(place.error(&path, reason));
                answer = Some(Action::Respond { status: 500, body: String::new() });
                continue;
            }
        };
        detour.push(what);
        let reason = format!("{what}: not carried out yet; requests take the detour without it");
        problems.push(place.warning(&path, reason));
    }
    answer.map_or(Ok(detour), Err)
}
