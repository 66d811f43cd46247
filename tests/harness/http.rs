//! Requests, and answers as a user sees them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use reqwest::blocking::{Client, Response};

/// Longer than anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The value of a header that may stand once.
    ///
    /// # Panics
    /// If it stands more than once.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(each, _)| each == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert_eq!(values.next(), None, "{name} stands twice");
        value
    }
}

/// `GET url` with these headers.
///
/// # Panics
/// If no answer comes.
#[must_use]
pub fn get(url: &str, headers: &[(&str, &str)]) -> Answer {
    ask("GET", url, headers, None)
}

/// A request without anything done about its answer: no redirect is followed, no proxy is used.
///
/// # Panics
/// If no answer comes.
#[must_use]
pub fn ask(method: &str, url: &str, headers: &[(&str, &str)], json: Option<&str>) -> Answer {
    try_ask(method, url, headers, json).unwrap_or_else(|error| panic!("{method} {url}: {error}"))
}

/// As [`ask`], for servers that may be away.
///
/// # Errors
/// If no answer comes.
pub(crate) fn try_ask(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    json: Option<&str>,
) -> reqwest::Result<Answer> {
    let client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .danger_accept_invalid_certs(true)
        .timeout(LIMIT)
        .build()?;
    let mut request = client.request(method.parse().expect("a method"), url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(json) = json {
        request = request.header("content-type", "application/json").body(json.to_owned());
    }
    answer(request.send()?)
}

fn answer(response: Response) -> reqwest::Result<Answer> {
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    Ok(Answer { status: response.status().as_u16(), headers, body: response.text()? })
}

/// The status of a request whose target is sent as it is: a library would tidy up `..` and the like.
///
/// # Panics
/// If no answer comes.
#[must_use]
pub fn ask_raw(server: SocketAddr, target: &str, headers: &[(&str, &str)]) -> u16 {
    let mut stream = TcpStream::connect(server).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).expect("the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer");
    let text = String::from_utf8_lossy(&answer);
    text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
}

/// Sends these very bytes and gives all that comes until the server ends the connection.
///
/// # Panics
/// If it does not end it.
#[must_use]
pub fn exchange(server: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(server).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.write_all(request).expect("the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the answer");
    String::from_utf8_lossy(&answer).into_owned()
}
