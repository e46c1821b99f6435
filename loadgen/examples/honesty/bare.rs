//! The least a client can be: what it cannot do, none can.

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
