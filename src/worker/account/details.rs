//! Where a response's status comes from, in Envoy's words: `%RESPONSE_CODE_DETAILS%`.
//!
//! They are those of its documentation, "Response Code Details" (HTTP connection manager), with the
//! details that its router puts between braces.

use crate::access_log::Protocol;
use crate::gate::{AnsweredBy, Malformed, Why};
use crate::judge::RequestError;
use crate::metrics::{CloseReason, ResponseFlags};

/// The details of a response with this status, or of a request that got none (0).
pub(super) fn of(
    answered_by: AnsweredBy,
    status: u16,
    flags: ResponseFlags,
    protocol: Protocol,
) -> &'static str {
    match answered_by {
        AnsweredBy::Upstream => by_upstream(status, flags),
        AnsweredBy::Egret { why: Why::Blocked, .. } => "direct_response",
        AnsweredBy::Egret { why: Why::Unreachable(reason), .. } => unreachable(reason),
        AnsweredBy::Egret { why: Why::Late, .. } => "request_header_timeout",
        AnsweredBy::Egret { why: Why::Malformed(malformed), .. } => match protocol {
            Protocol::Http2 => malformed_http2(malformed),
            Protocol::Http1 | Protocol::Tcp | Protocol::Tls => malformed_http1(malformed),
        },
    }
}

/// Of what has passed, by how the connection has ended.
fn by_upstream(status: u16, flags: ResponseFlags) -> &'static str {
    match (flags, status) {
        (ResponseFlags::UpstreamTerminated, 0) => {
            "upstream_reset_before_response_started{connection_termination}"
        }
        (ResponseFlags::UpstreamTerminated, _) => {
            "upstream_reset_after_response_started{connection_termination}"
        }
        (ResponseFlags::DownstreamReset, _) => "downstream_remote_disconnect",
        (ResponseFlags::DownstreamProtocol, _) => "http1.codec_error",
        (ResponseFlags::Overflow, _) => "overload",
        (ResponseFlags::LocalReset, _) => "downstream_local_disconnect",
        (_, 0) => "downstream_local_disconnect",
        (_, _) => "via_upstream",
    }
}

fn unreachable(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::NoEndpoint | CloseReason::RefusedUpstream => "no_healthy_upstream",
        CloseReason::NameUnresolved => "dns_resolution_failure",
        CloseReason::NameLimit => "dns_cache_overflow",
        CloseReason::ConnectRefused => {
            "upstream_reset_before_response_started\
             {remote_connection_failure|delayed_connect_error:_Connection_refused}"
        }
        CloseReason::ConnectUnreachable => {
            "upstream_reset_before_response_started\
             {remote_connection_failure|delayed_connect_error:_No_route_to_host}"
        }
        CloseReason::ConnectTimeout => "upstream_reset_before_response_started{connection_timeout}",
        CloseReason::NoLocalPort => {
            "upstream_reset_before_response_started\
             {local_connection_failure|immediate_connect_error:_Cannot_assign_requested_address}"
        }
        _ => "upstream_reset_before_response_started{local_connection_failure}",
    }
}

fn malformed_http1(malformed: Malformed) -> &'static str {
    let Malformed::Request(error) = malformed else { return "http1.codec_error" };
    match error {
        RequestError::HeadTooLarge => "http1.headers_too_large",
        RequestError::TooManyHeaders => "http1.too_many_headers",
        RequestError::BadTarget | RequestError::BadScheme => "http1.invalid_url",
        RequestError::BadFieldName | RequestError::BadFieldValue | RequestError::NotUtf8 => {
            "http1.invalid_characters"
        }
        RequestError::AliasedField => "http1.unexpected_underscore",
        RequestError::NoHost => "missing_host_header",
        RequestError::Connect => "upgrade_failed",
        RequestError::LengthWithCoding => "http1.content_length_and_chunked_not_allowed",
        RequestError::BadCoding | RequestError::CodingInHttp10 => "http1.invalid_transfer_encoding",
        RequestError::UnexpectedBody | RequestError::TraceBody => "http1.body_disallowed",
        _ => "http1.codec_error",
    }
}

fn malformed_http2(malformed: Malformed) -> &'static str {
    match malformed {
        Malformed::Request(
            RequestError::BadFieldName
            | RequestError::BadFieldValue
            | RequestError::ConnectionField
            | RequestError::NotUtf8,
        ) => "http2.invalid.header.field",
        Malformed::Request(RequestError::AliasedField) => "http2.unexpected_underscore",
        Malformed::Request(RequestError::NoHost) => "missing_host_header",
        Malformed::Request(RequestError::Connect) => "upgrade_failed",
        Malformed::Request(_) => "http2.violation.of.messaging.rule",
        Malformed::Frames(_) => "http2.unknown.nghttp2.error",
    }
}
