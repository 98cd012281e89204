//! Hands the dispatcher one request at a time.
//!
//! The dispatcher (actix-http 3.20) reads ahead, and a head that it has read decides how the answer before it is written: a
//! `HEAD` behind a request that is still being worked on takes that one's body away and leaves its length, and the client
//! takes the next answer for the missing body. Here the bytes behind a request wait until its answer is complete.
//! Behind a chunked body they pass: its end is not known here.
//!
//! ```text
//! | head 1 | body 1 | head 2 ...
//!  pass     pass     hold until answer 1 is complete
//!        ^ the dispatcher gets a turn here: it says how long the body is
//! ```
//! Invariant: bytes pass in order, none is lost.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::Activity;

/// Most that is read ahead. With so much waiting, a client that goes away is noticed only when it is written to.
const MOST: usize = 16 << 10;

/// Bytes on their way to the dispatcher.
#[derive(Default)]
pub(super) struct Intake {
    waiting: Vec<u8>,
    /// The client will send nothing more, or is not listened to any more.
    ended: bool,
    /// A head was passed on to its end, and the dispatcher has not had its turn.
    head_passed: bool,
    /// The byte before was the end of a line.
    line_ended: bool,
}

/// What to do with the bytes that wait.
pub(super) enum Step {
    /// So many may pass.
    Pass(usize),
    /// The dispatcher's turn; then more.
    Yield,
    /// Nothing before the open request is answered.
    Hold,
    /// There are none.
    Empty,
}

impl Intake {
    /// Reads what is there, up to the bound. Afterwards the task is registered with the socket unless the bound was reached.
    pub fn fill<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        let mut chunk = [0; 4096];
        while !self.ended && self.waiting.len() < MOST {
            let mut buf = ReadBuf::new(&mut chunk);
            match Pin::new(&mut *io).poll_read(cx, &mut buf) {
                Poll::Pending => break,
                Poll::Ready(result) => result?,
            }
            self.ended = buf.filled().is_empty();
            self.waiting.extend_from_slice(buf.filled());
        }
        Ok(())
    }

    /// Whether nothing more comes, as far as the open request is concerned.
    pub fn is_over(&self, activity: &Activity) -> bool {
        self.ended && (self.waiting.is_empty() || activity.body_left() == Some(0))
    }

    /// Whether the client has ended its sending.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Stops listening.
    pub fn end(&mut self) {
        self.ended = true;
        self.waiting = Vec::new();
    }

    /// What to do next, with room for so many bytes.
    pub fn step(&mut self, activity: &Activity, room: usize) -> Step {
        if self.waiting.is_empty() {
            // An idle connection holds no buffer.
            self.waiting = Vec::new();
            return Step::Empty;
        }
        let len = self.waiting.len().min(room);
        if activity.has_open_requests() {
            (self.head_passed, self.line_ended) = (false, false);
            return match activity.body_left() {
                None => Step::Pass(len),
                Some(0) => Step::Hold,
                Some(left) => Step::Pass(len.min(usize::try_from(left).unwrap_or(len))),
            };
        }
        if std::mem::take(&mut self.head_passed) {
            return Step::Yield;
        }
        Step::Pass(self.head_end(len).unwrap_or(len))
    }

    /// Takes bytes out that pass.
    pub fn pass(&mut self, count: usize, buf: &mut ReadBuf<'_>, activity: &Activity) {
        buf.put_slice(&self.waiting[..count]);
        self.waiting.drain(..count);
        activity.body_passed(count as u64);
    }

    /// Where a head ends within the first `len` bytes: behind an empty line. Two lines may end in LF alone.
    fn head_end(&mut self, len: usize) -> Option<usize> {
        for (i, &byte) in self.waiting[..len].iter().enumerate() {
            match byte {
                b'\n' if self.line_ended => {
                    (self.head_passed, self.line_ended) = (true, false);
                    return Some(i + 1);
                }
                b'\n' => self.line_ended = true,
                b'\r' => {}
                _ => self.line_ended = false,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    /// Passes what may pass, with so much room at a time; a bar stands where the dispatcher gets its turn.
    fn passed(intake: &mut Intake, activity: &Activity, room: usize) -> String {
        let mut out = String::new();
        loop {
            match intake.step(activity, room) {
                Step::Pass(count) => {
                    let mut space = vec![0; count];
                    let mut buf = ReadBuf::new(&mut space);
                    intake.pass(count, &mut buf, activity);
                    out.push_str(std::str::from_utf8(buf.filled()).expect("text"));
                }
                Step::Yield => out.push('|'),
                Step::Hold => return out + "(hold)",
                Step::Empty => return out,
            }
        }
    }

    #[test]
    fn heads_end_with_an_empty_line_however_they_are_cut() {
        for room in 1..30 {
            let (mut intake, activity) = (Intake::default(), Activity::default());
            let bytes = "\r\nA\r\nb: c\r\n\r\nB\n\nC\r\nd: e\r\n";
            intake.waiting.extend_from_slice(bytes.as_bytes());
            let expected = "\r\nA\r\nb: c\r\n\r\n|B\n\n|C\r\nd: e\r\n";
            assert_eq!(passed(&mut intake, &activity, room), expected);
        }
    }

    #[test]
    fn what_is_behind_a_body_waits_for_the_answer() {
        let activity = Rc::new(Activity::default());
        let mut intake = Intake::default();
        intake.waiting.extend_from_slice(b"12345\n\nA\n\n");
        let open = activity.begin(Some(7), false);
        assert_eq!(passed(&mut intake, &activity, 3), "12345\n\n(hold)");
        drop(open);
        assert_eq!(passed(&mut intake, &activity, 3), "A\n\n");

        intake
            .waiting
            .extend_from_slice(b"2\r\n{}\r\n0\r\n\r\nB\n\n");
        let _open = activity.begin(None, false);
        assert_eq!(passed(&mut intake, &activity, 9).len(), 15);
    }
}
