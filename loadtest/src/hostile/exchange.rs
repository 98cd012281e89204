//! One attack carried out over a plain socket, and what came back.
//!
//! A reader of HTTP/1.1 answers that trusts nothing: what it cannot read is a finding, not an error of its own.
//! Invariant: an exchange ends, at the latest, after [`DEADLINE`].

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::attack::{Answer, Attack, Then};

/// Nothing in a storm takes this long, with generous room for slow machines.
const DEADLINE: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Debug, Default)]
pub struct Observed {
    /// Statuses of whole answers, in order.
    pub statuses: Vec<u16>,
    /// What was wrong, for people; empty is good.
    pub findings: Vec<String>,
}

/// Carries out an attack on the server at `authority`.
pub async fn carry_out(attack: &Attack, authority: &str) -> Observed {
    let mut received = Vec::new();
    let ended = timeout(DEADLINE, converse(attack, authority, &mut received)).await;
    let mut observed = read_answers(&received);
    match ended {
        Ok(Ok(())) => {}
        // Whoever sends nonsense, or goes away, may be cut off; who is owed an answer must have it by then.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            observed
                .findings
                .push("the server does not listen".to_owned());
        }
        Ok(Err(_)) => {}
        Err(_) => observed
            .findings
            .push(format!("no end within {DEADLINE:?}")),
    }
    judge(attack.answer, &mut observed);
    observed
}

async fn converse(attack: &Attack, authority: &str, received: &mut Vec<u8>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.split();
    let wanted = match attack.answer {
        Answer::Nothing => usize::MAX,
        Answer::Some(count) => count,
        Answer::Refusal | Answer::Success => 1,
    };
    let send = async {
        for (i, piece) in attack.pieces.iter().enumerate() {
            if i > 0 {
                sleep(Duration::from_millis(attack.pause_ms)).await;
            }
            writer.write_all(piece).await?;
        }
        match attack.then {
            Then::HalfClose => writer.shutdown().await,
            _ => Ok(()),
        }
    };
    match attack.then {
        Then::Read | Then::HalfClose => {
            // Both at once: a server may answer, and stop reading, before everything is sent.
            let receive = read_until(&mut reader, received, |bytes| {
                read_answers(bytes).statuses.len() >= wanted
            });
            let (_, read) = tokio::join!(send, receive);
            read?;
        }
        Then::Leave(count) | Then::Reset(count) => {
            send.await?;
            if count > 0 {
                let enough = read_until(&mut reader, received, |bytes| bytes.len() >= count);
                // What does not come is not waited for.
                let _ = timeout(Duration::from_millis(500), enough).await;
            }
        }
        Then::Hold(ms) => {
            send.await?;
            sleep(Duration::from_millis(ms)).await;
        }
    }
    if let Then::Reset(_) = attack.then {
        stream.set_zero_linger()?;
    }
    Ok(())
}

async fn read_until(
    reader: &mut (impl AsyncReadExt + Unpin),
    received: &mut Vec<u8>,
    enough: impl Fn(&[u8]) -> bool,
) -> std::io::Result<()> {
    while !enough(received) {
        if reader.read_buf(received).await? == 0 {
            break;
        }
    }
    Ok(())
}

fn judge(owed: Answer, observed: &mut Observed) {
    for status in &observed.statuses {
        if *status >= 500 && *status != 503 {
            observed.findings.push(format!("status {status}"));
        }
    }
    let busy = |status: u16| status == 429 || status == 503;
    let first = observed.statuses.first().copied();
    let finding = match (owed, first) {
        (Answer::Nothing, _) => None,
        (Answer::Some(count), _) => {
            let found = observed.statuses.len();
            (found < count).then(|| format!("{found} answers instead of {count}"))
        }
        (_, None) => Some("no answer".to_owned()),
        (Answer::Refusal, Some(status)) if (400..500).contains(&status) || busy(status) => None,
        (Answer::Success, Some(status)) if status == 200 || busy(status) => None,
        (Answer::Refusal, Some(status)) => Some(format!("status {status} instead of a refusal")),
        (Answer::Success, Some(status)) => Some(format!("status {status} instead of 200")),
    };
    observed.findings.extend(finding);
}

