//! The bare relay: what a tunnel must do at the least, read and write, without frames or any protocol.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, Result};

use super::service::BUFFER;

/// Carries connections to `port` on to `target` until it is killed; a thread for each direction.
pub(super) fn serve(port: u16, target: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("can't listen on port {port}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || connect(stream, target));
    }
    Ok(())
}

fn connect(here: TcpStream, target: u16) -> std::io::Result<()> {
    let there = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    let (from, to) = (there.try_clone()?, here.try_clone()?);
    thread::spawn(move || copy(from, to));
    copy(here, there);
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other direction may go on; where it has ended already there is nothing left to shut down.
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
