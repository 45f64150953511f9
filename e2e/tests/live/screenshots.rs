//! Pictures of the page for the documentation.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::browser::Browser;

/// Variable with the folder for pictures. Without it they are taken and not kept.
const FOLDER: &str = "DATAFLOW_SCREENSHOTS";
/// Most bytes of a picture.
const MAX_BYTES: usize = 150_000;

/// Takes a picture from the top of the page down to an element, and keeps it if a folder is named.
pub(crate) async fn take(browser: &Browser, name: &str, last: &str) {
    let body = format!(
        "scrollTo(0, 0);
         const bottom = document.querySelector('{last}').getBoundingClientRect().bottom;
         return [innerWidth, Math.ceil(bottom + 16)];"
    );
    let size = browser.script(&body).await;
    let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
    let parameters = json!({ "captureBeyondViewport": true, "clip": clip });
    let picture = browser.devtools("Page.captureScreenshot", parameters).await;
    let picture = BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
    assert!(picture.len() < MAX_BYTES, "{name} has {} bytes", picture.len());
    if let Some(folder) = std::env::var_os(FOLDER) {
        std::fs::write(Path::new(&folder).join(name), picture).unwrap();
    }
}
