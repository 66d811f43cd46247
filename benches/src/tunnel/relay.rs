//! The bare relay: what a tunnel must do at the least, without frames or any protocol. It reads and writes, or lets the
//! kernel pass the pages on.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::service::BUFFER;

/// What a pipe holds: as much as an unprivileged user may have.
const PIPE: usize = 1024 * 1024;

/// Carries connections to `port` on to `target` until it is killed; a thread for each direction.
pub(super) fn serve(port: u16, target: u16, splices: bool) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("can't listen on port {port}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || connect(stream, target, splices));
    }
    Ok(())
}

fn connect(here: TcpStream, target: u16, splices: bool) -> std::io::Result<()> {
    let there = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    let (from, to) = (there.try_clone()?, here.try_clone()?);
    thread::spawn(move || carry(&from, &to, splices));
    carry(&here, &there, splices);
    Ok(())
}

/// Until one end fails or has sent everything. The other direction may go on; where it has ended already there is
/// nothing left to shut down.
fn carry(from: &TcpStream, to: &TcpStream, splices: bool) {
    let _ = if splices { pass(from, to) } else { copy(from, to) };
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count])?;
    }
}

fn pass(from: &TcpStream, to: &TcpStream) -> std::io::Result<()> {
    let (exit, entrance) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&entrance, PIPE)?;
    loop {
        let mut held = splice(from, None, &entrance, None, PIPE, SpliceFlags::MOVE)?;
        if held == 0 {
            return Ok(());
        }
        while held > 0 {
            held -= splice(&exit, None, to, None, held, SpliceFlags::MOVE)?;
        }
    }
}
