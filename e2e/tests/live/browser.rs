//! Chromium, led by chromedriver.

use std::io::Write as _;
use std::process::Stdio;
use std::str::FromStr;

use axum::http::Method;
use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};
use fantoccini::key::Key;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::until;

/// Options of every browser. Nothing of it asks another host or outlives the test.
const OPTIONS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// Size of a window.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Screen {
    /// A laptop, 1280 pixels wide.
    Wide,
    /// A phone, 390 pixels wide, with a finger.
    Narrow,
}

/// Colours that the user prefers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scheme {
    Light,
    Dark,
}

/// A browser with one empty profile. Dropping it ends its processes.
pub(crate) struct Browser {
    pub(crate) client: Client,
    pid: Option<u64>,
    _driver: Child,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let ended = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
            assert!(ended.is_ok(), "kill is missing");
        }
    }
}

impl Browser {
    /// Starts a browser, or says that it is missing and returns `None`.
    pub(crate) async fn start(screen: Screen) -> Option<Self> {
        if !["chromium", "chromedriver"].into_iter().all(is_installed) {
            // Writes to stderr directly, because the test runner captures printed output.
            let text = b"SKIPPED: chromium or chromedriver is missing, .ci/setup installs them\n";
            std::io::stderr().write_all(text).unwrap();
            return None;
        }
        let (driver, url) = start_driver().await;
        let profile = tempfile::tempdir().unwrap();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities(screen, &profile));
        let client = builder.connect(&url).await.unwrap();
        let pid = client.capabilities().and_then(|all| all.get("goog:processID")?.as_u64());
        assert!(pid.is_some(), "the process of the browser is unknown");
        Some(Self { client, pid, _driver: driver, _profile: profile })
    }

    /// Opens a page, and waits until it shows a state.
    pub(crate) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
        until("the first state", async || {
            self.script("return document.body.dataset.link === 'up'").await == true
        })
        .await;
    }

    /// Runs a function body in the page, and returns its result.
    pub(crate) async fn script(&self, body: &str) -> Value {
        self.client.execute(body, Vec::new()).await.unwrap()
    }

    /// Returns the text of the first element that matches, as it is shown. Empty if there is none.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let body = "const found = document.querySelector(arguments[0]);
                    return found?.checkVisibility() ? found.innerText.replaceAll('\\u202f', ' ') : ''";
        let text = self.client.execute(body, vec![json!(selector)]).await.unwrap();
        text.as_str().unwrap().to_owned()
    }

    /// Waits until an element shows a text.
    pub(crate) async fn shows(&self, selector: &str, part: &str) {
        let mut text = String::new();
        let what = format!("{part:?} in {selector}");
        until(&what, async || {
            text = self.text(selector).await;
            text.contains(part)
        })
        .await;
    }

    /// Clicks on the first element that matches, as a user does.
    pub(crate) async fn click(&self, selector: &str) {
        let body = "document.querySelector(arguments[0]).scrollIntoView({ block: 'center' })";
        // A state that arrives meanwhile may move the element below another one.
        until(&format!("a click on {selector}"), async || {
            let found = self.client.find(Locator::Css(selector)).await.unwrap();
            self.client.execute(body, vec![json!(selector)]).await.unwrap();
            let clicked = found.click().await.map_err(|error| format!("{error:?}"));
            let is_covered =
                clicked.as_ref().is_err_and(|why| why.contains("ElementClickIntercepted"));
            assert!(is_covered || clicked.is_ok(), "{clicked:?}");
            !is_covered
        })
        .await;
    }

    /// Types a text into an empty field.
    pub(crate) async fn fill(&self, selector: &str, text: &str) {
        let field = self.client.find(Locator::Css(selector)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Presses a key and lets it go.
    pub(crate) async fn press(&self, key: Key) {
        let value = key.into();
        let keys = KeyActions::new("keyboard".to_owned())
            .then(KeyAction::Down { value })
            .then(KeyAction::Up { value });
        self.client.perform_actions(keys).await.unwrap();
    }

    /// Lets the page believe that the user prefers these colours.
    pub(crate) async fn prefer(&self, scheme: Scheme) {
        let value = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let features = json!([{ "name": "prefers-color-scheme", "value": value }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Returns what the page wrote into the console: errors, and violations of its policy.
    pub(crate) async fn console(&self) -> Vec<String> {
        let entries = self.issue(Extension::log("browser")).await;
        entries.as_array().unwrap().iter().map(|entry| entry["message"].to_string()).collect()
    }

    /// Returns the URL of every request that the page has made. Chromium's own first page is left out.
    pub(crate) async fn requests(&self) -> Vec<String> {
        let entries = self.issue(Extension::log("performance")).await;
        let events = entries.as_array().unwrap().iter().map(|entry| {
            serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap()
        });
        events
            .filter(|event| event["message"]["method"] == "Network.requestWillBeSent")
            .map(|event| event["message"]["params"]["request"]["url"].as_str().unwrap().to_owned())
            .filter(|url| !url.starts_with("chrome://"))
            .collect()
    }

    /// Calls a method of the developer tools.
    pub(crate) async fn devtools(&self, method: &str, parameters: Value) -> Value {
        self.issue(Extension::devtools(method, &parameters)).await
    }

    /// Returns the name that a screen reader says for an element.
    pub(crate) async fn name_of(&self, element: &str) -> String {
        let name = self.issue(Extension::name(element)).await;
        name.as_str().unwrap().to_owned()
    }

    async fn issue(&self, command: Extension) -> Value {
        self.client.issue_cmd(command).await.unwrap()
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Starts chromedriver on a free port, which it names itself.
async fn start_driver() -> (Child, String) {
    // Two that start at the same time may choose the same port. One of them ends.
    for _ in 0..5 {
        if let Some(driver) = try_start_driver().await {
            return driver;
        }
    }
    panic!("chromedriver ended five times");
}

async fn try_start_driver() -> Option<(Child, String)> {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut driver = command.kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let port = line.strip_prefix("ChromeDriver was started successfully on port ");
        if let Some(port) = port {
            let url = format!("http://127.0.0.1:{}", port.trim_end_matches('.'));
            return Some((driver, url));
        }
    }
    None
}

fn capabilities(screen: Screen, profile: &TempDir) -> serde_json::Map<String, Value> {
    let mut options: Vec<String> = OPTIONS.iter().map(ToString::to_string).collect();
    options.push(format!("--user-data-dir={}", profile.path().display()));
    options.push("--window-size=1280,900".to_owned());
    let mut chrome = json!({ "args": options });
    if let Screen::Narrow = screen {
        chrome["mobileEmulation"] = json!({ "deviceMetrics": { "width": 390, "height": 844, "pixelRatio": 1.0, "touch": true } });
    }
    let all = json!({
        "goog:chromeOptions": chrome,
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
    });
    all.as_object().unwrap().clone()
}

/// Commands that the standard, or Chromium, has and the client has not.
#[derive(Debug)]
struct Extension {
    method: Method,
    path: String,
    body: Option<Value>,
}

impl Extension {
    fn log(kind: &str) -> Self {
        let body = Some(json!({ "type": kind }));
        Self { method: Method::POST, path: "se/log".to_owned(), body }
    }

    fn devtools(command: &str, parameters: &Value) -> Self {
        let body = Some(json!({ "cmd": command, "params": parameters }));
        Self { method: Method::POST, path: "goog/cdp/execute".to_owned(), body }
    }

    fn name(element: &str) -> Self {
        Self { method: Method::GET, path: format!("element/{element}/computedlabel"), body: None }
    }
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, <Url as FromStr>::Err> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _url: &Url) -> (Method, Option<String>) {
        (self.method.clone(), self.body.as_ref().map(Value::to_string))
    }
}
