//! How much a test of faults does: what fits a run at each change, or the whole size of the requirements.

/// `whole` in `make test-long`, which sets `JWTUNNEL_LONG`, else `small`.
#[must_use]
pub fn size<T>(small: T, whole: T) -> T {
    if std::env::var_os("JWTUNNEL_LONG").is_some() { whole } else { small }
}
