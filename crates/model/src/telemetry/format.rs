//! How a line of an access log looks: Envoy's format strings (its documentation, "Access logging"),
//! as far as what they ask for is known here.

use serde::Serialize;

/// A format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Format {
    /// A line of text.
    Text(Vec<Piece>),
    /// A JSON object, keys in this order.
    Json(Vec<(String, Vec<Piece>)>),
}

/// A part of a line or of a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Piece {
    /// It is written so.
    Literal(String),
    /// It depends.
    Field {
        /// On what.
        operator: Operator,
        /// Characters at most.
        limit: Option<usize>,
        /// It stands between quotation marks.
        quoted: bool,
    },
}

macro_rules! operators {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a line can tell.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        pub enum Operator {
            /// Fields of the request, lower case; the first that is there.
            Request(Vec<String>),
            $($(#[$doc])* $name,)*
        }

        /// Operators without arguments.
        const PLAIN: &[(&str, Operator)] = &[$(($text, Operator::$name)),*];
    };
}

operators! {
    /// When it began.
    StartTime = "START_TIME",
    /// Version of HTTP.
    Protocol = "PROTOCOL",
    /// Status.
    Code = "RESPONSE_CODE",
    /// Why that status.
    CodeDetails = "RESPONSE_CODE_DETAILS",
    /// Why the connection ended.
    TerminationDetails = "CONNECTION_TERMINATION_DETAILS",
    /// What went wrong.
    Flags = "RESPONSE_FLAGS",
    /// The status of gRPC, by name.
    GrpcStatus = "GRPC_STATUS",
    /// The status of gRPC.
    GrpcStatusNumber = "GRPC_STATUS_NUMBER",
    /// The rule.
    Route = "ROUTE_NAME",
    /// Why TLS failed.
    TransportFailure = "UPSTREAM_TRANSPORT_FAILURE_REASON",
    /// Bytes of the request.
    Received = "BYTES_RECEIVED",
    /// Bytes of the answer.
    Sent = "BYTES_SENT",
    /// Milliseconds.
    Duration = "DURATION",
    /// The endpoint.
    UpstreamHost = "UPSTREAM_HOST",
    /// The endpoint too.
    UpstreamRemote = "UPSTREAM_REMOTE_ADDRESS",
    /// Its address.
    UpstreamRemoteIp = "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    /// Its port.
    UpstreamRemotePort = "UPSTREAM_REMOTE_PORT",
    /// The cluster.
    UpstreamCluster = "UPSTREAM_CLUSTER",
    /// The cluster too.
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW",
    /// Where it was called from.
    UpstreamLocal = "UPSTREAM_LOCAL_ADDRESS",
    /// Tries.
    Attempts = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    /// The address that was asked for.
    DownstreamLocal = "DOWNSTREAM_LOCAL_ADDRESS",
    /// Without its port.
    DownstreamLocalIp = "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    /// Its port.
    DownstreamLocalPort = "DOWNSTREAM_LOCAL_PORT",
    /// The caller. Its port is not known.
    DownstreamRemote = "DOWNSTREAM_REMOTE_ADDRESS",
    /// The caller.
    DownstreamRemoteIp = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    /// The caller.
    DownstreamDirect = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    /// The caller.
    DownstreamDirectIp = "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    /// Name asked for by TLS.
    ServerName = "REQUESTED_SERVER_NAME",
    /// How long the endpoint took.
    ServiceTime = "RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)",
    /// This machine.
    HostName = "HOSTNAME",
    /// The trace that the request is of.
    TraceId = "TRACE_ID",
    /// Beeway's own: the lane.
    Lane = "BEEWAY(LANE)",
    /// Why that lane.
    Reason = "BEEWAY(REASON)",
    /// What became of it.
    Verdict = "BEEWAY(VERDICT)",
    /// The caller's workload.
    Source = "BEEWAY(SOURCE)",
    /// Its namespace.
    SourceNamespace = "BEEWAY(SOURCE_NAMESPACE)",
    /// The workload that was called.
    Destination = "BEEWAY(DESTINATION)",
    /// Its namespace.
    DestinationNamespace = "BEEWAY(DESTINATION_NAMESPACE)",
    /// The service that was asked for.
    Service = "BEEWAY(SERVICE)",
    /// The policy that decided.
    Policy = "BEEWAY(POLICY)",
    /// AUDIT policies that match.
    Audit = "BEEWAY(AUDIT)",
    /// Policies in dry run that match.
    DryRun = "BEEWAY(DRY_RUN)",
}

/// Fields of requests that are kept.
pub const FIELDS: [&str; 9] = [
    ":method",
    ":path",
    ":authority",
    "host",
    "user-agent",
    "x-forwarded-for",
    "x-request-id",
    "x-envoy-original-path",
    "traceparent",
];

/// Istio's default text format.
pub const DEFAULT_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% \
    %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
    %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's default JSON format, and behind it what Beeway knows besides.
pub const DEFAULT_JSON: [(&str, &str); 37] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
    ("lane", "%BEEWAY(LANE)%"),
    ("reason", "%BEEWAY(REASON)%"),
    ("verdict", "%BEEWAY(VERDICT)%"),
    ("source_workload", "%BEEWAY(SOURCE)%"),
    ("source_namespace", "%BEEWAY(SOURCE_NAMESPACE)%"),
    ("destination_workload", "%BEEWAY(DESTINATION)%"),
    ("destination_namespace", "%BEEWAY(DESTINATION_NAMESPACE)%"),
    ("destination_service", "%BEEWAY(SERVICE)%"),
    ("grpc_status", "%GRPC_STATUS_NUMBER%"),
    ("policy", "%BEEWAY(POLICY)%"),
    ("audit", "%BEEWAY(AUDIT)%"),
    ("dry_run", "%BEEWAY(DRY_RUN)%"),
];

