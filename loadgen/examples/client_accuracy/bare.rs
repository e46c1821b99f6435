//! The least a client can be: what it cannot do, none can.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Lateness in ns of waking up at `rate` instants per second for `time`, by sleeping and, `spin` before the
/// instant, polling the clock.
pub(crate) fn wakes(rate: u32, time: Duration, spin: Duration) -> Vec<i64> {
    let gap = Duration::from_secs(1) / rate;
    let start = Instant::now() + Duration::from_millis(5);
    let n = (time.as_secs_f64() * f64::from(rate)) as u32;
    let wake = |i: u32| {
        let due = start + gap * i;
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return due.elapsed().as_nanos() as i64;
            }
            if left > spin {
                std::thread::sleep(left - spin);
            }
        }
    };
    (0..n).map(wake).collect()
}

/// CPU µs per read of a loop that sends `request` on `streams` connections, 50 µs apart, and reads every answer to its
/// end as it comes: a wait, a read, and nothing else.
pub(crate) fn reads(address: &str, request: &[u8], streams: usize) -> Result<f64, Box<dyn Error>> {
    let mut poll = mio::Poll::new()?;
    let mut events = mio::Events::with_capacity(1024);
    let mut sockets = Vec::with_capacity(streams);
    for token in 0..streams {
        let mut socket = mio::net::TcpStream::from_std(nonblocking(address)?);
        poll.registry().register(&mut socket, mio::Token(token), mio::Interest::READABLE)?;
        sockets.push(socket);
    }
    for socket in &mut sockets {
        std::thread::sleep(Duration::from_micros(50));
        socket.write_all(request)?;
    }
    let (mut buffer, mut open, mut reads) = (vec![0; 256 << 10], streams, 0_u32);
    let before = thread_cpu();
    while open > 0 {
        poll.poll(&mut events, None)?;
        for event in &events {
            let read = match sockets[event.token().0].read(&mut buffer) {
                Ok(0) => return Err("the mock closed a connection".into()),
                Ok(n) => n,
                Err(_) => continue,
            };
            reads += 1;
            open -= usize::from(buffer[..read].ends_with(b"\r\n0\r\n\r\n"));
        }
    }
    Ok((thread_cpu() - before) * 1e6 / f64::from(reads))
}

fn nonblocking(address: &str) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Processor time of this thread, s.
fn thread_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Answers per second that a blocking loop over one connection per thread gets, looking for the end and nothing else.
pub(crate) fn answers(
    address: &str,
    request: &[u8],
    threads: usize,
    time: Duration,
) -> std::io::Result<f64> {
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (address, request) = (address.to_owned(), request.to_owned());
            std::thread::spawn(move || -> std::io::Result<u64> {
                let mut socket = TcpStream::connect(address)?;
                socket.set_nodelay(true)?;
                let (mut buffer, mut done, start) = (vec![0; 256 << 10], 0, Instant::now());
                while start.elapsed() < time {
                    socket.write_all(&request)?;
                    let mut held = 0;
                    while !buffer[..held].ends_with(b"\r\n0\r\n\r\n") {
                        held += socket.read(&mut buffer[held..])?;
                    }
                    done += 1;
                }
                Ok(done)
            })
        })
        .collect();
    let mut sum = 0;
    for worker in workers {
        sum += worker.join().map_err(|_| std::io::Error::other("a thread panicked"))??;
    }
    Ok(sum as f64 / time.as_secs_f64())
}
