//! One HTTP exchange with the server under test, timed.
//!
//! Knows OpenAI's JSON and event streams just enough to count tokens. Every exchange has its own connection,
//! so that dropping it is what a client that goes away looks like.
//! Invariant: an exchange ends, at the latest, at its deadline.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::scenario::Request;

/// What an answer that is not a stream may be long.
const BODY_LIMIT: usize = 64 << 20;

/// The server under test.
#[derive(Clone, Debug)]
pub struct Target {
    authority: String,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A complete answer.
    Completed,
    /// The client went away, as the scenario asked.
    WentAway,
    /// Anything else: a status that is not 200, a broken stream, an error event.
    Failed(String),
}

/// A request's measurements.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What became of it.
    pub outcome: Outcome,
    /// From sending to the first chunk with text; streams only.
    pub first_token: Option<Duration>,
    /// Between chunks with text.
    pub gaps: Vec<Duration>,
    /// By the server's usage.
    pub prompt_tokens: u64,
    /// By the server's usage; chunks counted if the client went away before it.
    pub completion_tokens: u64,
    /// From sending to the end.
    pub duration: Duration,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    #[error("http: {0}")]
    Http(#[from] hyper::Error),
    #[error("request: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("body: {0}")]
    Body(String),
    #[error("status {0}: {1}")]
    Status(u16, String),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    text: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Choice {
    fn has_text(&self) -> bool {
        let filled = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        filled(&self.text)
            || filled(&self.delta.content)
            || filled(&self.delta.reasoning)
            || self.delta.tool_calls.is_some()
    }
}

/// Ends the connection when dropped.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Target {
    /// From `http://host:port`.
    ///
    /// # Errors
    /// Another scheme, or no port.
    pub fn parse(url: &str) -> Result<Self, String> {
        let authority = url
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'))
            .filter(|rest| rest.contains(':') && !rest.contains('/'));
        let authority = authority.ok_or_else(|| format!("{url} is not http://HOST:PORT"))?;
        Ok(Self {
            authority: authority.to_owned(),
        })
    }

    /// The text behind a path.
    ///
    /// # Errors
    /// The exchange failed or the status is not 200.
    pub async fn get(&self, path: &str) -> Result<String, ClientError> {
        let (_connection, response) = self.send("GET", path, String::new()).await?;
        read_all(response).await
    }

    /// The text of the answer to a JSON body.
    ///
    /// # Errors
    /// The exchange failed or the status is not 200.
    pub async fn post(&self, path: &str, body: String) -> Result<String, ClientError> {
        let (_connection, response) = self.send("POST", path, body).await?;
        read_all(response).await
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Sends a request of the scenario and follows its answer.
    pub async fn measure(&self, request: &Request, deadline: Instant) -> Measured {
        let mut measured = Measured {
            outcome: Outcome::Completed,
            first_token: None,
            gaps: Vec::new(),
            prompt_tokens: 0,
            completion_tokens: 0,
            duration: Duration::ZERO,
        };
        let start = Instant::now();
        let goes_away = request
            .cancel_after_ms
            .map(|ms| start + Duration::from_millis(ms));
        let until = goes_away.map_or(deadline, |at| at.min(deadline));
        let exchange = self.exchange(request, start, &mut measured);
        let outcome = match tokio::time::timeout_at(until.into(), exchange).await {
            Ok(Ok(())) => Outcome::Completed,
            Ok(Err(error)) => Outcome::Failed(error.to_string()),
            Err(_) if goes_away == Some(until) => Outcome::WentAway,
            Err(_) => Outcome::Failed("not finished at the time limit".to_owned()),
        };
        measured.outcome = outcome;
        measured.duration = start.elapsed();
        measured
    }

    async fn exchange(
        &self,
        request: &Request,
        start: Instant,
        measured: &mut Measured,
    ) -> Result<(), ClientError> {
        let body = request.body.clone();
        let (_connection, response) = self.send("POST", request.path, body).await?;
        if !request.stream || response.status() != 200 {
            let answer = parse(&read_all(response).await?)?;
            measured.note_usage(&answer);
            return Ok(());
        }
        follow(response.into_body(), start, measured).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: String,
    ) -> Result<(Connection, hyper::Response<Incoming>), ClientError> {
        let stream = TcpStream::connect(&self.authority).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = Connection(tokio::spawn(async move {
            // Its error reaches us through the response as well.
            let _ = connection.await;
        }));
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        Ok((connection, response))
    }
}

impl Measured {
    fn note_usage(&mut self, answer: &Answer) {
        if let Some(usage) = &answer.usage {
            self.prompt_tokens = usage.prompt_tokens;
            self.completion_tokens = usage.completion_tokens;
        }
    }
}

async fn read_all(response: hyper::Response<Incoming>) -> Result<String, ClientError> {
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), BODY_LIMIT)
        .collect()
        .await;
    let bytes = body
        .map_err(|error| ClientError::Body(error.to_string()))?
        .to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if status == 200 {
        Ok(text)
    } else {
        Err(ClientError::Status(status, text))
    }
}

fn parse(json: &str) -> Result<Answer, ClientError> {
    let answer: Answer = serde_json::from_str(json)
        .map_err(|error| ClientError::Body(format!("{error} in {json}")))?;
    match answer.error {
        Some(error) => Err(ClientError::Body(error.to_string())),
        None => Ok(answer),
    }
}

/// Reads server-sent events up to `[DONE]`.
async fn follow(
    mut body: Incoming,
    start: Instant,
    measured: &mut Measured,
) -> Result<(), ClientError> {
    let mut pending: Vec<u8> = Vec::new();
    let mut last: Option<Instant> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        let mut consumed = 0;
        while let Some(length) = pending[consumed..]
            .windows(2)
            .position(|pair| pair == b"\n\n")
        {
            let event = String::from_utf8_lossy(&pending[consumed..consumed + length]).into_owned();
            consumed += length + 2;
            let Some(json) = event.lines().find_map(|line| line.strip_prefix("data: ")) else {
                continue;
            };
            if json == "[DONE]" {
                return Ok(());
            }
            let answer = parse(json)?;
            if answer.choices.iter().any(Choice::has_text) {
                let now = Instant::now();
                match last {
                    None => measured.first_token = Some(now - start),
                    Some(last) => measured.gaps.push(now - last),
                }
                last = Some(now);
                measured.completion_tokens += 1;
            }
            measured.note_usage(&answer);
        }
        pending.drain(..consumed);
    }
    Err(ClientError::Body(
        "the stream ended without [DONE]".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert!(Target::parse("http://127.0.0.1:8000/").is_ok());
        for bad in ["127.0.0.1:8000", "https://a:1", "http://a", "http://a:1/v1"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_is_told_from_other_chunks() {
        let has_text = |json: &str| parse(json).unwrap().choices.iter().any(Choice::has_text);
        assert!(has_text(r#"{"choices":[{"delta":{"content":"a"}}]}"#));
        assert!(has_text(r#"{"choices":[{"delta":{"reasoning":"a"}}]}"#));
        assert!(has_text(
            r#"{"choices":[{"text":"a","finish_reason":null}]}"#
        ));
        assert!(!has_text(
            r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#
        ));
        assert!(!has_text(
            r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#
        ));
        assert!(parse(r#"{"error":{"message":"no"}}"#).is_err());
    }
}
