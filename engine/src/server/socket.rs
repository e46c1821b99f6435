//! Checks of the request line that hyper does not make, and a write timeout.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout, timeout_at};

/// Longest first line of a request, bytes: what RFC 9112 recommends that servers take.
const LONGEST_LINE: usize = 8000;
/// The time for which a refusal may wait to be sent, and the client may go on sending, before the connection is cut: a
/// reset would discard the answer before the client reads it.
const LINGER: Duration = Duration::from_secs(2);

/// A client's connection. A write that gets nowhere for a time is an error.
pub(super) struct Socket {
    stream: TcpStream,
    /// The first line of the first request, until it is whole.
    line: Option<Vec<u8>>,
    fault: Option<StatusCode>,
    patience: Duration,
    /// The end of the time for which a write may wait.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// `patience` is the time for which a write may get nowhere.
    pub(super) fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, line: Some(Vec::new()), fault: None, patience, stalled: None }
    }

    /// The fault in the first line, if there is one.
    pub(super) fn fault(&self) -> Option<StatusCode> {
        self.fault
    }

    /// Answers a request that the router does not see.
    pub(super) async fn refuse(&self, status: StatusCode, body: &str) {
        let (code, length) = (status.as_u16(), body.len());
        let reason = status.canonical_reason().unwrap_or_default();
        let answer = format!(
            "HTTP/1.1 {code} {reason}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        // It is small, and nothing was sent before it: it fits, or the client is gone.
        if let Ok(Ok(())) = timeout(LINGER, self.stream.writable()).await {
            let _ = self.stream.try_write(answer.as_bytes());
        }
    }

    /// Ends the connection: announces the end, and takes further input for a short time.
    pub(super) async fn close(mut self) {
        let end = Instant::now() + LINGER;
        let said = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
        if said.is_err() {
            return;
        }
        let mut waste = [0; 16 << 10];
        while let Ok(Ok(())) = timeout_at(end, self.stream.readable()).await {
            match self.stream.try_read(&mut waste) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Looks at more of the first line.
    fn judge(&mut self, mut bytes: &[u8]) {
        let Some(line) = &mut self.line else { return };
        loop {
            let end = bytes.iter().position(|b| *b == b'\n');
            line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
            match end {
                None if line.len() <= LONGEST_LINE => return,
                // Empty lines before a request mean nothing.
                Some(end) if line.trim_ascii().is_empty() => {
                    line.clear();
                    bytes = &bytes[end + 1..];
                }
                _ => break,
            }
        }
        self.fault = first_line(line);
        self.line = None;
    }

    /// Gives up a write that has waited too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The fault in `line`, beyond those that the parser of HTTP/1.1 reports itself.
fn first_line(line: &[u8]) -> Option<StatusCode> {
    if line.len() > LONGEST_LINE {
        return line.contains(&b' ').then_some(StatusCode::URI_TOO_LONG);
    }
    let version = line.trim_ascii_end().rsplit(|b| *b == b' ').next()?.strip_prefix(b"HTTP/")?;
    let [major, b'.', minor] = version else { return None };
    let other = major.is_ascii_digit() && minor.is_ascii_digit() && *major != b'1';
    other.then_some(StatusCode::HTTP_VERSION_NOT_SUPPORTED)
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if self.line.is_some() {
            self.judge(&buffer.filled()[before..]);
        }
        let said = self.fault.map_or(Ok(()), |_| Err(io::ErrorKind::InvalidData.into()));
        Poll::Ready(said)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => self.wait(cx),
            done => {
                self.stalled = None;
                done
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, pieces) {
            Poll::Pending => self.wait(cx),
            done => {
                self.stalled = None;
                done
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Nothing: an answer may still be to come, and [`Socket::close`] comes after it.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
