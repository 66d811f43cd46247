//! Programs that a benchmark runs: pinned to a core, ended by their process id, and what the kernel knows of them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The core of what is measured.
pub(crate) const SERVER_CORE: u32 = 0;
/// The core of what makes the load.
pub(crate) const LOAD_CORE: u32 = 1;

/// A command that runs `program` on one core, and ends when this process does, however that ends.
///
/// It inherits this process's priority, which `scripts/bench.sh` raises where it may.
pub(crate) fn pinned(core: u32, program: &str) -> Command {
    let mut command = free("taskset");
    command.args(["--cpu-list", &core.to_string(), program]);
    command
}

/// The same on any core.
pub(crate) fn free(program: &str) -> Command {
    // Both come with util-linux, which every Debian has.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", program]).stdin(Stdio::null());
    command
}

/// A port of the loopback address that nobody listens on.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// A program that serves until it is dropped, its output in a file.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("can't write {}", log.display()))?;
        command.stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| {
            format!("{name} can't be started ({}): scripts/packages.sh bench", quoted(&command))
        })?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it accepts connections on a port.
    pub(crate) fn wait_for(&mut self, port: u16, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} has ended ({status}):\n{}", self.name, self.output());
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("{} does not listen after {limit:?}:\n{}", self.name, self.output());
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// The end of its output.
    pub(crate) fn output(&self) -> String {
        tail(&self.log)
    }

    /// Asks it to end and waits for that.
    pub(crate) fn stop(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        let pid = self.child.id().to_string();
        if self.child.try_wait()?.is_none() {
            Command::new("kill").args(["-s", "TERM", &pid]).status().context("kill")?;
        }
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                bail!("{} (pid {pid}) does not end after {limit:?}", self.name);
            }
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.stop(Duration::from_secs(10)).is_err() {
            // Without its master a worker of nginx would serve on.
            for child in children(self.child.id()) {
                let _ = Command::new("kill").args(["-s", "KILL", &child.to_string()]).status();
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command to its end and gives its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = quoted(command);
    let output = command.output().with_context(|| format!("{shown} can't be started"))?;
    if !output.status.success() {
        bail!("{shown} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|fields| fields.get(1) == Some(&parent.to_string())))
        .collect()
}

/// This program again, on one core.
pub(crate) fn own(core: u32) -> Result<Command> {
    let own = std::env::current_exe()?;
    Ok(pinned(core, own.to_str().context("the path of this program is not UTF-8")?))
}

/// The numbers that this program has printed when it was started by [`own`].
pub(crate) fn numbers(printed: &str) -> Result<Vec<f64>> {
    let numbers: Result<_, _> = printed.split_whitespace().map(str::parse).collect();
    numbers.with_context(|| format!("not numbers: {printed:?}"))
}

/// What a process had used of the CPU at some time, in seconds, by thread and in all.
#[derive(Debug)]
pub(crate) struct Cpu {
    pid: u32,
    threads: HashMap<String, f64>,
    all: f64,
}

impl Cpu {
    /// Up to now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let folder = format!("/proc/{pid}/task");
        let tasks = fs::read_dir(&folder).with_context(|| format!("process {pid} is gone"))?;
        let mut threads = HashMap::new();
        for task in tasks {
            let task = task?;
            // A thread may have ended since.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            // The first number is the time on the CPU in nanoseconds: the sum of utime and stime without their
            // rounding to hundredths of a second, which would be a percent of a leg.
            let used: f64 =
                text.split(' ').next().and_then(|used| used.parse().ok()).with_context(|| {
                    format!("{folder}: no schedstat; the kernel needs CONFIG_SCHED_INFO")
                })?;
            threads.insert(task.file_name().to_string_lossy().into_owned(), used / 1e9);
        }
        Ok(Self { pid, threads, all: all_cpu(pid)? })
    }

    /// What the process has used since.
    pub(crate) fn used(&self) -> Result<f64> {
        /// Of the rounding of what it is compared with.
        const UNCERTAIN: f64 = 0.03;
        let now = Self::of(self.pid)?;
        let threads = now.threads.iter();
        let threads: f64 =
            threads.map(|(name, used)| used - self.threads.get(name).unwrap_or(&0.0)).sum();
        // Threads that have ended meanwhile are only in the sum of all.
        let all = now.all - self.all;
        Ok(if all > threads + UNCERTAIN { all } else { threads })
    }
}

/// What a process and its threads, ended ones included, have used, in steps of a hundredth of a second.
fn all_cpu(pid: u32) -> Result<f64> {
    // proc(5): fields 14 and 15, in ticks; from the state (field 3) on, utime is number 11.
    let fields = stat(pid).with_context(|| format!("process {pid} is gone"))?;
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
        bail!("/proc/{pid}/stat has no utime and stime");
    };
    Ok((user + system) / 100.0)
}

/// The bytes of anonymous memory that a process holds (`RssAnon`).
pub(crate) fn anonymous_memory(pid: u32) -> Result<f64> {
    memory(pid, "RssAnon:")
}

/// The bytes of memory that a process holds, files that it has mapped included (`VmRSS`).
pub(crate) fn resident_memory(pid: u32) -> Result<f64> {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, field: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("process {pid} is gone"))?;
    let kib: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("{path} has no {field}"))?;
    Ok(kib * 1024.0)
}

/// The nice value of this process.
pub(crate) fn own_priority() -> Option<i32> {
    // proc(5): field 19; the state is field 3.
    stat(std::process::id())?.get(16)?.parse().ok()
}

/// The fields of `/proc/PID/stat` that follow the name: state, parent, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// The last lines of a file; empty if it can't be read.
pub(crate) fn tail(path: &Path) -> String {
    const LINES: usize = 20;
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn quoted(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy()));
    words.join(" ")
}
