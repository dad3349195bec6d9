//! Waterwheel against others.
pub mod asked;
pub mod cost;
pub mod cpus;
pub mod latency;
pub mod load;
pub mod memory;
pub mod peers;
pub mod report;
#[expect(unsafe_code, reason = "it gives the kernel addresses")]
pub mod ring;
pub mod server;
pub mod statistics;
pub mod subject;
pub mod subjects;
pub mod trial;
pub mod usage;

/// Raises the limit of open files as far as it may be, for this process and those that it starts.
///
/// # Errors
/// The kernel refuses.
pub fn more_files() -> std::io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
