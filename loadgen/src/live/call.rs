//! Single requests around a run, where time does not matter: is it there, what does it serve, how does it count.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::failure::{Kind, one_line};
use super::http::Response;
use crate::error::Error;

/// Most bytes kept of a body.
const LONGEST: usize = 16 << 20;

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The body's beginning on one line.
    pub(crate) fn said(&self) -> String {
        one_line(&String::from_utf8_lossy(&self.body[..self.body.len().min(2_000)]))
    }
}

/// Sends one request and waits for the whole answer.
///
/// # Errors
/// By kind: refused, unreachable, TLS, timeout, cut, malformed.
pub(crate) fn call(
    endpoint: &Endpoint,
    method: &str,
    path: &str,
    body: Option<&str>,
    timeout: Duration,
) -> Result<Reply, Error> {
    let failed = |kind: Kind, e: &dyn std::fmt::Display| {
        let where_ = endpoint.addresses[0];
        Error::Endpoint(format!("{method} {path} at {where_} failed ({kind}): {e}"))
    };
    let by_socket = |e: io::Error| {
        let timed_out = matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        failed(if timed_out { Kind::Timeout } else { Kind::of(&e) }, &e)
    };
    let mut stream = connect(endpoint, timeout).map_err(by_socket)?;
    let mut request = endpoint.head(method, path) + "connection: close\r\n";
    if let Some(body) = body {
        request += "content-type: application/json\r\n";
        request += &format!("content-length: {}\r\n\r\n{body}", body.len());
    } else {
        request += "\r\n";
    }
    stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).map_err(by_socket)?;
    let (mut response, mut kept) = (Response::default(), Vec::new());
    let (mut buffer, began) = (vec![0; 64 << 10], Instant::now());
    while !response.is_done() {
        if began.elapsed() > timeout {
            return Err(failed(Kind::Timeout, &format!("no answer within {timeout:?}")));
        }
        let read = match stream.read(&mut buffer) {
            Ok(0) if response.ends_with_connection() => break,
            Ok(0) => return Err(failed(Kind::Cut, &"the connection ended before the answer")),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e)
                if e.kind() == io::ErrorKind::UnexpectedEof && response.ends_with_connection() =>
            {
                break;
            }
            Err(e) => return Err(by_socket(e)),
        };
        let keep = &mut |_: &Response, piece: &[u8]| {
            let room = LONGEST - kept.len();
            kept.extend_from_slice(&piece[..piece.len().min(room)]);
        };
        response.feed(&buffer[..read], keep).map_err(|e| failed(Kind::Malformed, &e))?;
    }
    Ok(Reply { status: response.status, body: kept })
}

/// A connection that blocks.
trait Both: Read + Write {}
impl<T: Read + Write> Both for T {}

fn connect(endpoint: &Endpoint, timeout: Duration) -> io::Result<Box<dyn Both>> {
    let mut outcome = Err(io::ErrorKind::NotConnected.into());
    for address in &endpoint.addresses {
        outcome = TcpStream::connect_timeout(address, timeout);
        if outcome.is_ok() {
            break;
        }
    }
    let tcp = outcome?;
    tcp.set_read_timeout(Some(timeout))?;
    tcp.set_write_timeout(Some(timeout))?;
    let Some(s) = &endpoint.security else { return Ok(Box::new(tcp)) };
    let session = rustls::ClientConnection::new(Arc::clone(&s.config), s.name.clone());
    Ok(Box::new(rustls::StreamOwned::new(session.map_err(io::Error::other)?, tcp)))
}
