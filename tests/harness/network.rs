//! A network of the test's own, in which packets can be dropped.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with nothing but loopback; gone with the value.
#[derive(Debug)]
pub struct Network {
    name: String,
}

impl Network {
    /// Runs `test` in a thread that lives in a new network, as do the threads and programs that it starts.
    ///
    /// # Panics
    /// If `test` does, or if the network can't be made, which takes root.
    pub fn within(test: impl FnOnce(&Self) + Send) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let network = Self { name: format!("jwtunnel-{}-{count}", std::process::id()) };
        run("ip", &["netns", "add", &network.name]);
        let path = format!("/run/netns/{}", network.name);
        let inside = || {
            let namespace = File::open(&path).expect("the namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("to be inside");
            run("ip", &["link", "set", "lo", "up"]);
            test(&network);
        };
        let ended = thread::scope(|scope| scope.spawn(inside).join());
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    }

    /// Drops what matches, in both directions: a rule of `iptables`, without its target.
    ///
    /// # Panics
    /// If iptables refuses it.
    pub fn drop_packets(&self, matching: &[&str]) {
        let mut rule = vec!["-w", "-A", "INPUT"];
        rule.extend(matching);
        rule.extend(["-j", "DROP"]);
        run("iptables", &rule);
    }

    /// From now on everything arrives again.
    ///
    /// # Panics
    /// If iptables refuses it.
    pub fn drop_nothing(&self) {
        run("iptables", &["-w", "-F", "INPUT"]);
    }

    /// One more address of this host.
    ///
    /// # Panics
    /// If `ip` refuses it.
    pub fn add_address(&self, address: Ipv4Addr) {
        run("ip", &["address", "add", &format!("{address}/32"), "dev", "lo"]);
    }

    /// How many packets were dropped so far.
    ///
    /// # Panics
    /// If iptables does not tell.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let output = Command::new("iptables").args(["-w", "-nvxL", "INPUT"]).output();
        let listed = String::from_utf8(output.expect("iptables").stdout).expect("text");
        let rules = listed.lines().filter(|line| line.contains(" DROP "));
        let count = |line: &str| line.split_whitespace().next()?.parse::<u64>().ok();
        rules.map(|line| count(line).expect("a count")).sum()
    }

    /// Nothing that a process has connected by TCP gets through any more, nor is it told; what it connects later does.
    /// Returns how many connections that are.
    ///
    /// # Panics
    /// If `ss` or iptables do not work.
    pub fn vanish(&self, process: u32, port: u16) -> usize {
        let filter = format!("( dport = :{port} )");
        let output = Command::new("ss").args(["-Htnp", "state", "established", &filter]).output();
        let output = output.expect("ss");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed = String::from_utf8(output.stdout).expect("text");
        let (owner, port) = (format!("pid={process},"), port.to_string());
        let mut count = 0;
        for line in listed.lines().filter(|line| line.contains(&owner)) {
            // Receive queue, send queue, own address, the other's.
            let own = line.split_whitespace().nth(2).and_then(|own| own.rsplit_once(':'));
            let (_, own) = own.expect("an address");
            // By both ports: later somebody else may connect to something else from the same one.
            self.drop_packets(&["-p", "tcp", "--sport", own, "--dport", &port]);
            self.drop_packets(&["-p", "tcp", "--sport", &port, "--dport", own]);
            count += 1;
        }
        count
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}
