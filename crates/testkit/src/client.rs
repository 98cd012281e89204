//! An HTTP/1.1 client over a plain socket: small enough to do what well-behaved clients do not (go away, send nonsense).
//!
//! Every answer is checked for what every answer must have: a request id, a declared content type, and where the status says
//! error OpenAI's error object, or Anthropic's if the answer has the header that its API has. A violation panics: it is a
//! failed test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Nothing in a test takes this long; a hanging server must fail its test, not hang it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Talks to one server, one connection per request.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    addr: SocketAddr,
}

/// A whole answer.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

/// OpenAI's error object.
#[derive(Debug, PartialEq, Eq)]
pub struct ErrorFields {
    /// `message`
    pub message: String,
    /// `type`
    pub kind: String,
    /// `param`
    pub param: Option<String>,
    /// `code`
    pub code: Option<String>,
}

impl Client {
    /// A client of the server at `addr`.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr }
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    /// `POST path` with a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Response {
        let headers = [("content-type", "application/json")];
        self.request("POST", path, &headers, body.to_string().as_bytes())
    }

    /// Any request; `content-length` is added when there is a body.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let stream = self.send(method, path, headers, body);
        Response::read(&mut BufReader::new(stream), method)
    }

    /// Sends any request and returns the connection, with nothing read from it.
    pub fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> TcpStream {
        self.send(method, path, headers, body)
    }

    /// Sends a JSON request and returns the connection, with nothing read from it. Dropping it is going away.
    pub fn post_without_reading(&self, path: &str, body: &Value) -> TcpStream {
        let headers = [("content-type", "application/json")];
        self.send("POST", path, &headers, body.to_string().as_bytes())
    }

    /// Sends a JSON request and reads the answer event by event.
    ///
    /// # Panics
    /// The answer is not an event stream.
    pub fn stream(&self, path: &str, body: &Value) -> SseReader {
        SseReader::new(self.post_without_reading(path, body))
    }

    /// A connection on which nothing was sent.
    ///
    /// # Panics
    /// Nobody listens.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).expect("the server listens");
        stream
            .set_read_timeout(Some(TIMEOUT))
            .expect("a timeout can be set");
        stream
            .set_write_timeout(Some(TIMEOUT))
            .expect("a timeout can be set");
        stream
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).expect("the head is sent");
        // A server that refuses a body by its length may close before all of it is sent.
        let _ = stream.write_all(body);
        stream
    }
}

impl Response {
    /// Reads an answer from a connection and checks it.
    pub fn read(reader: &mut impl BufRead, method: &str) -> Self {
        let (status, headers) = read_head(reader);
        let mut response = Self {
            status,
            headers,
            body: Vec::new(),
        };
        if method != "HEAD" {
            response.body = response.read_body(reader);
        }
        response.check(method);
        response
    }

    /// A header's value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("the body is JSON ({error}): {}", self.text()))
    }

    /// The body of an answer that must be a success.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The error of an answer that must have this status.
    pub fn error(&self, status: u16) -> ErrorFields {
        assert_eq!(self.status, status, "{}", self.text());
        match self.header("request-id") {
            None => error_fields(&self.json()),
            Some(id) => anthropic_error_fields(&self.json(), id),
        }
    }

    fn read_body(&self, reader: &mut impl BufRead) -> Vec<u8> {
        let mut body = Vec::new();
        if self.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = read_chunk(reader) {
                body.extend(chunk);
            }
        } else if let Some(len) = self.header("content-length") {
            body.resize(len.parse().expect("content-length is a number"), 0);
            reader
                .read_exact(&mut body)
                .expect("the body is as long as declared");
        } else {
            reader.read_to_end(&mut body).expect("the body ends");
        }
        body
    }

    /// What every answer must have.
    fn check(&self, method: &str) {
        check_request_id(&self.headers);
        if !self.body.is_empty() {
            assert!(self.header("content-type").is_some(), "no content type");
        }
        if self.status >= 400 && method != "HEAD" {
            let content_type = self.header("content-type");
            assert_eq!(content_type, Some("application/json"), "{}", self.text());
            self.error(self.status);
        }
    }
}

/// Reads Anthropic's error body, which must have these fields and no other, and the request's id.
pub fn anthropic_error_fields(body: &Value, id: &str) -> ErrorFields {
    let object = |value: &Value| {
        let map = value
            .as_object()
            .unwrap_or_else(|| panic!("an object: {body}"));
        let mut names: Vec<_> = map.keys().cloned().collect();
        names.sort_unstable();
        names
    };
    assert_eq!(object(body), ["error", "request_id", "type"], "{body}");
    assert_eq!(object(&body["error"]), ["message", "type"], "{body}");
    assert_eq!(
        (&body["type"], &body["request_id"]),
        (&"error".into(), &id.into())
    );
    let text = |name: &str| body["error"][name].as_str().map(str::to_owned);
    let message = text("message").unwrap_or_else(|| panic!("a message: {body}"));
    assert!(!message.is_empty(), "{body}");
    ErrorFields {
        message,
        kind: text("type").unwrap_or_else(|| panic!("a type: {body}")),
        param: None,
        code: None,
    }
}

