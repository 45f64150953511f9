//! The page is for everybody: names of controls, contrast, keyboard, and narrow screens.

use fantoccini::key::Key;
use serde_json::{Value, json};

use crate::browser::{Browser, Scheme, Screen};
use crate::fixture::Fixture;
use crate::state::{good, hop};
use crate::until;

/// Marks all controls that are shown, and returns how many there are.
const CONTROLS: &str = "
    const all = document.querySelectorAll('a, button, input, select, textarea, summary, [tabindex=\"0\"]');
    const shown = [...all].filter((control) => control.checkVisibility());
    shown.forEach((control, index) => control.setAttribute('data-control', index));
    return shown.length;";

/// Returns texts with less contrast to their ground than WCAG AA asks for.
const FAINT: &str = "
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
    const pixels = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = (part) => (part <= 10 ? part / 3294 : ((part / 255 + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const ground = (element) => {
        for (let node = element; node; node = node.parentElement) {
            const found = pixels(getComputedStyle(node).backgroundColor);
            if (found[3] > 250) return found;
        }
        return [255, 255, 255];
    };
    const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    return [...document.querySelectorAll('body *')]
        .filter((element) => element.checkVisibility() && !element.matches(':disabled') && hasText(element))
        .map((element) => {
            const of = [luminance(pixels(getComputedStyle(element).color)), luminance(ground(element))];
            return [(Math.max(...of) + 0.05) / (Math.min(...of) + 0.05), element.textContent.slice(0, 40)];
        })
        .filter(([contrast]) => contrast < 4.5);";

/// Opens the page with every part in use.
async fn open(screen: Screen) -> Option<(Fixture, Browser)> {
    let browser = Browser::start(screen).await?;
    let mut state = good();
    let wait = json!([{ "dependency": "mqtt", "detail": "connection refused" }]);
    state["stages"][0]["replicas"][0]["waiting_for"] = wait;
    state["stages"][0]["replicas"][0]["ready"] = json!(false);
    let long = "gs://archive/readings/".to_owned() + &"a-long-name".repeat(30);
    state["dead_letters"]["recent"][0]["detail"] = json!(long);
    let fixture = Fixture::start(state).await;
    browser.open(&fixture.url()).await;
    browser.click("#tap-start").await;
    browser.fill("#follow-value", "abc").await;
    browser.click("#follow button").await;
    until("both streams", async || fixture.requests().len() == 2).await;
    for stage in ["ingestion", "enrich", "bigqueries", "icestore"] {
        let mut step = hop(stage, "durable", 700);
        step["destination"] = json!(long);
        step["record"] = json!({ "kind": "row", "text": long });
        fixture.sample("sample", step.clone());
        fixture.hop(step);
    }
    browser.shows("#trace-status", "Durable in").await;
    browser.shows("#samples", "icestore").await;
    browser
        .script("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        .await;
    browser.click("[data-letter=letter-2] .actions button").await;
    Some((fixture, browser))
}

/// Returns the names that a screen reader says for all controls.
async fn names(browser: &Browser) -> Vec<(String, String)> {
    let count = browser.script(CONTROLS).await.as_u64().unwrap();
    let mut names = Vec::new();
    for index in 0..count {
        let selector = format!("[data-control=\"{index}\"]");
        let control = browser.client.find(fantoccini::Locator::Css(&selector)).await.unwrap();
        let markup = control.html(false).await.unwrap().chars().take(120).collect();
        names.push((browser.name_of(control.element_id().as_ref()).await, markup));
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn every_control_has_a_name() {
    let Some((_fixture, browser)) = open(Screen::Wide).await else { return };

    let names = names(&browser).await;

    let nameless: Vec<_> = names.iter().filter(|(name, _)| name.trim().is_empty()).collect();
    assert!(names.len() > 30, "{names:#?}");
    assert!(nameless.is_empty(), "{nameless:#?}");
    assert!(
        names.iter().any(|(name, _)| name.contains("Replay now the letter of abc")),
        "{names:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_readable_in_both_schemes() {
    let Some((_fixture, browser)) = open(Screen::Wide).await else { return };

    for scheme in [Scheme::Light, Scheme::Dark] {
        browser.prefer(scheme).await;
        assert_eq!(browser.script(FAINT).await, json!([]), "{scheme:?}");
    }
    // The switch of the page takes precedence over the preference.
    let ground = "return getComputedStyle(document.documentElement).backgroundColor";
    let dark = browser.script(ground).await;
    browser.script("const theme = document.querySelector('#theme'); theme.value = 'light'; theme.dispatchEvent(new Event('change'))").await;
    let light = browser.script(ground).await;
    assert_ne!(light, dark);
    assert_eq!(browser.script(FAINT).await, json!([]));
    browser.client.refresh().await.unwrap();
    assert_eq!(browser.script(ground).await, light, "the choice is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_wider_than_the_screen() {
    for (screen, width) in [(Screen::Wide, 1280), (Screen::Narrow, 390)] {
        let Some((_fixture, browser)) = open(screen).await else { return };
        let measured =
            browser.script("return [innerWidth, document.documentElement.scrollWidth]").await;
        assert_eq!(measured, json!([width, width]));
        // Nothing is cut off at the right edge, either.
        let cut = browser
            .script(
                "return [...document.querySelectorAll('main button, main input, main .card, main h2')]
                    .filter((part) => part.checkVisibility() && part.getBoundingClientRect().right > innerWidth)
                    .map((part) => part.outerHTML.slice(0, 80))",
            )
            .await;
        assert_eq!(cut, json!([]), "{screen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_reaches_everything_and_shows_where_it_is() {
    let Some((_fixture, browser)) = open(Screen::Wide).await else { return };
    let count = browser.script(CONTROLS).await.as_u64().unwrap();
    browser.script("document.activeElement.blur(); scrollTo(0, 0)").await;

    let mut reached = Vec::new();
    for _ in 0..count * 2 {
        browser.press(Key::Tab).await;
        let at = browser
            .script(
                "const at = document.activeElement;
                 const style = getComputedStyle(at);
                 return [at.dataset.control ?? null, style.outlineStyle !== 'none' && style.outlineWidth !== '0px'];",
            )
            .await;
        reached.push(at);
    }

    for index in 0..count {
        let control = json!([index.to_string(), true]);
        let markup = browser.script(&format!("const at = document.querySelector('[data-control=\"{index}\"]'); return at.disabled ? null : at.outerHTML.slice(0, 120)")).await;
        assert!(markup == Value::Null || reached.contains(&control), "{markup} is not reached");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_reader_hears_changes_and_no_figures() {
    let Some((fixture, browser)) = open(Screen::Wide).await else { return };
    browser
        .script(
            "window.heard = [];
             const note = (changes) => window.heard.push(...changes.map((change) => change.target.textContent));
             for (const region of document.querySelectorAll('[role=status], [role=alert], [aria-live]')) {
                 new MutationObserver(note).observe(region, { childList: true, characterData: true, subtree: true });
             }",
        )
        .await;

    for viewers in 100..105 {
        fixture.change(|state| {
            state["viewers"] = json!(viewers);
            state["stages"][0]["received_per_second"] = json!(viewers);
        });
        browser.shows("#facts", &format!("{viewers} viewers")).await;
    }
    assert_eq!(browser.script("return window.heard").await, json!([]));

    fixture.change(|state| *state = good());
    browser.shows("#headline", "All 4 services are ready").await;
    assert_eq!(browser.script("return window.heard").await, json!(["All 4 services are ready"]));
}
