//! The timeline's page in a browser: where things are, and whether anything is there.

use std::collections::BTreeSet;

use serde_json::json;

use crate::browser::Browser;
use crate::lab::in_checkout;
use crate::png::Picture;

/// The window that the page is looked at in, pixels.
pub const SIZE: (u32, u32) = (1500, 1000);

/// Where things are in the window.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// its left edge in the window, pixels
    pub left: f64,
    /// pixels
    pub width: f64,
    /// guest time at its left edge, ns
    pub from: f64,
    /// guest time at its right edge
    pub to: f64,
}

impl Field {
    /// As it is drawn now.
    pub fn of(browser: &mut Browser) -> Self {
        // What was done is drawn with the next frame.
        browser.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))",
        );
        let rectangle = "document.getElementById('field').getBoundingClientRect()";
        Self {
            left: browser.number(&format!("{rectangle}.left")),
            width: browser.number(&format!("{rectangle}.width")),
            from: browser.number("document.getElementById('chart').dataset.from"),
            to: browser.number("document.getElementById('chart').dataset.to"),
        }
    }

    /// Guest time in view, ns.
    pub fn span(&self) -> f64 {
        self.to - self.from
    }

    /// Where in the window a time is.
    pub fn x(&self, time: f64) -> f64 {
        self.left + (time - self.from) / self.span() * self.width
    }

    /// The time at a place of the window.
    pub fn time(&self, x: f64) -> f64 {
        self.from + (x - self.left) / self.width * self.span()
    }
}

/// The middle and the height of a lane.
pub fn lane(browser: &mut Browser, name: &str) -> (f64, f64) {
    let row = format!(
        "[...document.querySelectorAll('#gutter div')].find((row) => row.children[1]?.textContent === {})\
         .getBoundingClientRect()",
        json!(name)
    );
    let height = browser.number(&format!("{row}.height"));
    (browser.number(&format!("{row}.top")) + height / 2.0, height)
}

/// The command that is shown.
pub fn command(browser: &mut Browser) -> String {
    browser.text("document.getElementById('command').textContent")
}

/// Saves a screenshot for people, and gives its pixels.
pub fn seen(browser: &mut Browser, name: &str) -> Picture {
    let png = browser.screenshot();
    let folder = in_checkout("target/tests");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("timeline-{name}.png")), &png).unwrap();
    let picture = Picture::decode(&png);
    assert_eq!((picture.width, picture.height), (SIZE.0 as usize, SIZE.1 as usize));
    picture
}

/// Expects something drawn in every lane, and colours of its own in each.
#[allow(clippy::cast_possible_truncation, reason = "pixels")]
pub fn is_drawn(browser: &mut Browser, picture: &Picture) {
    let field = Field::of(browser);
    let count = browser.number("document.querySelectorAll('#gutter div').length");
    let lanes = browser.text("document.getElementById('chart').dataset.lanes");
    assert_eq!(count as usize, lanes.split(' ').count() + 1);
    let mut all = BTreeSet::new();
    let names = browser
        .evaluate("[...document.querySelectorAll('#gutter div span')].map((name) => name.textContent)");
    for name in names.as_array().unwrap() {
        let (middle, height) = lane(browser, name.as_str().unwrap());
        let mut colours = BTreeSet::new();
        for y in (middle - height / 2.0 + 3.0) as usize..(middle + height / 2.0 - 5.0) as usize {
            for x in field.left as usize + 1..(field.left + field.width) as usize - 1 {
                colours.insert(picture.pixel(x, y));
            }
        }
        // Background, ticks, line, and what the lane is about.
        assert!(colours.len() >= 4, "{name}: {colours:?}");
        all.extend(colours);
    }
    assert!(all.len() >= 100, "{} colours", all.len());
}
