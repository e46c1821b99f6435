//! Single requests around a run, where time does not matter: is it there, what does it serve, how does it want to be
//! asked. Answers are read with the eyes of the run.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{Answer, Trouble};
use super::endpoint::Endpoint;
use super::failure::{Kind, one_line};
use super::transport::Tunnel;
use crate::error::Error;

/// The time for which an answer may stay open after its last token.
const LINGER: Duration = Duration::from_secs(1);
/// Most bytes kept of a list or a document.
const LONGEST: usize = 16 << 20;

/// Sends the whole HTTP request `bytes` and listens until the answer is over, or until its stream says that it is.
///
/// # Errors
/// By kind: refused, unreachable, TLS, timeout, cut, reset, malformed.
pub(super) fn call(
    endpoint: &Endpoint,
    bytes: &[u8],
    mut answer: Answer,
    timeout: Duration,
) -> Result<Answer, Trouble> {
    let by_socket = |e: io::Error| {
        let timed_out = matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        let why = if timed_out { format!("no answer within {timeout:?}") } else { e.to_string() };
        (if timed_out { Kind::Timeout } else { Kind::of(&e) }, why)
    };
    let (mut stream, tcp) = connect(endpoint, timeout).map_err(by_socket)?;
    // A server that refuses early may close before it has read everything: what it says counts.
    let sent = stream.write_all(bytes).and_then(|()| stream.flush());
    let (mut buffer, began) = (vec![0; 64 << 10], Instant::now());
    while !answer.response.is_done() && !answer.stream.marked {
        if began.elapsed() > timeout {
            return Err((Kind::Timeout, format!("no end within {timeout:?}")));
        }
        let read = match stream.read(&mut buffer) {
            Ok(0) if answer.response.ends_with_connection() => break,
            Ok(0) => {
                let trouble = (
                    Kind::Cut,
                    "the server closed the connection before its answer ended".to_owned(),
                );
                return answer.broken(trouble).map(|()| answer);
            }
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e)
                if e.kind() == io::ErrorKind::UnexpectedEof
                    && answer.response.ends_with_connection() =>
            {
                break;
            }
            Err(e) => {
                let trouble = by_socket(sent.err().unwrap_or(e));
                return answer.broken(trouble).map(|()| answer);
            }
        };
        answer.absorb(&buffer[..read])?;
        let patience = if answer.is_told() { LINGER.min(timeout) } else { timeout };
        tcp.set_read_timeout(Some(patience)).map_err(by_socket)?;
    }
    Ok(answer)
}

/// The status and the body of what is at `path`, after redirects on the same server.
///
/// # Errors
/// As [`call`]; a redirect that leads elsewhere.
pub(super) fn fetch(
    endpoint: &Endpoint,
    path: &str,
    timeout: Duration,
) -> Result<(u16, String), Error> {
    let mut path = path.to_owned();
    for _ in 0..3 {
        let request = endpoint.head("GET", &path) + "connection: close\r\n\r\n";
        let answer = call(endpoint, request.as_bytes(), Answer::keeping(LONGEST), timeout)
            .map_err(|trouble| failed(endpoint, &format!("GET {path}"), &trouble))?;
        match (answer.response.status, &answer.response.location) {
            (300..=399, Some(location)) => path = endpoint.redirected(&path, location)?,
            (status, _) => return Ok((status, answer.said())),
        }
    }
    Err(Error::Endpoint(format!("{} redirects in circles at {path}", endpoint.shown().0)))
}

/// That something which was asked for failed.
pub(super) fn failed(endpoint: &Endpoint, what: &str, (kind, why): &Trouble) -> Error {
    let (server, proxy) = endpoint.shown();
    let through = proxy.map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"));
    let text = format!("{what} at {server}{through} failed ({kind}): {}", one_line(why));
    match kind {
        Kind::Refused | Kind::Unreachable => Error::Nobody(text),
        Kind::Timeout | Kind::Reset | Kind::Cut => Error::NotReady(text),
        _ => Error::Endpoint(text),
    }
}

/// A connection that blocks.
trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

/// A connection to the server, and its socket.
fn connect(endpoint: &Endpoint, timeout: Duration) -> io::Result<(Box<dyn Both>, TcpStream)> {
    let mut outcome = Err(io::ErrorKind::NotConnected.into());
    for address in &endpoint.addresses {
        outcome = TcpStream::connect_timeout(address, timeout);
        if outcome.is_ok() {
            break;
        }
    }
    let mut tcp = outcome.map_err(|e: io::Error| match e.kind() {
        // A connect timeout counts as unreachable.
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::HostUnreachable, "the connection timed out")
        }
        _ => e,
    })?;
    tcp.set_read_timeout(Some(timeout))?;
    tcp.set_write_timeout(Some(timeout))?;
    if let Some(ask) = &endpoint.place.tunnel
        && !Tunnel::new(ask).dig(&mut tcp)?
    {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let socket = tcp.try_clone()?;
    let Some(s) = &endpoint.place.security else { return Ok((Box::new(tcp), socket)) };
    let session = rustls::ClientConnection::new(Arc::clone(&s.config), s.name.clone());
    let session = session.map_err(io::Error::other)?;
    Ok((Box::new(rustls::StreamOwned::new(session, tcp)), socket))
}
