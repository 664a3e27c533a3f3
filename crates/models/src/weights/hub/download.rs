//! Bytes from the hub into a file, taken up again where they broke off.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode};

use super::client::{Client, Fault};

/// Bytes read at once.
const PIECE: usize = 1 << 18;
/// Pieces that wait to be written.
const WAITING: usize = 4;
/// Between two questions whether to go on, while nothing arrives.
const LOOK: Duration = Duration::from_millis(100);
/// Before the first new attempt; doubled for each that follows.
const PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why a file did not arrive.
#[derive(Debug)]
pub(super) enum Broken {
    /// Whoever asked said to stop.
    Stopped,
    /// The hub or the way to it.
    Fault(Fault),
    /// The disk.
    Io(std::io::Error),
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// What the thread that reads from the hub tells.
enum Message {
    /// The first byte that follows.
    From(u64),
    Bytes(Vec<u8>),
    Failed(Fault),
    End,
}

/// A download.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client,
    pub(super) address: &'a str,
    /// The length of the whole, if it is known.
    pub(super) size: Option<u64>,
    /// How often it is taken up again without a byte of progress.
    pub(super) retries: usize,
    /// Told the bytes there are; says whether to go on.
    pub(super) go_on: &'a mut dyn FnMut(u64) -> bool,
}

impl Download<'_> {
    /// Writes the rest of the file to `part`, which may hold the beginning.
    pub(super) fn run(mut self, part: &Path) -> Result<(), Broken> {
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(part)?;
        let mut length = file.metadata()?.len();
        if self.size.is_none_or(|size| length > size) {
            // Without a size nobody can tell whether what is there is the beginning of this file.
            file.set_len(0)?;
            length = 0;
        }
        let (mut furthest, mut attempts) = (length, 0);
        while self.size.is_none_or(|size| length < size) {
            let fault = match self.attempt(&mut file, &mut length) {
                Ok(()) if self.size.is_none_or(|size| length >= size) => break,
                Ok(()) => Fault::Transport(format!("it broke off after {length} bytes")),
                Err(Broken::Fault(fault)) => fault,
                Err(other) => return Err(other),
            };
            if fault == Fault::Status(StatusCode::RANGE_NOT_SATISFIABLE.as_u16()) && length > 0 {
                // What is there is not the beginning of what the hub has.
                file.set_len(0)?;
                length = 0;
            } else if !fault.may_pass() {
                return Err(Broken::Fault(fault));
            }
            // A long file over a bad line breaks off often; only attempts that bring nothing are counted.
            attempts = if length > furthest && self.retries > 0 { 0 } else { attempts + 1 };
            furthest = furthest.max(length);
            if attempts > self.retries {
                return Err(Broken::Fault(fault));
            }
            self.pause(attempts, length)?;
        }
        file.sync_all()?;
        Ok(())
    }

    /// Waits before another attempt.
    fn pause(&mut self, attempts: usize, length: u64) -> Result<(), Broken> {
        let mut rest = PAUSE.saturating_mul(1 << attempts.min(8)).min(LONGEST_PAUSE);
        while !rest.is_zero() {
            if !(self.go_on)(length) {
                return Err(Broken::Stopped);
            }
            std::thread::sleep(LOOK.min(rest));
            rest = rest.saturating_sub(LOOK);
        }
        Ok(())
    }

    /// One connection, until it ends.
    fn attempt(&mut self, file: &mut File, length: &mut u64) -> Result<(), Broken> {
        let messages = self.listen(*length);
        loop {
            match messages.recv_timeout(LOOK) {
                // Some servers send the whole, whatever they are asked for.
                Ok(Message::From(start)) if start <= *length => {
                    file.set_len(start)?;
                    file.seek(SeekFrom::Start(start))?;
                    *length = start;
                }
                Ok(Message::From(start)) => {
                    return Err(Broken::Fault(Fault::Transport(format!("it sends from byte {start} on instead of {length}"))));
                }
                Ok(Message::Bytes(bytes)) => {
                    file.write_all(&bytes)?;
                    *length += bytes.len() as u64;
                }
                Ok(Message::Failed(fault)) => return Err(Broken::Fault(fault)),
                Ok(Message::End) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if !(self.go_on)(*length) {
                return Err(Broken::Stopped);
            }
        }
    }

    /// Reads on a thread of its own: a silent server must not keep anybody who wants to stop. The thread ends with the connection, or with
    /// the first piece that nobody takes.
    fn listen(&self, start: u64) -> Receiver<Message> {
        let (sender, receiver) = sync_channel(WAITING);
        let (client, address) = (self.client.clone(), self.address.to_owned());
        std::thread::spawn(move || {
            let last = read(&client, &address, start, &sender).map_or_else(Message::Failed, |()| Message::End);
            // Nobody may be listening any more.
            _ = sender.send(last);
        });
        receiver
    }
}

fn read(client: &Client, address: &str, start: u64, sender: &SyncSender<Message>) -> Result<(), Fault> {
    let answer = client.open(address, start)?;
    let first = if answer.status() == StatusCode::PARTIAL_CONTENT { first_byte(answer.headers()).unwrap_or(start) } else { 0 };
    let mut is_heard = sender.send(Message::From(first)).is_ok();
    let mut reader = answer.into_body().into_reader();
    let mut buffer = vec![0; PIECE];
    while is_heard {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => is_heard = sender.send(Message::Bytes(buffer[..count].to_vec())).is_ok(),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Fault::Transport(crate::weights::printable(&error.to_string()))),
        }
    }
    Ok(())
}

/// The first byte of a part of a file: `content-range: bytes 5-9/10`.
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    headers.get("content-range")?.to_str().ok()?.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
