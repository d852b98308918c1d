//! The result: one JSON line on stdout, and the histograms as files.
//!
//! `requests`, `per_second`, the bytes, `statuses`, `closed` and the latencies are of the
//! measurement: of what was due in it (open loop) or begun in it (closed loop). `late` counts
//! requests that were due and could not be sent before its end; they are in the percentiles with
//! the time that they had waited by then, and not in `requests`. `errors` and `overall` hold the
//! warm-up and the answers after the end too; a failed exchange is in `errors` and in no
//! percentile.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use serde_json::{Map, Value, json};

use crate::exchange::Fault;
use crate::load::Plan;
use crate::record::{INTERVAL, Record};

const NS_PER_US: f64 = 1e3;
const NS_PER_MS: f64 = 1e6;

/// What three significant digits mean in HdrHistogram: the power of two above 2 * 10^3.
const SUB_BUCKETS: u32 = 2048;

/// Print and write what came of a load. `begun` is when the measurement began.
///
/// # Errors
///
/// A run without one connection has measured nothing, and files that cannot be written.
pub(crate) fn write(plan: &Plan<'_>, record: &Record, begun: SystemTime) -> anyhow::Result<()> {
    if record.connections == 0 {
        let reason = record.connect_error.as_deref().unwrap_or("the run was too short");
        bail!("no connection to {} could be opened: {reason}", plan.common.target);
    }
    let latencies = record.latencies();
    if let Some(path) = &plan.measurement.hgrm {
        write_hgrm(path, &latencies).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &plan.measurement.hlog {
        write_hlog(path, record, begun)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{}", line(plan, record, &latencies));
    Ok(())
}

fn line(plan: &Plan<'_>, record: &Record, latencies: &Histogram<u64>) -> Value {
    let seconds = plan.measurement.seconds.as_secs_f64();
    let (measured, overall) = (record.measured, record.overall);
    let errors: Map<_, _> = Fault::ALL
        .iter()
        .zip(record.errors)
        .map(|(fault, count)| (fault.name().to_owned(), count.into()))
        .collect();
    let status = |(status, count): (&u16, &u64)| (status.to_string(), Value::from(*count));
    let statuses: Map<_, _> = record.statuses.iter().map(status).collect();
    let mut line = json!({
        "profile": plan.profile,
        "requests": measured.requests,
        "seconds": seconds,
        "per_second": measured.requests as f64 / seconds,
        "bytes_sent": measured.sent_bytes,
        "bytes_received": measured.received_bytes,
        "errors": errors,
        "late": record.late,
        "statuses": statuses,
        "latency_us": percentiles(latencies),
        "rate": plan.rate,
        "overall": {
            "connections": record.connections,
            "requests": overall.requests,
            "bytes_sent": overall.sent_bytes,
            "bytes_received": overall.received_bytes,
        },
    });
    let mut add = |name: &str, value: Value| line[name] = value;
    if plan.rate.is_some() {
        add("send_delay_us", percentiles(&record.send_delays));
    }
    let bits_per_second = record.bulk_bytes as f64 * 8.0 / seconds;
    match plan.profile {
        "bulk" => add("bits_per_second", bits_per_second.into()),
        "mixed" => add("bulk_bits_per_second", bits_per_second.into()),
        "blackhole" => {
            add("closed", json!({ "fin": record.ended.fin, "rst": record.ended.rst }));
        }
        _ => {}
    }
    line
}

/// Null when nothing was measured.
fn percentiles(latencies: &Histogram<u64>) -> Value {
    if latencies.is_empty() {
        return Value::Null;
    }
    // To a nanosecond: the rest is noise of the division.
    let us = |nanoseconds: f64| (nanoseconds.round() / NS_PER_US).into();
    let at = |quantile| us(latencies.value_at_quantile(quantile) as f64);
    let values: [(&str, Value); 8] = [
        ("min", us(latencies.min() as f64)),
        ("mean", us(latencies.mean())),
        ("p50", at(0.5)),
        ("p90", at(0.9)),
        ("p99", at(0.99)),
        ("p999", at(0.999)),
        ("p9999", at(0.9999)),
        ("max", us(latencies.max() as f64)),
    ];
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
}

/// HdrHistogram's percentile distribution, as `outputPercentileDistribution` of the Java library
/// prints it and its plotters read it: five steps to each halving of the distance to 100 %.
fn write_hgrm(path: &Path, latencies: &Histogram<u64>) -> anyhow::Result<()> {
    const TICKS_PER_HALF_DISTANCE: u32 = 5;
    let mut out = BufWriter::new(File::create(path)?);
    writeln!(out, "       Value     Percentile TotalCount 1/(1-Percentile)\n")?;
    let mut count = 0;
    for step in latencies.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        let value = step.value_iterated_to() as f64 / NS_PER_US;
        let quantile = step.quantile_iterated_to();
        count += step.count_since_last_iteration();
        write!(out, "{value:>12.3} {quantile:.12} {count:>10}")?;
        if quantile < 1.0 {
            write!(out, " {:>14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    let (mean, deviation) = (latencies.mean() / NS_PER_US, latencies.stdev() / NS_PER_US);
    let (max, total) = (latencies.max() as f64 / NS_PER_US, latencies.len());
    let buckets = latencies.buckets();
    writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]")?;
    writeln!(out, "#[Max     = {max:>12.3}, Total count    = {total:>12}]")?;
    writeln!(out, "#[Buckets = {buckets:>12}, SubBuckets     = {SUB_BUCKETS:>12}]")?;
    Ok(out.flush()?)
}

/// HdrHistogram's interval log: values in nanoseconds, the column of maxima in milliseconds.
fn write_hlog(path: &Path, record: &Record, begun: SystemTime) -> anyhow::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("latencies in nanoseconds, by when the request was due; maxima in ms")
        .with_start_time(begun)
        .with_base_time(begun)
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(&mut out, &mut serializer)?;
    for (second, interval) in (0_u32..).zip(&record.intervals) {
        log.write_histogram(interval, INTERVAL * second, INTERVAL, None)
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    }
    drop(log);
    Ok(out.flush()?)
}