/// Reads an error object, which must have these four fields and no other.
pub fn error_fields(body: &Value) -> ErrorFields {
    let only_key = |value: &Value| value.as_object().map(serde_json::Map::len) == Some(1);
    assert!(only_key(body), "{body}");
    let object = body["error"]
        .as_object()
        .unwrap_or_else(|| panic!("an error object: {body}"));
    let mut names: Vec<_> = object.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["code", "message", "param", "type"], "{body}");
    let text = |name: &str| object[name].as_str().map(str::to_owned);
    let message = text("message").unwrap_or_else(|| panic!("a message: {body}"));
    assert!(!message.is_empty(), "{body}");
    ErrorFields {
        message,
        kind: text("type").unwrap_or_else(|| panic!("a type: {body}")),
        param: text("param"),
        code: text("code"),
    }
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum SseEvent {
    /// `data: {...}`; a line `event:` before it says the same as its `type`.
    Data(Value),
    /// `data: [DONE]`
    Done,
    /// `: ...`
    Comment(String),
}

/// Reads server-sent events. Dropping it is going away.
pub struct SseReader {
    reader: BufReader<TcpStream>,
    /// The answer's headers.
    pub headers: Vec<(String, String)>,
    /// Bytes of chunks that are not events yet.
    pending: Vec<u8>,
    ended: bool,
}

/// A whole stream.
#[derive(Debug, Default)]
pub struct Transcript {
    /// The chunks.
    pub chunks: Vec<Value>,
    /// Comments between them.
    pub comments: usize,
    /// Whether `[DONE]` was the last event.
    pub done: bool,
}

impl SseReader {
    fn new(stream: TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let (status, headers) = read_head(&mut reader);
        if status != 200 {
            let mut rest = String::new();
            let _ = reader.read_to_string(&mut rest);
            panic!("not a stream but {status}: {rest}");
        }
        check_request_id(&headers);
        let content_type = find(&headers, "content-type");
        assert_eq!(content_type, Some("text/event-stream; charset=utf-8"));
        assert_eq!(find(&headers, "cache-control"), Some("no-cache"));
        assert_eq!(find(&headers, "transfer-encoding"), Some("chunked"));
        Self {
            reader,
            headers,
            pending: Vec::new(),
            ended: false,
        }
    }

    /// Reads to the end.
    ///
    /// # Panics
    /// Something came after `[DONE]`.
    pub fn transcript(mut self) -> Transcript {
        let mut transcript = Transcript::default();
        for event in &mut self {
            assert!(!transcript.done, "after [DONE]: {event:?}");
            match event {
                SseEvent::Data(value) => transcript.chunks.push(value),
                SseEvent::Comment(_) => transcript.comments += 1,
                SseEvent::Done => transcript.done = true,
            }
        }
        transcript
    }

    /// Says that nothing more will be sent, and keeps listening.
    pub fn close_sending_half(&self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Write);
    }

    fn take_event(&mut self) -> Option<SseEvent> {
        let end = self.pending.windows(2).position(|pair| pair == b"\n\n")?;
        let event: Vec<u8> = self.pending.drain(..end + 2).collect();
        let text = String::from_utf8(event).expect("an event is UTF-8");
        let text = text.trim_end_matches('\n');
        let (name, text) =
            match (text.strip_prefix("event: ")).and_then(|rest| rest.split_once('\n')) {
                Some((name, rest)) => (Some(name), rest),
                None => (None, text),
            };
        Some(if let Some(comment) = text.strip_prefix(':') {
            SseEvent::Comment(comment.trim().to_owned())
        } else {
            let data = (text.strip_prefix("data: ")).unwrap_or_else(|| panic!("an event: {text}"));
            assert!(!data.contains('\n'), "one line per event: {data}");
            match data {
                "[DONE]" => SseEvent::Done,
                json => {
                    let value: Value =
                        serde_json::from_str(json).unwrap_or_else(|e| panic!("JSON ({e}): {json}"));
                    if let Some(name) = name {
                        assert_eq!(value["type"], name, "an event is named after its type");
                    }
                    SseEvent::Data(value)
                }
            }
        })
    }
}

impl Iterator for SseReader {
    type Item = SseEvent;

    fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = self.take_event() {
                return Some(event);
            }
            if self.ended {
                assert!(self.pending.is_empty(), "half an event at the end");
                return None;
            }
            match read_chunk(&mut self.reader) {
                Some(chunk) => self.pending.extend(chunk),
                None => self.ended = true,
            }
        }
    }
}

fn read_head(reader: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let status_line = read_line(reader);
    let status = (status_line.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("a status line: {status_line:?}"));
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader);
        if line.is_empty() {
            return (status, headers);
        }
        let (name, value) = line
            .split_once(':')
            .unwrap_or_else(|| panic!("a header: {line:?}"));
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// One chunk of a chunked body; `None` after the last.
fn read_chunk(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let line = read_line(reader);
    let len = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("a chunk size: {line:?}"));
    let mut chunk = vec![0; len];
    reader
        .read_exact(&mut chunk)
        .expect("the chunk is as long as declared");
    assert_eq!(read_line(reader), "", "a chunk ends with an empty line");
    (len > 0).then_some(chunk)
}

fn read_line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).expect("a line");
    assert!(
        line.ends_with("\r\n"),
        "the connection ended in a line: {line:?}"
    );
    line.truncate(line.len() - 2);
    line
}

fn check_request_id(headers: &[(String, String)]) {
    let ids = headers
        .iter()
        .filter(|(name, _)| name == "x-request-id")
        .count();
    assert_eq!(ids, 1, "one request id: {headers:?}");
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    (headers.iter().find(|(found, _)| found == name)).map(|(_, value)| value.as_str())
}