/// All whole answers at the beginning of these bytes.
fn read_answers(bytes: &[u8]) -> Observed {
    let mut observed = Observed::default();
    let mut rest = bytes;
    while let Some(end) = position(rest, b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 4..];
        let status =
            (head.strip_prefix("HTTP/1.")).and_then(|head| head.get(2..5)?.parse::<u16>().ok());
        let Some(status) = status else {
            let shown: String = head.chars().take(60).collect();
            observed.findings.push(format!("not an answer: {shown:?}"));
            return observed;
        };
        if status == 100 {
            continue;
        }
        let Some((body, after)) = split_body(&head, status, rest) else {
            break;
        };
        observed.statuses.push(status);
        check(&head, status, &body, &mut observed.findings);
        rest = after;
    }
    observed
}

/// A header's value; the name in lower case.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(given, _)| given.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value)
}

/// The body and what follows it; `None` while it is not whole.
fn split_body<'a>(head: &str, status: u16, mut rest: &'a [u8]) -> Option<(Vec<u8>, &'a [u8])> {
    if status == 204 || status == 304 {
        return Some((Vec::new(), rest));
    }
    if let Some(len) = header(head, "content-length") {
        let len = len.parse().ok()?;
        let body = rest.get(..len)?.to_vec();
        return Some((body, &rest[len..]));
    }
    let mut body = Vec::new();
    loop {
        let line = position(rest, b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        let start = line + 2;
        body.extend_from_slice(rest.get(start..start + size)?);
        rest = rest.get(start + size + 2..)?;
        if size == 0 {
            return Some((body, rest));
        }
    }
}

/// What every answer must have.
fn check(head: &str, status: u16, body: &[u8], findings: &mut Vec<String>) {
    if header(head, "x-request-id").is_none_or(str::is_empty) {
        findings.push(format!("{status} without a request id"));
    }
    if status < 400 {
        return;
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["error"];
    let text = |name: &str| error[name].as_str().is_some_and(|text| !text.is_empty());
    if !text("message") || !text("type") || error.get("param").is_none() || !text("code") {
        findings.push(format!("{status} without an error object"));
    }
}

fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-request-id: a\r\n\r\n{}";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-request-id: a\r\n\r\n3\r\nabc\r\n0\r\n\r\n";

    fn refusal(body: &str) -> String {
        format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\nx-request-id: a\r\n\r\n{body}",
            body.len()
        )
    }

    fn judged(owed: Answer, bytes: &str) -> Vec<String> {
        let mut observed = read_answers(bytes.as_bytes());
        judge(owed, &mut observed);
        observed.findings
    }

    #[test]
    fn answers_are_told_apart_and_half_ones_do_not_count() {
        let all = format!("HTTP/1.1 100 Continue\r\n\r\n{OK}{CHUNKS}{OK}");
        assert_eq!(read_answers(all.as_bytes()).statuses, [200, 200, 200]);
        for cut in [all.len() - 1, all.len() - 3] {
            assert_eq!(read_answers(&all.as_bytes()[..cut]).statuses, [200, 200]);
        }
        assert!(read_answers(all.as_bytes()).findings.is_empty());
    }

    #[test]
    fn what_is_wrong_is_found() {
        let good = refusal(r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#);
        assert!(judged(Answer::Refusal, &good).is_empty());
        for (owed, bytes, finding) in [
            (Answer::Refusal, String::new(), "no answer"),
            (
                Answer::Refusal,
                OK.to_owned(),
                "status 200 instead of a refusal",
            ),
            (Answer::Success, good.clone(), "status 400 instead of 200"),
            (Answer::Some(2), OK.to_owned(), "1 answers instead of 2"),
            (Answer::Refusal, refusal(""), "400 without an error object"),
            (
                Answer::Refusal,
                refusal(r#"{"error":{"message":"m","type":"t","code":"c"}}"#),
                "400 without an error object",
            ),
            (
                Answer::Nothing,
                OK.replace("x-request-id", "x"),
                "200 without a request id",
            ),
            (Answer::Nothing, good.replace("400", "500"), "status 500"),
            (
                Answer::Nothing,
                "SSH-2.0\r\n\r\n".to_owned(),
                "not an answer",
            ),
        ] {
            let findings = judged(owed, &bytes);
            assert!(
                findings.iter().any(|found| found.contains(finding)),
                "{finding}: {findings:?}"
            );
        }
        assert!(judged(Answer::Success, &good.replace("400", "503")).is_empty());
    }
}
