//! What the kernel says about the process, read when it is asked for.

/// Descriptors that the process holds. The size of the directory is their number since Linux 6.2
/// (proc_pid_fd(5)); before, it is 0 and they are counted one by one.
pub(super) fn open_descriptors() -> u64 {
    match std::fs::metadata("/proc/self/fd").map(|directory| directory.len()) {
        Ok(0) => std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
        Ok(count) => count,
        Err(_) => 0,
    }
}

/// The kernel's ListenOverflows of this network namespace (proc_pid_net(5)).
pub(super) fn listen_overflows() -> u64 {
    std::fs::read_to_string("/proc/self/net/netstat")
        .ok()
        .and_then(|text| tcp_extension(&text, "ListenOverflows"))
        .unwrap_or(0)
}

/// A value of `TcpExt`: one line has the names, the next one the values in the same order.
fn tcp_extension(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(found, _)| *found == name)?.1.parse().ok()
}

/// RLIMIT_NOFILE.
pub(super) fn descriptors_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_the_kernel_is_found_by_its_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 23 4\n\
                    IpExt: ListenOverflows\nIpExt: 9\n";
        assert_eq!(tcp_extension(text, "ListenOverflows"), Some(23));
        assert_eq!(tcp_extension(text, "Nothing"), None);
        assert_eq!(tcp_extension("", "ListenOverflows"), None);
        let own = std::fs::read_to_string("/proc/self/net/netstat").unwrap();
        assert!(tcp_extension(&own, "ListenOverflows").is_some(), "{own}");
    }
}
