-- wrk's own summary as one line of JSON, after the word RESULT. wrk calls `done` once, at the end.
-- Latency is left out on purpose: wrk waits for each answer before it asks again, so its
-- percentiles hide the queueing that a slow proxy causes.
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        'RESULT {"requests":%d,"duration_us":%d,"errors":{"connect":%d,"read":%d,"write":%d,'
            .. '"status":%d,"timeout":%d}}\n',
        summary.requests, summary.duration,
        errors.connect, errors.read, errors.write, errors.status, errors.timeout
    ))
end