impl Format {
    /// Lines of text. The error says what is not understood.
    pub fn text(format: &str) -> Result<Format, String> {
        let mut pieces = pieces(format)?;
        // The end of a line is its own: there are no others.
        match pieces.last_mut() {
            Some(Piece::Literal(text)) if text.ends_with('\n') => drop(text.pop()),
            _ => {}
        }
        let broken = |piece: &Piece| matches!(piece, Piece::Literal(text) if text.contains('\n'));
        match pieces.iter().any(broken) {
            true => Err("a record is one line: \\n is for its end alone".to_owned()),
            false => Ok(Format::Text(pieces)),
        }
    }

    /// A JSON object of these keys and formats.
    pub fn json<'a>(
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Format, String> {
        let value = |(key, format): (&str, &str)| {
            let pieces = pieces(format).map_err(|reason| format!("{key}: {reason}"))?;
            Ok((key.to_owned(), pieces))
        };
        labels.into_iter().map(value).collect::<Result<_, String>>().map(Format::Json)
    }

    /// Istio's text format.
    pub fn default_text() -> Format {
        Format::text(DEFAULT_TEXT).expect("a test reads it")
    }

    /// Istio's JSON format, and what Beeway knows besides.
    pub fn default_json() -> Format {
        Format::json(DEFAULT_JSON).expect("a test reads it")
    }
}

fn pieces(format: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let (mut literal, mut quoted, mut rest) = (String::new(), false, format);
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        quoted ^= rest[..at].matches('"').count() % 2 == 1;
        let inside = &rest[at + 1..];
        if let Some(after) = inside.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let end = end_of(inside).ok_or_else(|| format!("`%{inside}` has no end"))?;
        let (operator, limit) = operator(&inside[..end])?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Field { operator, limit, quoted });
        rest = &inside[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// Where the `%` is that ends an operator: none within its parentheses does.
fn end_of(inside: &str) -> Option<usize> {
    let mut depth = 0;
    inside.bytes().position(|byte| {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        byte == b'%' && depth <= 0
    })
}

/// `NAME`, `NAME(ARGUMENT)`, `NAME(ARGUMENT):LENGTH`.
fn operator(text: &str) -> Result<(Operator, Option<usize>), String> {
    let unknown = || Err(format!("%{text}% is not known"));
    let (name, limit) = match text.rsplit_once(')') {
        Some((_, "")) | None => (text, None),
        Some((_, length)) => {
            let limit = length.strip_prefix(':').and_then(|digits| digits.parse().ok());
            let Some(limit) = limit else { return unknown() };
            (&text[..text.len() - length.len()], Some(limit))
        }
    };
    if let Some((_, plain)) = PLAIN.iter().find(|(plain, _)| name.eq_ignore_ascii_case(plain)) {
        return Ok((plain.clone(), limit));
    }
    let Some(names) = name.strip_prefix("REQ(").and_then(|rest| rest.strip_suffix(')')) else {
        return unknown();
    };
    let names: Vec<String> = names.split('?').map(str::to_ascii_lowercase).collect();
    match names.iter().find(|name| !FIELDS.contains(&name.as_str())) {
        _ if names.len() > 2 => unknown(),
        Some(name) => Err(format!("%{text}%: {}", unkept(name))),
        None => Ok((Operator::Request(names), limit)),
    }
}

/// Says that a field is none of [`FIELDS`].
pub fn unkept(name: &str) -> String {
    let kept = FIELDS.join(", ");
    format!("of the fields of a request only {kept} are kept, and not {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_read() {
        let Format::Text(pieces) = Format::default_text() else { panic!("it is text") };
        let fields = pieces.iter().filter(|piece| matches!(piece, Piece::Field { .. }));
        assert_eq!(fields.count(), 24);
        let quoted = pieces.iter().filter(|p| matches!(p, Piece::Field { quoted: true, .. }));
        assert_eq!(quoted.count(), 9);
        let Format::Json(labels) = Format::default_json() else { panic!("it is JSON") };
        assert_eq!(labels.len(), DEFAULT_JSON.len());
    }

    #[test]
    fn operators_are_read_as_envoy_reads_them() {
        let field = |names: &[&str], limit| Piece::Field {
            operator: Operator::Request(names.iter().map(|name| (*name).to_owned()).collect()),
            limit,
            quoted: false,
        };
        for (text, wanted) in [
            ("%REQ(:METHOD)%", vec![field(&[":method"], None)]),
            ("%REQ(USER-AGENT?HOST):8%", vec![field(&["user-agent", "host"], Some(8))]),
            ("100%%", vec![Piece::Literal("100%".into())]),
            ("a\n", vec![Piece::Literal("a".into())]),
        ] {
            assert_eq!(Format::text(text), Ok(Format::Text(wanted)), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        for text in [
            "%",
            "%REQ(",
            "%NOTHING%",
            "%REQ(COOKIE)%",
            "%REQ(:PATH):x%",
            "%REQ(:PATH?HOST?HOST)%",
            "%RESP(SERVER)%",
            "%START_TIME(%s)%",
            "%ENVIRONMENT(HOME)%",
            "a\nb",
        ] {
            assert!(Format::text(text).is_err(), "{text}");
        }
        let error = Format::json([("k", "%X%")]).expect_err("X is none");
        assert_eq!(error, "k: %X% is not known");
    }
}
