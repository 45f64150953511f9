//! A server with scripted answers that records its requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Status and body of the answer to each `GET <path>`, without the query.
type Answers = Arc<Mutex<HashMap<String, (u16, String)>>>;

#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) url: String,
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
    /// Lines of all headers, as they were sent.
    headers: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (answers, asked) = (Answers::default(), Arc::default());
        let scripted = Self { url, answers, asked, headers: Arc::default() };
        let server = scripted.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                server.answer(stream).await;
            }
        });
        scripted
    }

    /// Sets the answer for this path. A path without an answer gets a 404.
    pub(crate) fn answers(&self, path: &str, status: u16, body: &str) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(path.into(), (status, body.into()));
    }

    /// Returns the paths and queries of the requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the values that the requests so far had in a header. `name` is in lower case.
    pub(crate) fn header(&self, name: &str) -> Vec<String> {
        let headers = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        let named = headers.iter().filter_map(|line| line.split_once(": "));
        named.filter(|(sent, _)| *sent == name).map(|(_, value)| value.to_owned()).collect()
    }

    fn answer_to(&self, path: &str) -> (u16, String) {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(path).cloned().unwrap_or((404, String::new()))
    }

    async fn answer(&self, mut stream: TcpStream) {
        let (from, mut to) = stream.split();
        let mut lines = BufReader::new(from).lines();
        let first = lines.next_line().await.unwrap().unwrap_or_default();
        while let Some(line) = lines.next_line().await.unwrap().filter(|line| !line.is_empty()) {
            self.headers.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let path = target.split('?').next().unwrap_or_default().to_owned();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(target);
        let (status, body) = self.answer_to(&path);
        let head =
            format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}", body.len());
        to.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
    }
}
