//! Reading from somebody who may never answer.

use std::io::Read;
use std::os::fd::AsFd;
use std::time::Instant;

use crate::interrupt::Interrupt;

/// No answer is longer; one that is ends here.
const MAX_BYTES: usize = 1024 * 1024;

/// All that comes until the end, as bytes; at most 1 MiB.
///
/// # Errors
/// The end had not come at `deadline` or when something came to end us, there was more, or it could not be read; the
/// reason.
pub(crate) fn read_until(
    mut pipe: impl Read + AsFd,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Whoever writes a byte at a time is always ready.
        if left.is_zero() && !bytes.is_empty() {
            return Err("no answer in time".to_owned());
        }
        let woken = interrupt.wait_for(&[pipe.as_fd()], left).map_err(|error| error.to_string())?;
        if woken.interrupted {
            return Err("called off".to_owned());
        }
        if !woken.by_any() {
            if left.is_zero() {
                return Err("no answer in time".to_owned());
            }
            continue;
        }
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() >= MAX_BYTES => return Err(format!("an answer of more than {MAX_BYTES} bytes")),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_hangs_is_given_up_in_time() {
        let (read, _kept_open) = std::io::pipe().unwrap();
        let begin = Instant::now();
        assert!(read_until(read, begin + Duration::from_millis(50), &Interrupt::default()).is_err());
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn whoever_trickles_is_given_up_in_time() {
        let (read, mut write) = std::io::pipe().unwrap();
        let trickle = std::thread::spawn(move || while write.write_all(b"x").is_ok() {});
        let begin = Instant::now();
        let told = read_until(read, begin + Duration::from_millis(50), &Interrupt::default());
        assert_eq!(told, Err("no answer in time".to_owned()));
        assert!(begin.elapsed() < Duration::from_secs(5));
        trickle.join().unwrap();
    }

    #[test]
    fn all_is_read_and_no_more_than_is_sane() {
        let soon = || Instant::now() + Duration::from_secs(20);
        let (read, mut write) = std::io::pipe().unwrap();
        write.write_all(b"all of it").unwrap();
        drop(write);
        assert_eq!(read_until(read, soon(), &Interrupt::default()).as_deref(), Ok(&b"all of it"[..]));
        let (read, mut write) = std::io::pipe().unwrap();
        let flood = std::thread::spawn(move || while write.write_all(&[b'x'; 4096]).is_ok() {});
        assert!(read_until(read, soon(), &Interrupt::default()).is_err());
        flood.join().unwrap();
    }
}
