//! A server of keys in threads of the test.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::nginx::NginxBuilder;

/// What a key server does with a connection on which the request has come.
pub type Behaviour = Arc<dyn Fn(&str, &mut TcpStream) + Send + Sync>;

/// A server of keys that keeps what it is sent, and whose behaviour can be changed.
pub struct KeyServer {
    address: String,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl std::fmt::Debug for KeyServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl KeyServer {
    /// Starts one on a port of its own.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn start(behaviour: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a port"), behaviour)
    }

    /// Starts one on a port that is open.
    ///
    /// # Panics
    /// If its address can't be told.
    #[must_use]
    pub fn on(
        listener: TcpListener,
        behaviour: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("its address").to_string();
        let behaviour: Arc<Mutex<Behaviour>> = Arc::new(Mutex::new(Arc::new(behaviour)));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let server = Self { address, behaviour, requests };
        let (behaviour, requests) = (Arc::clone(&server.behaviour), Arc::clone(&server.requests));
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (behaviour, requests) = (Arc::clone(&behaviour), Arc::clone(&requests));
                thread::spawn(move || {
                    let Some(request) = read_request(&mut stream) else { return };
                    requests.lock().expect("no panic").push(request.clone());
                    let behaviour = Arc::clone(&behaviour.lock().expect("no panic"));
                    behaviour(&request, &mut stream);
                    let _ = stream.shutdown(Shutdown::Write);
                });
            }
        });
        server
    }

    /// One that answers every request with `body`.
    #[must_use]
    pub fn of(body: &str) -> Self {
        let answer = ok(body);
        Self::start(move |_, stream| send(stream, &answer))
    }

    /// Does this from now on.
    ///
    /// # Panics
    /// If a thread of it has.
    pub fn behave(&self, behaviour: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) {
        *self.behaviour.lock().expect("no panic") = Arc::new(behaviour);
    }

    /// Sends this text from now on.
    pub fn answer(&self, answer: String) {
        self.behave(move |_, stream| send(stream, &answer));
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it was sent, one text for each request.
    ///
    /// # Panics
    /// If a thread of it has.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }

    /// How many requests there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.requests().len()
    }
}

/// The head of a request and the body that it announces.
fn read_request(stream: &mut TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let mut text = Vec::new();
    let mut buffer = [0; 65_536];
    loop {
        if let Some(head) = text.windows(4).position(|end| end == b"\r\n\r\n") {
            let lower = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
            let length = lower.split("content-length: ").nth(1).map_or(0, |rest| {
                rest.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(0)
            });
            if text.len() >= head + 4 + length {
                return Some(String::from_utf8_lossy(&text).into_owned());
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => text.extend(&buffer[..read]),
        }
    }
}

/// Sends a text to who may have gone away meanwhile; then there is nobody to tell.
pub fn send(stream: &mut TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes());
}

/// An answer with its length.
#[must_use]
pub fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A 200 with this body.
#[must_use]
pub fn ok(body: &str) -> String {
    answer("200 OK", "Content-Type: application/json\r\n", body)
}

/// A server with this text, in which KEYS is the key server's address; `/_keys` leads to it.
#[must_use]
pub fn nginx_with_keys(keys: &str, text: &str) -> NginxBuilder {
    let text = format!(
        "server {{
            listen LISTEN;
            location = /_keys {{ internal; proxy_read_timeout 2s; proxy_pass http://KEYS/keys; }}
            {text}
        }}"
    );
    NginxBuilder::bare(&text.replace("KEYS", keys))
}
