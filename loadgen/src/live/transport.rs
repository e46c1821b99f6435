//! A connection's bytes, plain or under TLS, directly or through a proxy, without ever blocking.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::failure::is_busy;
use crate::net::arrival::{self, Receiver};

/// The steps of a connection before it carries requests.
#[derive(Clone, Default)]
pub(crate) struct Place {
    /// The request to a proxy for a way through.
    pub(crate) tunnel: Option<Vec<u8>>,
    pub(crate) security: Option<Security>,
}

/// The TLS settings for connections to one host.
#[derive(Clone)]
pub(crate) struct Security {
    pub(crate) config: Arc<rustls::ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

/// One connection.
pub(crate) struct Transport {
    tcp: TcpStream,
    tls: Option<Box<ClientConnection>>,
    tunnel: Option<Tunnel>,
    /// When what was read last had arrived, where that is known.
    arrived: Option<u64>,
}

/// A socket whose reads note when the bytes arrived.
struct Noting<'a>(&'a TcpStream, &'a mut Receiver, &'a mut Option<u64>);

impl io::Read for Noting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (bytes, arrived) = self.1.receive(self.0, buffer)?;
        *self.2 = arrived;
        Ok(bytes)
    }
}

impl Transport {
    /// Begins to connect.
    pub(crate) fn connect(address: SocketAddr, place: &Place) -> io::Result<Self> {
        let tcp = TcpStream::connect(address)?;
        arrival::note(&tcp);
        let session = |s: &Security| {
            ClientConnection::new(Arc::clone(&s.config), s.name.clone()).map(Box::new)
        };
        let tls = place.security.as_ref().map(session).transpose().map_err(io::Error::other)?;
        let tunnel = place.tunnel.as_ref().map(|ask| Tunnel::new(ask));
        Ok(Self { tcp, tls, tunnel, arrived: None })
    }

    /// The socket, to be registered with a poll.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// True where a read that comes back short has emptied the socket. Under TLS it only emptied a record.
    pub(crate) fn short_read_empties(&self) -> bool {
        self.tls.is_none()
    }

    /// Goes on connecting; true once bytes can be sent.
    ///
    /// # Errors
    /// Why it never will.
    pub(crate) fn establish(&mut self) -> io::Result<bool> {
        if let Some(error) = self.tcp.take_error()? {
            return Err(error);
        }
        match self.tcp.peer_addr() {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotConnected => return Ok(false),
            Err(e) => return Err(e),
        }
        let _ = self.tcp.set_nodelay(true);
        if let Some(tunnel) = &mut self.tunnel {
            if !tunnel.dig(&mut self.tcp)? {
                return Ok(false);
            }
            self.tunnel = None;
        }
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.is_handshaking() {
            push(tls, &self.tcp)?;
            match tls.read_tls(&mut self.tcp) {
                Ok(0) => {
                    let why = "the server closed the connection during the TLS handshake";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                Ok(_) => {
                    let done = tls.process_new_packets().map(drop);
                    // An alert that says why may be waiting to be sent.
                    push(tls, &self.tcp)?;
                    done.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        push(tls, &self.tcp)?;
        Ok(true)
    }

    /// Sends what the socket takes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.tcp.write(bytes) };
        let taken = tls.writer().write(bytes)?;
        push(tls, &self.tcp)?;
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Hands the socket what TLS still holds; true when that is nothing.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        push(tls, &self.tcp)?;
        Ok(!tls.wants_write())
    }

    /// When what was read last had arrived, where that is known.
    pub(crate) fn arrived(&self) -> Option<u64> {
        self.arrived
    }

    /// Reads what is there; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8], receiver: &mut Receiver) -> io::Result<usize> {
        let mut tcp = Noting(&self.tcp, receiver, &mut self.arrived);
        let Some(tls) = &mut self.tls else { return tcp.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The end without a farewell is how many servers close: the HTTP framing tells a cut from an end.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            let more = tls.read_tls(&mut tcp)?;
            tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            push(tls, &self.tcp)?;
            if more == 0 {
                return match tls.reader().read(buffer) {
                    Ok(n) => Ok(n),
                    Err(_) => Ok(0),
                };
            }
        }
    }
}

/// A way through a proxy in the making.
pub(crate) struct Tunnel {
    /// The request for it, sent up to `sent`.
    ask: Vec<u8>,
    sent: usize,
    /// The proxy's answer so far.
    answer: Vec<u8>,
}

impl Tunnel {
    /// By what `ask` asks for.
    pub(crate) fn new(ask: &[u8]) -> Self {
        Self { ask: ask.to_owned(), sent: 0, answer: Vec::new() }
    }

    /// Goes on; true once the way is open. With a blocking socket it returns only then.
    ///
    /// # Errors
    /// The proxy's refusal, or a failure of the connection to it.
    pub(crate) fn dig(&mut self, tcp: &mut (impl io::Read + io::Write)) -> io::Result<bool> {
        let would_block = |e: &io::Error| e.kind() == io::ErrorKind::WouldBlock;
        while self.sent < self.ask.len() {
            match tcp.write(&self.ask[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(e) if would_block(&e) => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        // Byte by byte: what follows the head is the server's.
        let mut byte = [0];
        while !self.answer.ends_with(b"\r\n\r\n") {
            match tcp.read(&mut byte) {
                Ok(0) => return Err(refused(0, "it closed the connection")),
                Ok(_) if self.answer.len() > 16 << 10 => {
                    return Err(refused(0, "its answer has no end"));
                }
                Ok(_) => self.answer.push(byte[0]),
                Err(e) if would_block(&e) => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let line = self.answer.split(|b| *b == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let status = line.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        match status.unwrap_or(0) {
            200..=299 => Ok(true),
            status => Err(refused(status, &line)),
        }
    }
}

/// That a proxy does not let us through, by the status of its answer (0: it has none). A server that does not run yet
/// may start behind it; a proxy that denies the way will go on denying it.
fn refused(status: u16, why: &str) -> io::Error {
    let denied = (400..=499).contains(&status) && status != 408 && !is_busy(status);
    let kind =
        if denied { io::ErrorKind::PermissionDenied } else { io::ErrorKind::HostUnreachable };
    io::Error::new(kind, format!("the proxy does not let us through: {why}"))
}

/// Writes TLS records until there are none or the socket is full.
fn push(tls: &mut ClientConnection, mut tcp: &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(&mut tcp) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::failure::Kind;
    use super::*;

    /// A proxy that answers everything with the same, and is interrupted once.
    struct Proxy<'a>(&'a [u8], bool);

    impl io::Read for Proxy<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::take(&mut self.1) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.0.read(buffer)
        }
    }

    impl io::Write for Proxy<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_refusal_by_a_proxy_is_not_the_servers() {
        let dug = |answer: &str| {
            let dug = Tunnel::new(b"CONNECT a:1 HTTP/1.1\r\n\r\n")
                .dig(&mut Proxy(answer.as_bytes(), true));
            dug.map_err(|e| Kind::of(&e))
        };
        assert_eq!(dug("HTTP/1.1 200 Sure\r\n\r\n"), Ok(true));
        for denied in ["403 Forbidden", "407 Proxy Authentication Required"] {
            assert_eq!(dug(&format!("HTTP/1.1 {denied}\r\n\r\n")), Err(Kind::Denied), "{denied}");
        }
        for away in ["HTTP/1.1 503 Busy\r\n\r\n", "HTTP/1.1 429 Slower\r\n\r\n", "what\r\n\r\n", ""]
        {
            assert_eq!(dug(away), Err(Kind::Unreachable), "{away}");
        }
    }
}
