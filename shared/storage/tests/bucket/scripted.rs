//! A server with scripted answers that records its requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Status and body of the answer to each `GET <path>`, without the query.
type Answers = Arc<Mutex<HashMap<String, (u16, String)>>>;

pub(crate) struct Scripted {
    pub(crate) url: String,
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (answers, asked) = (Answers::default(), Arc::<Mutex<Vec<String>>>::default());
        let scripted = Self { url, answers: Arc::clone(&answers), asked: Arc::clone(&asked) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream, &answers, &asked).await;
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
}

async fn answer(mut stream: TcpStream, answers: &Answers, asked: &Mutex<Vec<String>>) {
    let (from, mut to) = stream.split();
    let mut lines = BufReader::new(from).lines();
    let first = lines.next_line().await.unwrap().unwrap_or_default();
    while lines.next_line().await.unwrap().is_some_and(|line| !line.is_empty()) {}
    let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(target);
    let found = answers.lock().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
    let (status, body) = found.unwrap_or((404, String::new()));
    let head =
        format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}", body.len());
    to.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
}
