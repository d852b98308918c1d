//! The parsers that people have for Istio's text format read every line.

use super::*;

/// Fluent Bit's `istio-envoy-proxy` (its `conf/parsers.conf`), as it stands there.
const FLUENT_BIT: &str = concat!(
    r#"^\[(?<start_time>[^\]]*)\] "(?<method>\S+)(?: +(?<path>[^\"]*?)(?: +\S*)?)? "#,
    r#"(?<protocol>\S+)" (?<response_code>[^ ]*) (?<response_flags>[^ ]*) "#,
    r#"(?<response_code_details>[^ ]*) (?<connection_termination_details>[^ ]*) "#,
    r#"(?<upstream_transport_failure_reason>[^ ]*) (?<bytes_received>[^ ]*) "#,
    r#"(?<bytes_sent>[^ ]*) (?<duration>[^ ]*) (?<x_envoy_upstream_service_time>[^ ]*) "#,
    r#""(?<x_forwarded_for>[^ ]*)" "(?<user_agent>[^\"]*)" "(?<x_request_id>[^\"]*)" "#,
    r#"(?<authority>[^ ]*)" "(?<upstream_host>[^ ]*)" (?<upstream_cluster>[^ ]*) "#,
    r#"(?<upstream_local_address>[^ ]*) (?<downstream_local_address>[^ ]*) "#,
    r#"(?<downstream_remote_address>[^ ]*) (?<requested_server_name>[^ ]*) "#,
    r#"(?<route_name>[^  ]*)"#,
);

/// GoAccess: what `log-format` of `goaccess.conf` has to be for these lines. Its time and date are
/// `time-format %T` and `date-format %Y-%m-%d`.
const GOACCESS: &str = "[%dT%t.%^] \"%m %U %H\" %s %^ %^ %^ \"%^\" %^ %b %L %^ \"%^\" \"%u\" \
                        \"%^\" \"%v\" \"%^\" %^ %^ %^ %h:%^ %^ %^";

/// GoAccess reads a field up to the character that stands behind its specifier (`goaccess(1)`,
/// CUSTOM LOG/DATE FORMAT).
fn goaccess() -> Regex {
    let mut pattern = String::from("^");
    let mut rest = GOACCESS;
    while let Some((literal, after)) = rest.split_once('%') {
        pattern.push_str(&regex::escape(literal));
        let mut behind = after.chars();
        let field = match behind.next().unwrap() {
            'd' => r"\d{4}-\d\d-\d\d",
            't' => r"\d\d:\d\d:\d\d",
            'm' => "(?<method>[A-Z]+)",
            'H' => r"HTTP/[0-9.]+",
            's' => r"(?<status>\d{3})",
            'b' => r"(?<bytes>\d+)",
            'L' => r"\d+",
            'h' => r"(?<host>\d+\.\d+\.\d+\.\d+)",
            'U' => "(?<path>[^ ]+)",
            'u' => "(?<agent>[^\"]*)",
            'v' => "(?<vhost>[^\"]*)",
            '^' => match behind.clone().next() {
                Some(end) => {
                    pattern.push_str(&format!("[^{}]*", regex::escape(&end.to_string())));
                    ""
                }
                None => ".*",
            },
            other => panic!("{other} is no specifier of this format"),
        };
        pattern.push_str(field);
        rest = behind.as_str();
    }
    Regex::new(&(pattern + &regex::escape(rest) + "$")).unwrap()
}

/// A request that `details` refuse before its head was read to the end.
fn refused_request() -> Record {
    let request = Request {
        method: "GET".into(),
        target: "/".into(),
        version: "HTTP/1.1",
        status: 400,
        details: "http1.codec_error",
        ..Request::default()
    };
    Record {
        verdict: Outcome::Refused,
        decided_by: Decider::Malformed,
        flags: ResponseFlags::DownstreamProtocol,
        name: None,
        name_source: NameOrigin::None,
        request: Some(request),
        ..blocked_request()
    }
}

/// One that finds nobody.
fn unreachable_request() -> Record {
    let mut record = served_request();
    let request = record.request.as_mut().unwrap();
    request.unreachable = Some(CloseReason::ConnectRefused);
    request.status = 503;
    Record { flags: ResponseFlags::ConnectFailed, ..record }
}

fn connections() -> Vec<Record> {
    use strum::VariantArray;
    let ends = CloseReason::VARIANTS.iter().map(|&reason| Record {
        flags: reason.response_flags(),
        close_reason: Some(reason),
        ..passed()
    });
    [passed(), blocked(), blocked_tls()].into_iter().chain(ends).collect()
}

fn requests() -> Vec<Record> {
    vec![blocked_request(), served_request(), refused_request(), unreachable_request()]
}

#[test]
fn fluent_bit_reads_every_line() {
    let parser = Regex::new(FLUENT_BIT).unwrap();
    for record in connections().into_iter().chain(requests()) {
        let line = in_text(&record);
        let fields = parser.captures(line.trim_end()).unwrap_or_else(|| panic!("{line}"));
        assert_eq!(&fields["response_flags"], record.flags.label(), "{line}");
        assert_eq!(fields["bytes_received"], record.bytes_received.to_string(), "{line}");
        assert_eq!(fields["downstream_remote_address"], record.source.to_string(), "{line}");
        let status = record.request.as_ref().map_or(0, |request| request.status);
        assert_eq!(fields["response_code"], status.to_string(), "{line}");
        assert_eq!(&fields["route_name"], record.route_name().unwrap_or("-"), "{line}");
    }
}

#[test]
fn the_document_says_what_goaccess_needs() {
    let operations = include_str!("../../../docs/operations.md");
    assert!(operations.contains(&format!("\nlog-format {GOACCESS}\n")));
}

/// Of connections it wants nothing: they have no request.
#[test]
fn goaccess_reads_every_request() {
    let parser = goaccess();
    for record in requests() {
        let line = in_text(&record);
        let fields = parser.captures(line.trim_end()).unwrap_or_else(|| panic!("{line}"));
        let request = record.request.as_ref().unwrap();
        assert_eq!(fields["status"], request.status.to_string(), "{line}");
        assert_eq!(fields["path"].as_bytes(), request.target.bytes(), "{line}");
        assert_eq!(fields["bytes"], record.bytes_sent.to_string(), "{line}");
        assert_eq!(fields["host"], record.source.ip().to_string(), "{line}");
    }
}

proptest! {
    #[test]
    fn fluent_bit_reads_what_peers_make_up(parts in prop::array::uniform5(hostile())) {
        let line = in_text(&hostile_request(&parts));
        let fields = Regex::new(FLUENT_BIT).unwrap();
        let fields = fields.captures(line.trim_end());
        prop_assert!(fields.is_some_and(|fields| &fields["response_code"] == "201"), "{}", line);
    }
}
