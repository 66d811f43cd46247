//! Single requests over a kept-alive connection: to see that an answer is the right one before it is measured, and
//! where an exact number of requests is needed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// A connection that sends the same request again and again.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
}

impl Connection {
    /// Connects for `url`, as the suites make them: `http://ADDRESS:PORT/PATH`.
    pub(crate) fn open(url: &str, token: Option<&str>) -> Result<Self> {
        Self::with(url, request(url, token)?)
    }

    fn with(url: &str, request: Vec<u8>) -> Result<Self> {
        let (address, _) = split(url)?;
        let stream = TcpStream::connect(address).with_context(|| format!("no answer at {url}"))?;
        stream.set_nodelay(true)?;
        // Under valgrind everything takes long.
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream, request })
    }

    /// Sends the request and gives the status and the body of the answer.
    pub(crate) fn ask(&mut self) -> Result<(u16, Vec<u8>)> {
        self.stream.write_all(&self.request)?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let read = self.stream.read(&mut buffer).context("no answer")?;
            ensure!(read > 0, "the connection was closed without a whole answer");
            answer.extend_from_slice(&buffer[..read]);
            if let Some((status, start, length)) = head(&answer)?
                && answer.len() >= start + length
            {
                return Ok((status, answer.split_off(start)));
            }
        }
    }
}

/// Sends one `POST` with a JSON body, and gives the JSON of an answer that is no refusal.
pub(crate) fn call(url: &str, body: &Value) -> Result<Value> {
    let (status, answer) = Connection::with(url, post(url, &body.to_string())?)?.ask()?;
    let text = String::from_utf8_lossy(&answer);
    ensure!((200..300).contains(&status), "{url} answers {status}: {text}");
    serde_json::from_str(&text).with_context(|| format!("{url} answers {text:?}"))
}

/// Address with port, and path.
pub(crate) fn split(url: &str) -> Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").context("not a http URL")?;
    rest.split_once('/').context("a URL without a path")
}

/// The bytes of a request.
pub(crate) fn request(url: &str, token: Option<&str>) -> Result<Vec<u8>> {
    let (address, path) = split(url)?;
    let authorization =
        token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let text = format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\n{authorization}\r\n");
    Ok(text.into_bytes())
}

/// The bytes of a `POST` of JSON.
pub(crate) fn post(url: &str, body: &str) -> Result<Vec<u8>> {
    let (address, path) = split(url)?;
    let text = format!(
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    Ok(text.into_bytes())
}

/// The status, where the body begins, and its length, once the head is whole.
pub(crate) fn head(answer: &[u8]) -> Result<Option<(u16, usize, usize)>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&answer[..end]).context("a head that is not text")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
    });
    Ok(Some((status.context("no status")?, end + 4, length.context("no Content-Length")?)))
}
