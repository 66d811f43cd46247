//! Ports that no two tests share.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the range from which Linux takes the ports of outgoing connections, so that none of those is in the way, and
/// above those of static tunnels.
const RANGE: std::ops::Range<u16> = 22_000..32_000;

/// A port of 127.0.0.1 that is this value's alone among all test processes of the machine.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked as long as the port is ours.
    _lock: File,
}

impl Port {
    /// Takes a free one.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn take() -> Self {
        let locks = std::env::temp_dir().join("jwtunnel-test-ports");
        fs::create_dir_all(&locks).expect("a folder for locks");
        let count = u32::from(RANGE.end - RANGE.start);
        // Each process begins elsewhere, so that few meet.
        let start = std::process::id().wrapping_mul(37) % count;
        for step in 0..count {
            let number = RANGE.start + u16::try_from((start + step) % count).expect("in the range");
            let Ok(lock) = File::create(locks.join(number.to_string())) else { continue };
            if lock.try_lock().is_err() {
                continue;
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no free port in {RANGE:?}");
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// With its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
